"""A trained network, asked for the probability of lesion in slices. Imports Keras."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import keras
import numpy as np

from config import Settings, load_run_settings
from scans.intensity import standardise
from training.weights import load_weights
from unet import build_unet

if keras.backend.backend() == "tensorflow":
    from prediction.tensorflow_graph import compile_model

BATCH = 16


@dataclass(frozen=True)
class Network:
    """A trained network, and the settings and file of its weights."""

    model: keras.Model
    settings: Settings
    weights: Path

    @cached_property
    def compiled(self):
        """The function from a batch to its answers that is quickest on the backend."""
        if keras.backend.backend() == "tensorflow":
            channels = 2 * self.settings.unet.neighbours + 1
            return compile_model(self.model, BATCH, channels)
        return self.model.predict_on_batch

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
            batch = np.ascontiguousarray(np.moveaxis(batch, 1, -1))  # (B, H, W, C)
            found = self.compiled(standardise(batch, mean, std))[..., 0]
            probability[start : start + BATCH] = found[: len(images) - start]
        return probability


def load_network(weights):
    """Build the network of a run from the ``config.yaml`` beside its weights, and load them.

    Raises
    ------
    InputError
        If weights or settings are missing, or do not fit each other; names the file and the layer.
    """
    weights = Path(weights)
    settings = load_run_settings(weights)
    model = build_unet(**settings.unet.model_dump())
    load_weights(model, weights)
    return Network(model, settings, weights)
