"""What the network is asked on a scan is what it was trained on, whatever the scan's grid."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import keras
import numpy as np
import pytest
from conftest import LPS, OBLIQUE, RAS, SKIP, draw_head, refused, write_nifti
from nibabel.affines import from_matvec

from config import Geometry, load_settings
from prediction.inference import predict_probability, square_size
from prediction.network import BATCH, Network, load_network, load_networks
from prediction.operating_point import PLAIN, mask_of
from scans.intensity import standardise
from scans.manifest import load_manifest
from scans.reader import SliceReader
from scans.volumes import Volume, load_volume, volume_to_slices
from training.weights import load_weights, save_weights
from unet import build_unet

THICK = from_matvec(np.diag([0.8, 0.8, 3]), (-11, -13, -20))
GRIDS = {
    "RAS": ((28, 32, 20), RAS),
    "LPS": ((28, 32, 20), LPS),
    "oblique": ((28, 32, 20), OBLIQUE),
    "small": ((9, 11, 3), RAS),
    "larger than the square": ((51, 37, 5), RAS),
    "odd": ((27, 31, 17), LPS),
}


@pytest.fixture(scope="module")
def run_folder(tiny_overrides, tmp_path_factory):
    """A run's settings and weights, as far as prediction needs them; drawn, not trained."""
    folder = tmp_path_factory.mktemp("runs")
    settings = load_settings(None, tiny_overrides[1::2])
    settings.save(folder / "config.yaml")
    keras.utils.set_random_seed(0)
    save_weights(build_unet(**settings.unet.model_dump()), folder / "best.weights.h5")
    return folder


@pytest.fixture(scope="module")
def network(run_folder):
    return load_network(run_folder / "best.weights.h5")


def answer_of_keras(network, images):
    """Probabilities, (B, H, W), by the model that is trained, of images (B, H, W, C)."""
    model = build_unet(**network.settings.unet.model_dump())
    load_weights(model, network.weights)
    return np.asarray(model(images, training=False))[..., 0]


def showing_its_input(size=32, answer=lambda images: images, downsampling=1):
    """A network whose probability is the image that it is given."""
    unet = SimpleNamespace(neighbours=0, downsampling=downsampling)
    own_grid = Geometry(align="none", brain="keep")
    settings = SimpleNamespace(slices=SimpleNamespace(size=size), unet=unet, geometry=own_grid)
    return Network(lambda images: answer(images)[:, 0], settings, Path("none"))


def showing_its_square(size, downsampling=1):
    """A network whose probability is the side of the square that it is given."""
    return showing_its_input(
        size, lambda images: np.full_like(images, images.shape[-1]), downsampling
    )


def volume_of(folder, voxels, affine):
    return load_volume(write_nifti(folder / "scan.nii", voxels, affine))


def head(shape, seed=0):
    return draw_head(np.random.default_rng(seed), shape, lesion_contrast=0.4, background=5)[0]


@pytest.mark.parametrize("grid", GRIDS)
def test_every_voxel_gets_the_probability_of_its_own_place(grid, tmp_path):
    shape, affine = GRIDS[grid]
    volume = volume_of(tmp_path, head(shape), affine)
    found = predict_probability([showing_its_input()], volume)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, standardise(*volume.scaled))


def test_the_network_sees_what_preparation_stored(network, prepared):
    rows = load_manifest(prepared, "atlas")
    rows = rows[rows.subject == "sub-r001s003"].reset_index(drop=True)  # the oblique one
    reader = SliceReader(prepared, rows)
    images = [reader.standardise(row, reader.read(row)[0]) for row in range(len(rows))]
    wanted = answer_of_keras(network, np.stack(images)[..., None])
    facts = json.loads((prepared / "atlas" / "sub-r001s003_1.json").read_text())
    found = predict_probability([network], load_volume(facts["made_from"]["image"]))
    found = volume_to_slices(found, 32)[SKIP:-SKIP]
    inside = found != 0
    assert inside.mean() > 0.5
    np.testing.assert_allclose(found[inside], wanted[inside], atol=2e-4)


