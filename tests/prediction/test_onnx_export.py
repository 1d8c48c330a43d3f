"""The exported network answers as the trained one, for all that the settings allow."""

import io

import keras
import numpy as np
import onnx
import openvino
import pytest
from conftest import refused

from config import load_settings
from prediction import network as network_module
from prediction.network import load_network
from prediction.onnx_export import export_network
from training.stored_weights import read_weights
from training.weights import load_weights, save_weights
from unet import build_unet

NETWORKS = {
    "as it is": [],
    "one level": ["unet.levels=1"],
    "neighbours": ["unet.neighbours=2"],
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
    content = export_network(read_weights(weights), settings.unet, "origin", weights)
    onnx.checker.check_model(onnx.load_from_string(content), full_check=True)
    channels = 2 * settings.unet.neighbours + 1
    images = np.random.default_rng(1).normal(0, 1, (3, *sides, channels)).astype(np.float32)
    wanted = np.asarray(model(images, training=False))[..., 0]
    core = openvino.Core()
    options = {"INFERENCE_PRECISION_HINT": "f32"}
    compiled = core.compile_model(core.read_model(io.BytesIO(content)), "CPU", options)
    found = compiled(images.transpose(0, 3, 1, 2))[0][:, 0]
    assert np.ptp(wanted) > 0.01
    np.testing.assert_allclose(found, wanted, atol=1e-5)


def test_the_same_weights_give_the_same_bytes(tmp_path):
    _, settings, weights = draw_weights(tmp_path, [])
    one, other = (
        export_network(read_weights(weights), settings.unet, "origin", weights) for _ in range(2)
    )
    assert one == other
    assert export_network(read_weights(weights), settings.unet, "another", weights) != one


@pytest.mark.parametrize(
    "change",
    [
        "unet.filters=5",
        "unet.levels=3",
        "unet.neighbours=1",
        "unet.batch_normalisation=false",
        "unet.instance_normalisation=true",
        "unet.deep_supervision=true",
    ],
)
def test_weights_of_another_network_are_refused_as_keras_would_refuse_them(change, tmp_path):
    _, _, weights = draw_weights(tmp_path, ["unet.levels=4"])
    settings = load_settings(None, ["unet.filters=4", "unet.levels=4", change])
    with refused(weights, "layer"):
        export_network(read_weights(weights), settings.unet, "origin", weights)
    with refused(weights, "layer"):
        load_weights(build_unet(**settings.unet.model_dump()), weights)


def test_the_model_is_kept_beside_the_weights_and_made_anew_when_they_change(tmp_path, monkeypatch):
    _, _, weights = draw_weights(tmp_path, [])
    first = load_network(weights)
    kept = tmp_path / "best.onnx"
    before = kept.read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(network_module, "export_network", None)
        again = load_network(weights)
    images = np.random.default_rng(0).normal(0, 1, (4, 1, 32, 32)).astype(np.float32)
    np.testing.assert_array_equal(first.run(images), again.run(images))
    keras.utils.set_random_seed(1)
    draw_weights(tmp_path, [])
    arrays = read_weights(weights)
    model = build_unet(**load_settings(None, ["unet.filters=4", "unet.levels=2"]).unet.model_dump())
    for layer in model.layers:
        if layer.weights:
            layer.set_weights([array * 1.1 for array in arrays[layer.name]])
    save_weights(model, weights)
    assert np.abs(load_network(weights).run(images) - first.run(images)).max() > 1e-4
    assert kept.read_bytes() != before


def test_a_file_of_the_users_is_not_replaced_and_none_is_needed(tmp_path):
    _, _, weights = draw_weights(tmp_path, [])
    (tmp_path / "best.onnx").write_bytes(b"a network of my own")
    assert load_network(weights).run(np.zeros((4, 1, 16, 16), np.float32)).shape == (4, 16, 16)
    assert (tmp_path / "best.onnx").read_bytes() == b"a network of my own"


def test_a_model_cut_short_is_made_anew(tmp_path):
    _, _, weights = draw_weights(tmp_path, [])
    load_network(weights)
    kept = tmp_path / "best.onnx"
    whole = kept.read_bytes()
    kept.write_bytes(whole[: len(whole) // 2])
    load_network(weights)
    assert kept.read_bytes() == whole
