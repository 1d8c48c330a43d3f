"""JAX and PyTorch, each with nothing but itself: the same scripts, weights and results."""

import csv
import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import nibabel
import numpy as np
import pytest
from conftest import history, refused
from on_backend import STEPS, losses_of, probability_of

import train_model
from prediction.inference import predict_probability
from prediction.network import load_networks
from scans.volumes import load_volume
from system.console import BACKENDS
from training.weights import read_weights

ROOT = Path(__file__).parents[2]
OTHERS = [backend for backend in BACKENDS if backend != "tensorflow"]

pytestmark = [pytest.mark.usefixtures("compiled_once"), pytest.mark.slow]


def start(backend, *words):
    return subprocess.Popen(
        [sys.executable, *map(str, words)],
        env=os.environ | {"KERAS_BACKEND": backend, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )


def missing_beside(backend):
    return ",".join(other for other in BACKENDS if other != backend)


@pytest.fixture(scope="module")
def scan(tiny_trees):
    return next(tiny_trees.atlas.rglob("sub-r001s003*_T1w.nii.gz"))


@pytest.fixture(scope="module", params=OTHERS)
def elsewhere(request, tiny_overrides, weights, scan, tmp_path_factory):
    """What prep, train, predict and evaluate printed and made where no other framework is."""
    backend, folder = request.param, tmp_path_factory.mktemp(request.param)
    values = [*tiny_overrides[1::2], f"paths.prepared={folder / 'prepared'}"]
    values.append(f"paths.runs={folder / 'runs'}")
    settings = [word for value in values for word in ("--set", value)]
    trained = folder / "runs" / "train" / "best.weights.h5"
    scripts = [
        ("prep", settings),
        ("train_model", settings),
        ("predict", [str(scan), "--weights", str(trained), "--output", str(folder / "masks")]),
        ("evaluate", settings),
    ]
    task = {"scripts": scripts, "trained": str(trained), "scan": str(scan), "settings": values}
    results = folder / "results.npz"
    program = ROOT / "tests" / "on_backend.py"
    process = start(backend, program, missing_beside(backend), results, weights, json.dumps(task))
    out, error = process.communicate(timeout=600)
    assert process.returncode == 0, error
    return SimpleNamespace(
        backend=backend,
        folder=folder,
        trained=trained,
        values=values,
        printed=out,
        results=np.load(results),
    )


def test_all_scripts_run_where_no_other_framework_is(elsewhere):
    name = {"jax": "JAX", "torch": "PyTorch"}[elsewhere.backend]
    assert f"{name} " in elsewhere.printed
    epochs = history(elsewhere.trained.parent)
    assert epochs[-1]["loss"] < epochs[0]["loss"]
    (mask,) = (elsewhere.folder / "masks").rglob("*_mask.nii.gz")
    assert nibabel.load(mask).get_fdata().any()
    with next(elsewhere.folder.rglob("metrics.csv")).open() as file:
        assert len(list(csv.DictReader(file))) >= 2
    facts = json.loads((elsewhere.trained.parent / "run.json").read_text())
    assert {"keras", elsewhere.backend} < set(facts["versions"])
    assert "tensorflow" not in facts["versions"]


def test_the_same_weights_give_the_same_losses(elsewhere, weights):
    losses = losses_of(weights, elsewhere.values)
    assert len(losses) == STEPS
    assert np.diff(losses).all()  # each step counts
    np.testing.assert_allclose(elsewhere.results["losses"], losses, atol=1e-3)


@pytest.mark.parametrize("drawn", [True, False], ids=["drawn by TensorFlow", "trained elsewhere"])
def test_weights_are_read_and_the_same_probabilities_found(elsewhere, weights, scan, drawn):
    file, name = (weights, "probability") if drawn else (elsewhere.trained, "trained")
    found = probability_of(file, scan)
    assert np.ptp(found) > 0.01
    np.testing.assert_allclose(elsewhere.results[name], found, atol=1e-5)
    exported = predict_probability(load_networks([file]), load_volume(scan), flip=True)
    np.testing.assert_allclose(exported, found, atol=1e-5)


@pytest.mark.parametrize("number", [0, 1, 2])
def test_batches_of_the_device_are_those_of_the_host_to_a_grey_level(elsewhere, number):
    found = {
        place: [elsewhere.results[f"{place}_{kind}_{number}"] for kind in ("images", "masks")]
        for place in ("host", "device")
    }
    (images, masks), (own_images, own_masks) = found["host"], found["device"]
    assert own_images.shape == images.shape and own_images.shape[-1] == 3
    assert own_images.dtype == own_masks.dtype == np.float32
    assert set(np.unique(own_masks)) <= {0, 1}
    if number == 2:  # validation is not augmented
        np.testing.assert_array_equal(own_images, images)
        np.testing.assert_array_equal(own_masks, masks)
    # A grey level is about 0.01; where a pixel lies on the edge between two, either is right.
    assert np.abs(own_images - images).max() < 0.05
    assert np.mean(own_images != images) < 0.01
    assert np.mean(own_masks != masks) < 0.001
    assert masks.any()


def test_a_run_goes_on_on_its_own_backend_alone(elsewhere):
    words = [word for value in elsewhere.values for word in ("--set", value)]
    with refused("another backend", "--restart"):
        train_model.main(words)


@pytest.mark.parametrize("place", ["host", "device"])
@pytest.mark.parametrize("backend", OTHERS)
def test_a_run_that_is_killed_ends_with_the_same_weights(
    backend, place, tiny_overrides, prepared, tmp_path
):
    def train(name, until=None):
        changes = [f"paths.prepared={prepared}", f"paths.runs={tmp_path / name}"]
        changes += ["train.augmentation=true", "unet.dropout=0.3", "train.weight_average=0.5"]
        changes.append(f"hardware.data={place}")
        words = [word for change in changes for word in ("--set", change)]
        process = start(backend, "-u", ROOT / "train_model.py", *tiny_overrides, *words)
        if until:
            assert any(line.startswith(until) for line in process.stdout)
            process.kill()
        _, error = process.communicate(timeout=600)
        assert process.returncode == (-9 if until else 0), error
        return tmp_path / name / "train"

    whole, killed = train("whole"), train("killed", until="epoch   1/2")
    assert len(history(killed)) == 1
    train("killed")
    assert history(killed) == history(whole)
    for file in ("best.weights.h5", "state-2.weights.h5"):
        ours, theirs = read_weights(killed / file), read_weights(whole / file)
        assert ours.keys() == theirs.keys()
        for layer, arrays in ours.items():
            for a, b in zip(arrays, theirs[layer], strict=True):
                np.testing.assert_array_equal(a, b, err_msg=layer)