def test_a_network_of_several_channels_sees_what_preparation_stored(
    tiny_overrides, prepared, tmp_path
):
    settings = load_settings(None, [*tiny_overrides[1::2], "unet.neighbours=1"])
    settings.save(tmp_path / "config.yaml")
    keras.utils.set_random_seed(0)
    save_weights(build_unet(**settings.unet.model_dump()), tmp_path / "best.weights.h5")
    network = load_network(tmp_path / "best.weights.h5")
    rows = load_manifest(prepared, "atlas")
    rows = rows[rows.subject == "sub-r002s002"].reset_index(drop=True)
    reader = SliceReader(prepared, rows, neighbours=1)
    images = [reader.standardise(row, reader.read_channels(row)[0]) for row in range(len(rows))]
    wanted = answer_of_keras(network, np.stack(images))
    facts = json.loads((prepared / "atlas" / "sub-r002s002_1.json").read_text())
    found = predict_probability([network], load_volume(facts["made_from"]["image"]))
    found = volume_to_slices(found, 32)[SKIP:-SKIP]
    # The stored stack has no neighbours beyond its ends.
    inside = (found != 0) & (np.arange(len(found)) % (len(found) - 1) > 0)[:, None, None]
    assert inside.mean() > 0.5
    np.testing.assert_allclose(found[inside], wanted[inside], atol=2e-4)


def test_slices_at_both_ends_are_predicted_too(tmp_path):
    volume = volume_of(tmp_path, head((28, 32, 20)), RAS)
    ones = showing_its_input(answer=lambda images: images * 0 + 1)
    assert (predict_probability([ones], volume) == 1).all()


def test_voxels_of_another_size_are_seen_at_1_mm_and_brought_back_in_place(tmp_path):
    # A smooth head: what is left of it after going there and back tells whether it moved.
    across, along, up = np.indices((40, 44, 14)) * np.array([0.8, 0.8, 3])[:, None, None, None]
    voxels = (1000 + 10 * across + 7 * along + 3 * up).astype(np.float32)
    volume = volume_of(tmp_path, voxels, THICK)
    np.testing.assert_allclose(predict_probability([showing_its_square(48)], volume), 48)
    found = predict_probability([showing_its_input(48)], volume)
    assert found.shape == voxels.shape
    wanted = standardise(*volume.scaled)
    inner = (slice(2, -2), slice(2, -2), slice(1, -1))
    # One grey level of 254 is about 0.015; a shift by one voxel is more.
    scale = np.polyfit(wanted[inner].ravel(), found[inner].ravel(), 1)
    np.testing.assert_allclose(np.polyval(scale, wanted[inner]), found[inner], atol=0.02)


def test_a_head_of_0_5_mm_voxels_fits_the_square_of_1_mm(tmp_path):
    volume = volume_of(tmp_path, head((56, 60, 8)), from_matvec(np.eye(3) / 2, (0, 0, 0)))
    np.testing.assert_allclose(predict_probability([showing_its_square(32)], volume), 32)


def test_a_downsampled_network_gets_a_square_that_it_can_halve_as_often(tmp_path):
    volume = volume_of(tmp_path, head((40, 36, 5)), RAS)
    found = predict_probability([showing_its_square(32, downsampling=4)], volume)
    np.testing.assert_allclose(found, 128)


def test_a_flipped_average_does_not_know_left_from_right(network, tmp_path):
    voxels = head((28, 32, 6))
    voxels += voxels[::-1]
    volume = volume_of(tmp_path, voxels, RAS)
    plain = predict_probability([network], volume)
    flipped = predict_probability([network], volume, flip=True)
    assert np.abs(plain - plain[::-1]).max() > 1e-4
    np.testing.assert_allclose(flipped, flipped[::-1], atol=1e-6)
    np.testing.assert_allclose(flipped, (plain + plain[::-1]) / 2, atol=1e-6)


def test_several_networks_are_averaged(tmp_path):
    volume = volume_of(tmp_path, head((28, 32, 4)), RAS)
    constant = [showing_its_input(answer=lambda x, p=p: x * 0 + p) for p in (0.25, 0.5, 0.75, 1)]
    np.testing.assert_allclose(predict_probability(constant, volume), 0.625)


