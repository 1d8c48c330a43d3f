"""Weight files: whole, by name, and refused by name where they do not fit."""

import resource

import h5py
import keras
import numpy as np
import pytest
from conftest import refused

from training.weights import load_weights, read_weights, save_weights
from unet import build_unet


def network(filters=2, seed=0, **changes):
    keras.utils.set_random_seed(seed)
    options = {
        "levels": 4,
        "dropout": 0.2,
        "batch_normalisation": True,
        "instance_normalisation": False,
        "deep_supervision": False,
        "foreground_prior": 0.5,
        "neighbours": 0,
        "downsampling": 1,
    }
    return build_unet(filters, **(options | changes))


@pytest.fixture
def saved(tmp_path):
    """A file with the weights of `network(seed=1)`."""
    path = tmp_path / "best.weights.h5"
    save_weights(network(seed=1), path)
    return path


def test_loaded_weights_are_exactly_the_saved_ones(saved):
    model = network(seed=2)
    load_weights(model, saved)
    for ours, theirs in zip(model.get_weights(), network(seed=1).get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_weights_to_hand_on_carry_no_optimizer(tmp_path):
    model = network(levels=2)
    model.compile(optimizer="adam", loss="mse")
    model.fit(np.zeros((1, 16, 16, 1)), np.zeros((1, 16, 16, 1)), verbose=0)
    for optimizer in (False, True):
        path = tmp_path / f"{optimizer}.weights.h5"
        save_weights(model, path, optimizer=optimizer)
        with h5py.File(path) as file:
            assert ("optimizer" in file and len(file["optimizer/vars"]) > 0) == optimizer


@pytest.mark.parametrize(
    ("other", "named"),
    [
        ({"filters": 4}, ["encoder_1_conv_1", "(3, 3, 1, 2)", "(3, 3, 1, 4)"]),
        ({"neighbours": 1}, ["encoder_1_conv_1", "(3, 3, 1, 2)", "(3, 3, 3, 2)"]),
        ({"batch_normalisation": False}, ["encoder_1_conv_1"]),
        ({"instance_normalisation": True}, ["encoder_1_norm_1"]),
        ({"deep_supervision": True}, ["decoder_2_head"]),
        ({"levels": 3}, ["bottleneck_conv_1"]),
        ({"downsampling": 2}, ["head", "(1, 1, 2, 1)", "(2, 2, 1, 2)"]),
    ],
)
def test_weights_of_another_network_are_refused_by_name_and_nothing_is_loaded(saved, other, named):
    model = network(seed=2, **other)
    before = model.get_weights()
    with refused(saved, *named):
        load_weights(model, saved)
    for old, new in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


@pytest.mark.parametrize(
    ("other", "named"),
    [
        ({"instance_normalisation": True}, "encoder_1_norm_1"),
        ({"deep_supervision": True}, "is not in the network"),
        ({"levels": 5}, "bottleneck_conv_1"),
    ],
)
def test_the_plain_network_refuses_weights_of_one_that_has_more(tmp_path, other, named):
    path = tmp_path / "best.weights.h5"
    save_weights(network(**other), path)
    with refused(path, named):
        load_weights(network(), path)


def test_a_renamed_layer_is_refused_though_all_shapes_fit(saved):
    with h5py.File(saved, "r+") as file:
        names = {group["vars"].attrs["name"]: group["vars"] for group in file["layers"].values()}
        names["encoder_2_conv_2"].attrs["name"] = "renamed"
    with refused("encoder_2_conv_2"):
        load_weights(network(), saved)


def test_swapped_layers_are_loaded_by_name_not_by_order(saved):
    with h5py.File(saved, "r+") as file:
        names = {group["vars"].attrs["name"]: group["vars"] for group in file["layers"].values()}
        # Both are 3×3×128→128·filters/8 in shape, so only the name tells them apart.
        one, other = names["encoder_1_norm_1"], names["encoder_1_norm_2"]
        one[str(0)][...] = 7.0
        one.attrs["name"], other.attrs["name"] = "encoder_1_norm_2", "encoder_1_norm_1"
    model = network()
    load_weights(model, saved)
    assert (model.get_layer("encoder_1_norm_2").get_weights()[0] == 7).all()
    assert not (model.get_layer("encoder_1_norm_1").get_weights()[0] == 7).any()


@pytest.mark.parametrize("content", [b"", b"not weights", None])
def test_a_file_that_is_no_weights_file_is_refused_in_one_line(tmp_path, saved, content):
    path = tmp_path / "broken.weights.h5"
    path.write_bytes(saved.read_bytes()[:3000] if content is None else content)
    with refused(path):
        read_weights(path)


def test_missing_weights_are_refused_by_name(tmp_path):
    with refused(tmp_path / "none.weights.h5", "not found"):
        load_weights(network(), tmp_path / "none.weights.h5")


@pytest.mark.parametrize("bytes_left", [0, 1000, 5000])
def test_a_full_disk_keeps_the_good_file(saved, bytes_left):
    """A real limit, for HDF5 did not survive it: it took the whole process down."""
    good = saved.read_bytes()
    model = network(seed=3)
    unlimited = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (bytes_left, unlimited[1]))
    try:
        with refused(saved, "cannot be written", "File too large", "the same command goes on"):
            save_weights(model, saved)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, unlimited)
    assert saved.read_bytes() == good
    assert [path.name for path in saved.parent.iterdir()] == [saved.name]
