"""A trained network, asked for the probability of lesion in slices by OpenVINO."""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from io import BytesIO
from pathlib import Path

import numpy as np

from config import Settings, load_run_settings
from prediction.onnx_export import export_network
from scans.intensity import standardise
from training.stored_weights import read_weights

# As if it were not installed: it tells Google Analytics of every start.
sys.modules["openvino_telemetry"] = None
import openvino  # noqa: E402

BATCH = 4
# Float32 as in training: it would take a smaller type where the processor has one.
OPTIONS = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32"}


@dataclass(frozen=True)
class Network:
    """A trained network, with the settings and the file of its weights.

    `run` goes from images, float32 (B, C, H, W), to their probability of lesion, (B, H, W).
    """

    run: Callable
    settings: Settings
    weights: Path

    def predict(self, images, mean, std):
        """Predict the probability of 8-bit slices, (Z, H, W), in batches of one shape."""
        neighbours = self.settings.unet.neighbours
        offsets = np.arange(-neighbours, neighbours + 1)
        probability = np.empty(images.shape, np.float32)
        for start in range(0, len(images), BATCH):
            # The last batch is filled up with the last slice: for another shape the network would
            # be compiled again.
            rows = np.arange(start, start + BATCH)[:, None] + offsets
            batch = images[np.clip(rows, 0, len(images) - 1)]  # (B, C, H, W)
            found = self.run(standardise(batch, mean, std))
            probability[start : start + BATCH] = found[: len(images) - start]
        return probability


def run_by_openvino(model):
    """Return the function that runs an ONNX model, compiled for the last shape of a batch."""
    core = openvino.Core()

    @lru_cache(maxsize=1)
    def compiled(shape):
        sized = core.read_model(BytesIO(model))
        sized.reshape(shape)
        return core.compile_model(sized, "CPU", OPTIONS)

    return lambda images: compiled(images.shape)(images)[0][:, 0]


def load_network(weights):
    """Load the network of a run, by the ``config.yaml`` beside its weights.

    Raises
    ------
    InputError
        If weights or settings are missing, or do not fit each other; names the file and the layer.
    """
    weights = Path(weights)
    settings = load_run_settings(weights)
    model = export_network(read_weights(weights), settings.unet, weights)
    return Network(run_by_openvino(model), settings, weights)


def load_networks(files):
    """Load the network of each weights file."""
    return [load_network(file) for file in files]