def test_networks_that_see_scans_in_different_ways_are_not_averaged(tmp_path):
    volume = volume_of(tmp_path, head((28, 32, 4)), RAS)
    networks = [replace(showing_its_input(), weights=tmp_path / name) for name in ("a", "b")]
    networks[1].settings.geometry = Geometry(align="template", brain="keep")
    with refused(tmp_path / "a", tmp_path / "b", "geometry.align", "cannot be averaged"):
        predict_probability(networks, volume)


def test_scans_of_any_depth_are_given_in_batches_of_one_shape(tmp_path):
    shapes = set()
    network = showing_its_input(answer=lambda images: shapes.add(images.shape) or images)
    for depth in (3, 20, 33):
        predict_probability([network], volume_of(tmp_path, head((28, 32, depth)), RAS))
    assert shapes == {(BATCH, 1, 32, 32)}


@pytest.mark.parametrize("millimetres", [0.01, 100])
def test_a_header_of_a_flea_or_an_elephant_is_refused_with_the_size(millimetres, tmp_path):
    affine = from_matvec(np.eye(3) * millimetres, (0, 0, 0))
    volume = volume_of(tmp_path, head((28, 32, 20)), affine)
    with refused(f"{32 * millimetres:g}", "mm"):
        predict_probability([showing_its_input()], volume)


def test_what_is_above_the_threshold_and_large_enough_is_lesion():
    probability = np.zeros((6, 6, 6), np.float32)
    probability[0, 0, :2] = 0.9
    probability[1, 1, 2] = 0.9  # touches by an edge: a lesion of its own
    probability[4, 4, :3] = 0.5
    volume = Volume(probability, np.eye(4), None)
    assert mask_of(probability, 0.5, PLAIN, volume, None).sum() == 3
    mask = mask_of(probability, 0.4, PLAIN | {"smallest_ml": 0.003}, volume, None)
    assert mask.dtype == np.uint8
    np.testing.assert_array_equal(mask, probability == 0.5)


def test_the_networks_of_several_runs_are_loaded_in_order(run_folder, tmp_path):
    for name in ("config.yaml", "best.weights.h5"):
        shutil.copy(run_folder / name, tmp_path)
    files = [run_folder / "best.weights.h5", tmp_path / "best.weights.h5"]
    networks = load_networks(files)
    assert [network.weights for network in networks] == files
    assert all(isinstance(network, Network) for network in networks)


def test_weights_without_their_settings_are_refused_by_name(run_folder, tmp_path):
    weights = shutil.copy(run_folder / "best.weights.h5", tmp_path)
    with refused(tmp_path / "config.yaml", "copy it from the run"):
        load_network(weights)


def test_weights_of_another_network_are_refused_by_name(run_folder, tmp_path):
    weights = shutil.copy(run_folder / "best.weights.h5", tmp_path)
    settings = (run_folder / "config.yaml").read_text("utf-8")
    (tmp_path / "config.yaml").write_text(settings.replace("filters: 2", "filters: 3"), "utf-8")
    with refused(weights, "encoder_1_conv_1"):
        load_network(weights)


def test_settings_that_are_no_longer_known_are_refused_with_their_file(run_folder, tmp_path):
    weights = shutil.copy(run_folder / "best.weights.h5", tmp_path)
    (tmp_path / "config.yaml").write_text("unet: {depth: 5}\n", "utf-8")
    with refused(tmp_path / "config.yaml", "unet.depth"):
        load_network(weights)


def test_missing_weights_are_refused_by_name(tmp_path):
    with refused(tmp_path / "best.weights.h5", "not found"):
        load_network(tmp_path / "best.weights.h5")


@pytest.mark.parametrize(
    "shape, downsampling, side",
    [
        ((197, 233, 189), 1, 240),
        ((240, 240, 155), 2, 240),
        ((241, 200, 9), 1, 256),
        ((257, 200, 9), 1, 288),
        ((257, 200, 9), 2, 320),
    ],
)
def test_a_scan_that_fits_is_predicted_on_the_square_of_the_training(shape, downsampling, side):
    assert square_size(shape, 240, downsampling) == side
