"""The exported network answers as the trained one, for all that the settings allow."""

import numpy as np
import onnx
import pytest
from conftest import refused

from config import load_settings
from prediction.network import run_by_openvino
from prediction.onnx_export import export_network
from training.stored_weights import read_weights
from training.weights import load_weights, save_weights
from unet import build_unet

NETWORKS = {
    "as it is": [],
    "one level": ["unet.levels=1"],
    "neighbours": ["unet.neighbours=2"],
    "downsampling": ["unet.downsampling=4"],
    "coarser, supervised": ["unet.downsampling=2", "unet.deep_supervision=true", "unet.levels=3"],
    "no normalisation": ["unet.batch_normalisation=false"],
    "instance normalisation": ["unet.instance_normalisation=true"],
    "deep supervision": ["unet.deep_supervision=true", "unet.levels=3"],
}


def draw_weights(folder, changes):
    """Save a network whose weights, and moments, are all drawn, in a run folder of its own."""
    settings = load_settings(None, ["unet.filters=4", "unet.levels=2", *changes])
    settings.save(folder / "config.yaml")
    model = build_unet(**settings.unet.model_dump())
    rng = np.random.default_rng(0)
    for layer in model.layers:
        if layer.weights:
            layer.set_weights(
                [
                    rng.uniform(0.5, 2, w.shape)
                    if "variance" in w.path
                    else rng.normal(0, np.sqrt(1.5 / np.prod(w.shape[:-1] or 8)), w.shape)
                    for w in layer.weights
                ]
            )
    save_weights(model, folder / "best.weights.h5")
    return model, settings, folder / "best.weights.h5"


@pytest.mark.parametrize("changes", NETWORKS.values(), ids=NETWORKS)
@pytest.mark.parametrize("sides", [(32, 48), (64, 64)])
def test_the_exported_network_answers_as_the_trained_one(changes, sides, tmp_path):
    model, settings, weights = draw_weights(tmp_path, changes)
    content = export_network(read_weights(weights), settings.unet, weights)
    onnx.checker.check_model(onnx.load_from_string(content), full_check=True)
    channels = 2 * settings.unet.neighbours + 1
    images = np.random.default_rng(1).normal(0, 1, (3, *sides, channels)).astype(np.float32)
    wanted = np.asarray(model(images, training=False))[..., 0]
    found = run_by_openvino(content)(images.transpose(0, 3, 1, 2))
    assert np.ptp(wanted) > 0.01
    np.testing.assert_allclose(found, wanted, atol=1e-5)


def test_the_same_weights_give_the_same_bytes(tmp_path):
    _, settings, weights = draw_weights(tmp_path, [])
    one, other = (export_network(read_weights(weights), settings.unet, weights) for _ in range(2))
    assert one == other


@pytest.mark.parametrize(
    "change",
    [
        "unet.filters=5",
        "unet.levels=3",
        "unet.neighbours=1",
        "unet.batch_normalisation=false",
        "unet.instance_normalisation=true",
        "unet.deep_supervision=true",
        "unet.downsampling=2",
    ],
)
def test_weights_of_another_network_are_refused_as_keras_would_refuse_them(change, tmp_path):
    _, _, weights = draw_weights(tmp_path, ["unet.levels=4"])
    settings = load_settings(None, ["slices.size=256", "unet.filters=4", "unet.levels=4", change])
    with refused(weights, "layer"):
        export_network(read_weights(weights), settings.unet, weights)
    with refused(weights, "layer"):
        load_weights(build_unet(**settings.unet.model_dump()), weights)
