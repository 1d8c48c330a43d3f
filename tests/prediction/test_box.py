"""Where nothing was trained, the network in `weights/` is taken, if there is one, and said so."""

import nibabel
import numpy as np
import pytest
from conftest import refused, write_nifti

import participant
import predict
from config import load_run_settings, load_settings
from prediction import box
from prediction.box import default_weights
from prediction.onnx_export import export_network
from prediction.operating_point import PLAIN, read_operating_point
from scans.template import AFFINE
from synthetic.heads import acquire, draw_person, draw_scanner, template_mm
from system.files import file_hash, load_json
from training.provenance import seen_by
from training.stored_weights import read_weights


@pytest.fixture
def filled(tmp_path, monkeypatch):
    """A network in the box."""
    network = tmp_path / "weights" / "best.weights.h5"
    network.parent.mkdir()
    network.touch()
    monkeypatch.setattr(box, "IN_THE_BOX", network)
    return network


def test_it_is_taken_where_nothing_was_trained_and_said_so(filled, tmp_path, capsys):
    assert default_weights(tmp_path / "runs") == filled
    assert "the network in the box is taken (weights/README.md)" in capsys.readouterr().out


def test_an_empty_box_is_said_as_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setattr(box, "IN_THE_BOX", tmp_path / "none.weights.h5")
    with refused("run transfer_learning.py first, or name other weights by --weights"):
        load_run_settings(default_weights(tmp_path))


@pytest.mark.parametrize("trained", ["transfer", "train", "fold_0/train"])
def test_a_network_of_the_user_s_is_never_passed_over(filled, tmp_path, capsys, trained):
    runs = tmp_path / "runs"
    own = runs / trained / "best.weights.h5"
    own.parent.mkdir(parents=True)
    own.touch()
    assert default_weights(runs) == runs / "transfer" / "best.weights.h5"
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("script", "words"),
    [
        (predict, ["--output", "out", "--weights", "best.weights.h5", "scan.nii.gz"]),
        (predict, ["--output", "out", "--weights", "best.weights.h5", "a_folder"]),
        (participant, ["bids", "out", "--weights", "best.weights.h5", "participant"]),
    ],
)
def test_what_is_named_after_the_weights_is_not_taken_for_weights(script, words, capsys):
    with pytest.raises(SystemExit) as stopped:
        script.main(words)
    assert stopped.value.code == 2
    named = f"{words[-1]} is not a weights file; name a best.weights.h5, and all else before"
    assert named in capsys.readouterr().err


def test_the_box_holds_the_network_of_its_recipe_and_all_that_predicting_needs():
    folder = box.IN_THE_BOX.parent
    unet = load_run_settings(box.IN_THE_BOX).unet
    assert unet == load_settings(folder.parent / "configs" / "box.yaml").unet
    export_network(read_weights(box.IN_THE_BOX), unet, box.IN_THE_BOX)
    assert read_operating_point(box.IN_THE_BOX) != PLAIN
    point = load_json(folder / "operating_point.json", "")
    assert point["subjects"] >= 50 and point["weights"] == file_hash(box.IN_THE_BOX)
    seen = seen_by(box.IN_THE_BOX)
    assert len(seen["training"]) > 500 and len(seen["validation"]) >= 50
    assert sum(path.stat().st_size for path in folder.iterdir()) < 10e6


def test_where_nothing_was_trained_the_box_outlines_a_cavity(tmp_path, capsys):
    rng = np.random.default_rng(0)
    scanner = draw_scanner(rng)
    image, anatomy = draw_person(rng, scanner)
    x_mm, y_mm, z_mm = template_mm(image.shape)
    cavity = np.hypot(np.hypot(x_mm - 40, y_mm + 15), z_mm - 25) < 17
    cavity &= anatomy[..., 1] < -2
    image[cavity] = scanner.csf
    scan = write_nifti(tmp_path / "scan.nii.gz", acquire(rng, image, scanner), AFFINE)
    words = [str(scan), "--output", str(tmp_path / "out"), "--set", f"paths.runs={tmp_path}"]
    predict.main(words)
    assert "the network in the box is taken" in capsys.readouterr().out
    marked = nibabel.load(tmp_path / "out" / "scan_lesion.nii.gz").get_fdata() > 0
    dice = 2 * (marked & cavity).sum() / (marked.sum() + cavity.sum())
    assert dice > 0.7
