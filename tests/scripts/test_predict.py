"""One command from scans to masks, on whatever grid, under whatever name."""

import csv
import gzip
import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import nibabel
import numpy as np
import pytest
from conftest import (
    ATLAS,
    LPS,
    OBLIQUE,
    RAS,
    draw_head,
    predict_by_rule,
    quickly,
    refused,
    write_nifti,
)
from nibabel.affines import from_matvec
from scipy.ndimage import center_of_mass, label

import predict
from config import load_settings
from prediction import masks, saving
from prediction.operating_point import PLAIN
from prediction.outputs import name_outputs, plan_outputs
from prediction.pictures import save_overlay, slices_to_show
from system.files import save_json

THICK = from_matvec(np.diag([0.8, 0.8, 3]), (-11, -13, -20))
SHAPE = (28, 32, 6)
GOOD = {  # name: shape as stored, affine
    "ras.nii.gz": (SHAPE, RAS),
    "lps.nii.gz": (SHAPE, LPS),
    "oblique.nii": (SHAPE, OBLIQUE),
    "0.8 mm, thick slices.nii.gz": ((34, 38, 6), THICK),
    "small.nii.gz": ((9, 11, 3), RAS),
    "larger than the square.nii.gz": ((51, 37, 3), RAS),
    "one_of_four_dimensions.nii.gz": ((*SHAPE, 1), RAS),
    "Größe 脳 №1.nii.gz": (SHAPE, RAS),
    "below/here.nii.gz": (SHAPE, RAS),
}


def head(shape, seed=0):
    spatial = draw_head(np.random.default_rng(seed), shape[:3], 0.4, background=5)[0]
    return spatial.reshape(shape)


def with_two_transforms(path, shape, affine):
    """A scan as scanners write them: qform and sform differ, and the header holds more."""
    image = nibabel.Nifti1Image((head(shape) * 2).astype(np.int16), affine)
    image.set_sform(affine, 4)
    image.set_qform(from_matvec(affine[:3, :3], affine[:3, 3] + 1), 1)
    image.header.set_xyzt_units("mm", "sec")
    image.header["descrip"] = b"scanner"
    image.header.set_slope_inter(0.5, 0)
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(image, path)


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Only the results of `done` are written by processes."""
    quickly(monkeypatch)


@pytest.fixture(scope="module")
def done(weights, tmp_path_factory):
    """A folder of good and bad scans, predicted once: `.scans`, `.output`, `.code`, `.rows`."""
    folder = tmp_path_factory.mktemp("scans of a study")
    scans, output = folder / "scans", folder / "masks"
    for name, (shape, affine) in GOOD.items():
        with_two_transforms(scans / name, shape, affine)
    write_nifti(scans / "two volumes.nii.gz", head((*SHAPE[:2], 12)).reshape(*SHAPE, 2), RAS)
    write_nifti(scans / "empty.nii.gz", np.zeros(SHAPE, np.float32), RAS)
    broken = head(SHAPE)
    broken[3, 3, 3] = np.nan
    write_nifti(scans / "nan.nii.gz", broken, RAS)
    (scans / "text.nii.gz").write_text("no image")
    (scans / "._ras.nii.gz").write_bytes(b"left behind by macOS")
    write_nifti(scans / "ras_mask.nii.gz", np.ones(SHAPE, np.uint8), RAS)
    arguments = [str(scans), "--output", str(output), "--weights", str(weights), "--probability"]
    return Done(scans, output, arguments, predict.main(arguments))


class Done:
    def __init__(self, scans, output, arguments, code):
        self.scans, self.output, self.arguments, self.code = scans, output, arguments, code

    @property
    def rows(self):
        return rows_of(self.output)


def rows_of(output):
    with (output / "predictions.csv").open(encoding="utf-8") as file:
        return {Path(row["scan"]).name: row for row in csv.DictReader(file)}


@pytest.fixture
def lesion_is_bright(monkeypatch):
    """The network's place is taken by a rule: voxels above 5000 are lesion, mirrored above 4000."""

    predict_by_rule(monkeypatch, lambda volume, flip: volume.voxels > (4000 if flip else 5000))


def call(output, weights, *scans_and_more):
    words = [*scans_and_more, "--output", output, "--weights", weights]
    return predict.main([str(word) for word in words])


@pytest.mark.parametrize("name", GOOD)
@pytest.mark.parametrize("kind", ["lesion", "probability"])
def test_the_mask_has_the_scans_shape_and_place(done, name, kind):
    scan = nibabel.load(done.scans / name)
    stem = name.removesuffix(".gz").removesuffix(".nii")
    found = nibabel.load(done.output / f"{stem}_{kind}.nii.gz")
    assert found.shape == scan.shape
    np.testing.assert_array_equal(found.affine, scan.affine)
    for field in ("pixdim", "qform_code", "sform_code", "srow_x", "srow_y", "srow_z", "xyzt_units"):
        np.testing.assert_array_equal(found.header[field], scan.header[field], field)
    np.testing.assert_array_equal(found.get_qform(), scan.get_qform())
    assert found.get_data_dtype() == (np.uint8 if kind == "lesion" else np.float32)
    assert found.dataobj.slope == 1 and found.dataobj.inter == 0
    values = np.asarray(found.dataobj)
    assert values.min() >= 0 and values.max() <= 1
    assert kind == "probability" or set(np.unique(values)) <= {0, 1}


def test_the_mask_is_where_the_probability_is_above_the_threshold(done):
    for name in GOOD:
        stem = name.removesuffix(".gz").removesuffix(".nii")
        mask, probability = (
            np.asarray(nibabel.load(done.output / f"{stem}_{kind}.nii.gz").dataobj)
            for kind in ("lesion", "probability")
        )
        np.testing.assert_array_equal(mask, probability > 0.5)


def test_bad_scans_are_left_out_and_all_others_are_done(done):
    assert done.code == 1
    assert set(done.rows) == {Path(name).name for name in GOOD}


def test_bad_scans_are_named_with_the_reason(done, capsys):
    assert predict.main(done.arguments) == 1
    shown = capsys.readouterr().out
    for name, reason in {
        "two volumes.nii.gz": "(28, 32, 6, 2)",
        "empty.nii.gz": "every voxel is 0",
        "nan.nii.gz": "1 voxels are NaN",
        "text.nii.gz": "not a readable NIfTI file",
    }.items():
        assert reason in shown.split(f"left out {done.scans / name}: ")[1].split("\n")[0]


def test_a_start_anew_skips_what_is_done(done, monkeypatch, capsys):
    before = {path: path.stat().st_mtime_ns for path in done.output.rglob("*.nii.gz")}
    assert len(before) == 2 * len(GOOD)
    predict.main(done.arguments)
    assert f"{len(GOOD)} of {len(GOOD) + 4} scans are done already" in capsys.readouterr().out
    assert before == {path: path.stat().st_mtime_ns for path in done.output.rglob("*.nii.gz")}
    assert set(done.rows) == {Path(name).name for name in GOOD}


def test_nothing_half_written_stays(done):
    assert list(done.output.rglob(".*")) == []


def test_each_scan_has_a_picture_that_is_not_blank(done):
    from matplotlib.image import imread

    for name in GOOD:
        stem = name.removesuffix(".gz").removesuffix(".nii")
        pixels = imread(done.output / f"{stem}_lesion.png")[..., :3]
        assert min(pixels.shape[:2]) > 100
        assert pixels.std() > 0.05


def test_a_picture_shows_the_slices_of_the_lesion_from_bottom_to_top(tmp_path):
    from matplotlib.image import imread

    mask = np.zeros((40, 40, 12), np.uint8)
    mask[15:20, 15:20, 3:10] = 1
    levels = np.arange(12) * 20 + 10
    image = np.zeros((40, 40, 12), np.uint8)
    image[5:-5, 5:-5] = levels
    save_overlay(image, mask, np.ones(3), "scan", tmp_path / "scan.png")
    pixels = (imread(tmp_path / "scan.png")[..., :3] * 255).round().astype(int)
    grey = pixels[(pixels == pixels[..., :1]).all(-1)][:, 0]
    # A colour map may round a grey level up or down.
    counts = np.bincount(grey, minlength=256)[np.add.outer([-1, 0, 1], levels)].sum(0)
    np.testing.assert_array_equal(counts > 5000, mask.any((0, 1)))


def test_each_lesion_is_shown_and_large_ones_where_they_are_largest():
    mask = np.zeros((30, 30, 130), np.uint8)
    mask[2:9, 2:9, 20:120] = 1
    mask[2:20, 2:20, 83] = 1  # of the large lesion
    mask[24:26, 24:26, 62:65] = 1
    mask[24:27, 24:27, 63] = 1  # of the small one
    shown = slices_to_show(mask)
    assert {20, 63, 83, 119} <= set(shown) and len(shown) == 8
    mask[24, 2:24:2, 82:85] = 1  # fragments, all to be seen at 83 already
    assert list(slices_to_show(mask)) == list(shown)
    assert list(shown) == sorted(set(shown))
    mask[:] = 0
    mask[::2, ::2, ::2] = 1  # lesions in more slices than are shown
    assert len(slices_to_show(mask)) == 8
    assert len(slices_to_show(mask * 0)) == 8
    assert list(slices_to_show(mask[:, :, :3])) == [0, 2]


@pytest.mark.usefixtures("lesion_is_bright")
def test_the_table_has_no_row_for_what_a_kill_left_or_a_mask_that_is_gone(weights, tmp_path):
    out, scans = tmp_path / "out", [tmp_path / f"{name}.nii" for name in "abc"]
    for scan in scans:
        write_nifti(scan, head(SHAPE), RAS)
    call(out, weights, *scans[:2])
    shutil.copy(out / "a_lesion.json", out / ".partial-c_lesion.json")
    (out / "b_lesion.nii.gz").unlink()
    call(out, weights, scans[2])
    assert set(rows_of(out)) == {"a.nii", "c.nii"}


def test_scans_unlike_the_training_data_are_warned_of(done):
    rows = done.rows
    assert "voxels of 0.8×0.8×3 mm" in rows["0.8 mm, thick slices.nii.gz"]["warnings"]
    assert "voxels of" not in rows["ras.nii.gz"]["warnings"]
    assert "not a whole brain" in rows["ras.nii.gz"]["warnings"]


def test_the_table_measures_the_masks(done):
    for name in GOOD:
        row = done.rows[Path(name).name]
        image = nibabel.load(row["mask"])
        mask = np.asarray(image.dataobj).reshape(image.shape[:3])
        labels, count = label(mask)
        voxel_ml = np.prod(image.header.get_zooms()[:3]) / 1000
        sizes = np.bincount(labels.ravel())[1:]
        assert int(row["lesions"]) == count
        assert float(row["volume_ml"]) == pytest.approx(mask.sum() * voxel_ml, abs=1e-3)
        assert float(row["largest_ml"]) == pytest.approx(sizes.max(initial=0) * voxel_ml, abs=1e-3)
        sides = float(row["left_ml"]) + float(row["right_ml"])
        assert sides == pytest.approx(float(row["volume_ml"]), abs=1e-3)
        assert float(row["seconds"]) > 0


@pytest.mark.usefixtures("lesion_is_bright")
@pytest.mark.parametrize("affine", [RAS, LPS, OBLIQUE, THICK], ids=["RAS", "LPS", "oblique", "0.8"])
@pytest.mark.parametrize("side", ["left", "right"])
def test_a_lesion_is_measured_on_the_side_where_it_is(affine, side, weights, tmp_path):
    voxels = head((28, 32, 12))
    # Two thirds off the middle, to the side where x in mm grows or falls.
    to_the_right = (affine[0, 0] > 0) == (side == "right")
    at = slice(20, 22) if to_the_right else slice(6, 8)
    voxels[at, 14:17, 5:7] = 9000
    scan = write_nifti(tmp_path / "scan.nii.gz", voxels, affine)
    assert call(tmp_path / "out", weights, scan) == 0
    row = rows_of(tmp_path / "out")["scan.nii.gz"]
    other = {"left": "right", "right": "left"}[side]
    assert float(row[f"{side}_ml"]) == float(row["volume_ml"]) > 0
    assert float(row[f"{other}_ml"]) == 0
    mask = np.asarray(nibabel.load(tmp_path / "out" / "scan_lesion.nii.gz").dataobj)
    np.testing.assert_array_equal(mask, voxels == 9000)
    in_mm = nibabel.affines.apply_affine(affine, center_of_mass(mask))[0]
    middle = nibabel.affines.apply_affine(affine, np.array([27, 31, 11]) / 2)[0]
    assert (in_mm > middle) == (side == "right")


@pytest.mark.usefixtures("lesion_is_bright")
def test_an_empty_mask_is_always_said_so(weights, tmp_path, capsys):
    scan = write_nifti(tmp_path / "scan.nii.gz", head(SHAPE), RAS)
    assert call(tmp_path / "out", weights, scan) == 0
    row = rows_of(tmp_path / "out")["scan.nii.gz"]
    assert (row["lesions"], row["volume_ml"], row["largest_ml"]) == ("0", "0.0", "0.0")
    assert "no lesion found: no voxel is more probable than 0.00" in row["warnings"]
    assert "no lesion found" in capsys.readouterr().out
    assert (tmp_path / "out" / "scan_lesion.png").exists()


@pytest.mark.usefixtures("lesion_is_bright")
def test_a_mask_is_said_to_be_empty_because_its_lesions_are_small(weights, tmp_path, capsys):
    voxels = head(SHAPE)
    voxels[20, 20, 3] = 9000
    scan = write_nifti(tmp_path / "scan.nii.gz", voxels, RAS)
    words = [scan, "--probability", "--smallest-ml"]
    assert call(tmp_path / "out", weights, *words, "0") == 0
    soft = tmp_path / "out" / "scan_probability.nii.gz"
    assert nibabel.load(soft).get_fdata().any()
    capsys.readouterr()
    assert call(tmp_path / "out", weights, *words, "0.5") == 0
    assert "what is probable enough is smaller than 0.5 ml" in capsys.readouterr().out
    # Where the mask is empty, so is the soft map.
    assert not nibabel.load(soft).get_fdata().any()


@pytest.mark.usefixtures("lesion_is_bright")
def test_the_table_says_where_masks_are_that_were_moved(weights, tmp_path, capsys):
    scan = write_nifti(tmp_path / "scan.v2.nii.gz", head(SHAPE), RAS)
    call(tmp_path / "out", weights, scan)
    moved = (tmp_path / "out").rename(tmp_path / "moved")
    call(moved, weights, scan)
    assert "1 of 1 scans are done already" in capsys.readouterr().out
    assert Path(rows_of(moved)[scan.name]["mask"]) == moved / "scan.v2_lesion.nii.gz"
    assert Path(rows_of(moved)[scan.name]["mask"]).is_file()


@pytest.mark.usefixtures("lesion_is_bright")
def test_other_options_weights_or_a_changed_scan_are_predicted_anew(weights, tmp_path, capsys):
    scan = write_nifti(tmp_path / "scan.nii.gz", head(SHAPE), RAS)
    other = shutil.copytree(weights.parent, tmp_path / "other") / weights.name
    with other.open("ab") as file:
        file.write(b"another file")
    out = tmp_path / "out"
    call(out, weights, scan)
    for change in (["--threshold", "0.4"], ["--smallest-ml", "0.1"], ["--flip"], ["--probability"]):
        for done in (False, True):
            capsys.readouterr()
            call(out, weights, scan, *change)
            assert ("done already" in capsys.readouterr().out) == done, change
    call(out, other, scan)
    assert "done already" not in capsys.readouterr().out
    write_nifti(scan, head(SHAPE, seed=1), RAS)
    call(out, other, scan)
    assert "done already" not in capsys.readouterr().out


@pytest.mark.usefixtures("lesion_is_bright")
def test_the_operating_point_of_the_run_counts_unless_another_is_given(weights, tmp_path, capsys):
    run = shutil.copytree(weights.parent, tmp_path / "run")
    point = PLAIN | {"threshold": 0.2, "smallest_ml": 0.004, "flip": True}
    (run / "operating_point.json").write_text(json.dumps(point))
    voxels = head(SHAPE)
    voxels[5, 5, 1:4] = 9000  # 0.003 ml
    voxels[9, 9, 1:6] = 9000  # 0.005 ml
    voxels[14, 14, 1:5] = 4500  # found with the mirrored head alone
    scan = write_nifti(tmp_path / "scan.nii.gz", voxels, RAS)
    for more, lesions in (
        (["--smallest-ml", "0.005"], "1 lesion"),
        ([], "2 lesions"),
        (["--smallest-ml", "0.003"], "3 lesions"),
    ):
        call(tmp_path / "out", run / weights.name, scan, *more)
        assert rows_of(tmp_path / "out")["scan.nii.gz"]["lesions"] == lesions.split()[0]
        assert f"scan.nii.gz: {lesions}, 0.0 ml" in capsys.readouterr().out
    facts = json.loads((tmp_path / "out" / "scan_lesion.json").read_text())
    assert facts["made_from"]["threshold"] == 0.2
    assert facts["made_from"]["flip"]


@pytest.mark.usefixtures("lesion_is_bright")
def test_weights_of_an_unfinished_run_are_taken_and_said_so(weights, tmp_path, capsys):
    run = shutil.copytree(weights.parent, tmp_path / "run")
    scan = write_nifti(tmp_path / "scan.nii.gz", head(SHAPE), RAS)
    said = f"{run / weights.name}: its training has not come to its end"
    for finished in (True, False):
        (run / "run.json").write_text(json.dumps({"finished": finished}))
        assert call(tmp_path / "out", run / weights.name, scan) == 0
        assert (said in capsys.readouterr().out) is not finished
    (run / "run.json").write_text("[]")
    with refused(run / "run.json", "copy it anew from the run, or delete it"):
        call(tmp_path / "out", run / weights.name, scan)


@pytest.mark.usefixtures("lesion_is_bright")
def test_ends_that_training_left_out_stay_empty_where_evaluate_chose_so(weights, tmp_path):
    run = shutil.copytree(weights.parent, tmp_path / "run")
    point = PLAIN | {"ends_mm": 2.0, "height_mm": float(SHAPE[2])}
    (run / "operating_point.json").write_text(json.dumps(point))
    voxels = head(SHAPE)
    voxels[5, 5, :] = 9000
    low, high = write_nifti(tmp_path / "a.nii", voxels, RAS), np.repeat(voxels, 2, axis=2)
    high = write_nifti(tmp_path / "b.nii", high, RAS)

    def marked_slices(name, *more):
        call(tmp_path / "out", run / weights.name, low, high, *more)
        mask = np.asarray(nibabel.load(tmp_path / "out" / f"{name}_lesion.nii.gz").dataobj)
        return mask.any((0, 1)).tolist()

    assert marked_slices("a") == [False] * 2 + [True] * (SHAPE[2] - 4) + [False] * 2
    assert all(marked_slices("b"))
    assert "its outermost slices, too" in rows_of(tmp_path / "out")["b.nii"]["warnings"]
    assert "its outermost slices, too" not in rows_of(tmp_path / "out")["a.nii"]["warnings"]
    assert all(marked_slices("a", "--all-slices"))


@pytest.mark.usefixtures("lesion_is_bright")
def test_certainty_of_an_empty_mask_is_of_the_slices_that_may_be_marked(weights, tmp_path):
    run = shutil.copytree(weights.parent, tmp_path / "run")
    point = PLAIN | {"ends_mm": 2.0, "height_mm": float(SHAPE[2])}
    (run / "operating_point.json").write_text(json.dumps(point))
    voxels = head(SHAPE)
    voxels[5, 5, 0] = 9000
    scan = write_nifti(tmp_path / "a.nii", voxels, RAS)
    for more, certainty in (([], 1.0), (["--all-slices", "--smallest-ml", "9"], 0.0)):
        call(tmp_path / "out", run / weights.name, scan, *more)
        assert float(rows_of(tmp_path / "out")["a.nii"]["certainty"]) == certainty


@pytest.mark.usefixtures("lesion_is_bright")
def test_a_bids_tree_comes_back_as_derivatives_in_the_same_tree(tiny_trees, weights, tmp_path):
    assert call(tmp_path, weights, tiny_trees.atlas) == 0
    names = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.nii.gz")}
    assert names == {
        f"Training/{site}/{subject}/ses-{session}/anat/{subject}_ses-{session}_"
        "space-MNI152NLin2009aSym_label-L_desc-lesion_mask.nii.gz"
        for site, subject, session, _ in ATLAS
    }


@pytest.mark.parametrize(
    ("scan", "stem"),
    [
        ("sub-1_T1w", "sub-1_label-L_desc-lesion_mask"),
        (
            "sub-1_ses-2_space-orig_desc-brain_T1w",
            "sub-1_ses-2_space-orig_label-L_desc-lesion_mask",
        ),
        (
            "sub-1_acq-mprage_run-2_space-MNI152NLin2009aSym_res-1_T1w",
            "sub-1_acq-mprage_run-2_space-MNI152NLin2009aSym_res-1_label-L_desc-lesion_mask",
        ),
        ("sub-1_label-R_desc-preproc_T2w", "sub-1_label-L_desc-lesion_mask"),
        # Not names as BIDS has them.
        ("sub-1_T1w_brain", "sub-1_T1w_brain_lesion"),
        ("sub-1", "sub-1_lesion"),
        ("sub-1_scan.2_T1w", "sub-1_scan.2_T1w_lesion"),
    ],
)
def test_masks_are_named_as_bids_has_it_whatever_the_scan_s_name_says(tmp_path, scan, stem):
    outputs = name_outputs(tmp_path / f"{scan}.nii.gz", tmp_path, tmp_path / "out")
    assert outputs.mask_stem == stem
    assert outputs.mask.parent == tmp_path / "out"


@pytest.mark.usefixtures("lesion_is_bright")
def test_one_file_of_a_bids_tree_keeps_its_subjects_folders(tiny_trees, weights, tmp_path):
    scan = next(tiny_trees.atlas.rglob("sub-r001s002*_T1w.nii.gz"))
    assert call(tmp_path, weights, scan) == 0
    (mask,) = tmp_path.rglob("*.nii.gz")
    assert mask.relative_to(tmp_path).parts[:3] == ("sub-r001s002", "ses-1", "anat")


@pytest.mark.usefixtures("lesion_is_bright")
def test_the_challenge_gets_every_mask_by_its_rules_and_the_same_bytes(
    tiny_trees, weights, tmp_path
):
    contents = []
    for out in (tmp_path / "1", tmp_path / "2"):
        assert call(out, weights, tiny_trees.atlas / "Training" / "R001", "--challenge") == 0
        contents.append((out / "atlas2_prediction.zip").read_bytes())
    assert contents[0] == contents[1]
    with zipfile.ZipFile(tmp_path / "1" / "atlas2_prediction.zip") as archive:
        assert archive.testzip() is None
        assert {entry.date_time[0] for entry in archive.infolist()} == {1980}
        assert set(archive.namelist()) == {"dataset_description.json"} | {
            f"{subject}/ses-{session}/anat/{subject}_ses-{session}_"
            "space-MNI152NLin2009aSym_label-L_mask.nii.gz"
            for site, subject, session, _ in ATLAS
            if site == "R001"
        }
        about = json.loads(archive.read("dataset_description.json"))
        assert about["Name"] == about["PipelineDescription"]["Name"] == "atlas2_prediction"
        name = next(name for name in archive.namelist() if "r001s003" in name)
        nibabel.Nifti1Image.from_bytes(gzip.decompress(archive.read(name)))


@pytest.mark.usefixtures("lesion_is_bright")
def test_no_challenge_file_is_made_while_a_scan_is_missing(weights, tmp_path, capsys):
    good, bad = tmp_path / "sub-1_ses-1_T1w.nii.gz", tmp_path / "sub-2_ses-1_T1w.nii.gz"
    write_nifti(good, head(SHAPE), RAS)
    bad.write_text("no image")
    assert call(tmp_path / "out", weights, good, bad, "--challenge") == 1
    assert not (tmp_path / "out" / "atlas2_prediction.zip").exists()
    assert "was not made" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (["sub-1_T1w.nii.gz", "b_T1w.nii.gz"], "needs names as sub-r001s001_ses-1"),
        (["a/sub-1_T1w.nii.gz", "b/sub-1_T1w.nii.gz"], "leave one of the two out"),
    ],
)
def test_scans_that_the_challenge_cannot_tell_are_refused_before_the_work(
    names, said, weights, tmp_path
):
    for name in names:
        write_nifti(tmp_path / "in" / name, head(SHAPE), RAS)
    with refused(tmp_path / "in" / names[1], said):
        call(tmp_path / "out", weights, tmp_path / "in", "--challenge")
    assert not list((tmp_path / "out").rglob("*_mask.nii.gz"))


@pytest.mark.usefixtures("lesion_is_bright")
def test_two_scans_that_would_share_a_mask_are_not_mixed_up(weights, tmp_path, capsys):
    for folder in ("a", "b"):
        write_nifti(tmp_path / folder / "scan.nii.gz", head(SHAPE), RAS)
    scans = [tmp_path / folder / "scan.nii.gz" for folder in ("a", "b")]
    assert call(tmp_path / "out", weights, *scans) == 1
    assert f"left out {scans[1]}: its mask would overwrite" in capsys.readouterr().out
    assert rows_of(tmp_path / "out")["scan.nii.gz"]["scan"] == str(scans[0])


@pytest.mark.usefixtures("lesion_is_bright")
def test_a_scan_of_the_same_name_elsewhere_does_not_take_the_place_of_the_first(
    weights, tmp_path, capsys
):
    scans = [write_nifti(tmp_path / site / "scan.nii", head(SHAPE), RAS) for site in ("a", "b")]
    assert call(tmp_path / "out", weights, scans[0]) == 0
    before = (tmp_path / "out" / "scan_lesion.nii.gz").read_bytes()
    assert call(tmp_path / "out", weights, scans[1]) == 1
    assert f"its mask would overwrite that of {scans[0]}" in capsys.readouterr().out
    assert (tmp_path / "out" / "scan_lesion.nii.gz").read_bytes() == before
    # A data set that was moved is the same one.
    scans[0].parent.rename(tmp_path / "c")
    assert call(tmp_path / "out", weights, tmp_path / "c" / "scan.nii") == 0


@pytest.mark.usefixtures("lesion_is_bright")
def test_results_stay_while_the_scan_that_should_replace_them_is_refused(weights, tmp_path):
    scan = write_nifti(tmp_path / "scan.nii", head(SHAPE), RAS)
    assert call(tmp_path / "out", weights, scan) == 0
    mask = tmp_path / "out" / "scan_lesion.nii.gz"
    before = mask.read_bytes()
    write_nifti(scan, np.zeros(SHAPE, np.float32), RAS)
    assert call(tmp_path / "out", weights, scan) in (1, 2)
    assert mask.read_bytes() == before


@pytest.mark.usefixtures("lesion_is_bright")
def test_masks_written_beside_the_scans_are_not_taken_for_scans(weights, tmp_path):
    write_nifti(tmp_path / "scan.nii.gz", head(SHAPE), RAS)
    for _ in range(2):
        assert call(tmp_path, weights, tmp_path, "--probability") == 0
        assert set(rows_of(tmp_path)) == {"scan.nii.gz"}


@pytest.mark.usefixtures("lesion_is_bright")
def test_images_of_other_names_beside_t1w_are_passed_over_and_named(weights, tmp_path, capsys):
    for name in ("a_T1w.nii.gz", "a_mask.nii.gz", "b.nii.gz", "c.nii.gz"):
        write_nifti(tmp_path / "in" / name, head(SHAPE), RAS)
    assert call(tmp_path / "out", weights, tmp_path / "in") == 0
    assert list(rows_of(tmp_path / "out")) == ["a_T1w.nii.gz"]
    said = "passed over, as they do not end in _T1w: b.nii.gz, c.nii.gz\n"
    assert said in capsys.readouterr().out


def test_weights_of_another_network_are_refused_by_name(weights, tmp_path):
    run = shutil.copytree(weights.parent, tmp_path / "run")
    text = (run / "config.yaml").read_text("utf-8")
    (run / "config.yaml").write_text(text.replace("filters: 2", "filters: 3"), "utf-8")
    scan = write_nifti(tmp_path / "scan.nii.gz", head(SHAPE), RAS)
    with refused(run / weights.name, "encoder_1_conv_1"):
        call(tmp_path / "out", run / weights.name, scan)


def test_missing_default_weights_are_named_with_the_stage_that_makes_them(tmp_path):
    scan = write_nifti(tmp_path / "scan.nii.gz", head(SHAPE), RAS)
    (tmp_path / "train").mkdir()
    (tmp_path / "train" / "best.weights.h5").touch()  # the pipeline is under way
    words = [str(scan), "--output", str(tmp_path / "out"), "--set", f"paths.runs={tmp_path}"]
    with refused(tmp_path / "transfer" / "best.weights.h5", "transfer_learning.py"):
        predict.main(words)


def test_an_output_that_cannot_be_written_is_refused_at_once(weights, tmp_path):
    scan = write_nifti(tmp_path / "scan.nii.gz", head(SHAPE), RAS)
    with refused(scan / "out", "cannot be written", "--output"):
        call(scan / "out", weights, scan)
    with refused(scan, "cannot be written", "--output"):
        call(scan, weights, scan)


def test_what_is_no_scan_is_refused_by_name(weights, tmp_path):
    (tmp_path / "nothing").mkdir()
    (tmp_path / "notes.txt").write_text("no image")
    with refused(tmp_path / "nothing", "no NIfTI image"):
        call(tmp_path / "out", weights, tmp_path / "nothing")
    with refused(tmp_path / "notes.txt", "not a NIfTI file"):
        call(tmp_path / "out", weights, tmp_path / "notes.txt")


def test_a_name_that_leaves_no_room_for_its_results_costs_that_scan(tmp_path):
    folder = tmp_path / "scans"
    for name in ("short", "x" * 245):
        write_nifti(folder / f"{name}.nii", head(SHAPE), RAS)
    layout = load_settings().atlas
    planned, (problem,) = plan_outputs([folder], layout, tmp_path / "out")
    assert [outputs.scan.name for outputs in planned] == ["short.nii"]
    assert "its name is too long for those of its results; rename it" in str(problem)


def test_an_output_that_cannot_be_printed_is_refused(weights, tmp_path):
    scan = write_nifti(tmp_path / "scan.nii.gz", head(SHAPE), RAS)
    with refused("not printable", "another folder"):
        call(tmp_path / "bad\udcff", weights, scan)


@pytest.mark.parametrize("option", [["--threshold", "1"], ["--smallest-ml", "-1"]])
def test_impossible_options_are_refused(option, weights, tmp_path):
    scan = write_nifti(tmp_path / "scan.nii.gz", head(SHAPE), RAS)
    with refused(option[0]):
        call(tmp_path / "out", weights, scan, *option)


def test_a_name_that_looks_like_a_formula_is_written_as_it_is(weights, tmp_path, lesion_is_bright):
    scan = write_nifti(tmp_path / r"a$\nope$b.nii", np.ones((8, 8, 12)) + np.eye(8)[..., None], RAS)
    assert call(tmp_path / "out", weights, scan) == 0
    assert (tmp_path / "out" / r"a$\nope$b_lesion.png").is_file()


def test_a_pair_of_header_and_image_is_named_and_not_passed_over(
    weights, tmp_path, lesion_is_bright, capsys
):
    write_nifti(tmp_path / "in" / "one.nii", np.ones((8, 8, 4)) + np.eye(8)[..., None], RAS)
    for ending in ("hdr", "img"):
        (tmp_path / "in" / f"other.{ending}").write_bytes(b"\0" * 400)
    assert call(tmp_path / "out", weights, tmp_path / "in") == 1
    assert f"left out {tmp_path / 'in' / 'other.img'}: is half of an" in capsys.readouterr().out


# --- nothing of the user's is replaced ---


@pytest.mark.usefixtures("lesion_is_bright")
@pytest.mark.parametrize(
    ("scan", "mask"),
    [
        ("scan.nii.gz", "scan_lesion.nii.gz"),
        ("scan.nii.gz", "scan_lesion.png"),
        ("scan.nii.gz", "scan_lesion.json"),
        ("sub-1_T1w.nii.gz", "sub-1_label-L_desc-lesion_mask.nii.gz"),
    ],
)
def test_what_a_person_made_is_named_and_stays(weights, tmp_path, capsys, scan, mask):
    voxels = head(SHAPE)
    voxels[5, 5, 1:4] = 9000
    write_nifti(tmp_path / scan, voxels, RAS)
    write_nifti(tmp_path / "other.nii.gz", voxels, RAS)
    (tmp_path / mask).write_bytes(b"drawn by hand")
    for _ in range(2):
        assert call(tmp_path, weights, tmp_path / scan, tmp_path / "other.nii.gz") == 1
        assert f"{tmp_path / mask} is not as this program wrote it" in capsys.readouterr().out
        assert (tmp_path / mask).read_bytes() == b"drawn by hand"
        assert list(rows_of(tmp_path)) == ["other.nii.gz"]


@pytest.mark.usefixtures("lesion_is_bright")
def test_a_mask_that_a_person_corrected_stays_and_one_of_ours_is_made_anew(
    weights, tmp_path, capsys
):
    voxels = head(SHAPE)
    voxels[5, 5, 1:4] = 9000
    names = "a.nii.gz", "b.nii.gz"
    scans = [write_nifti(tmp_path / "in" / name, voxels, RAS) for name in names]
    assert call(tmp_path / "out", weights, *scans) == 0
    corrected = tmp_path / "out" / "a_lesion.nii.gz"
    corrected.write_bytes(corrected.read_bytes() + b"\0")
    content = corrected.read_bytes()
    assert call(tmp_path / "out", weights, *scans) == 0  # nothing to do
    assert call(tmp_path / "out", weights, *scans, "--smallest-ml", "1") == 1
    assert f"{corrected} is not as this program wrote it" in capsys.readouterr().out
    assert corrected.read_bytes() == content
    assert rows_of(tmp_path / "out")["b.nii.gz"]["lesions"] == "0"


def test_a_mask_that_a_person_corrects_while_its_scan_is_predicted_stays(
    weights, tmp_path, monkeypatch, capsys
):
    voxels = head(SHAPE)
    voxels[5, 5, 1:4] = 9000
    scan = write_nifti(tmp_path / "scan.nii.gz", voxels, RAS)
    mask = tmp_path / "out" / "scan_lesion.nii.gz"

    def rule(volume, flip):
        if mask.exists():
            mask.write_bytes(b"drawn meanwhile")
        return volume.voxels > 5000

    predict_by_rule(monkeypatch, rule)
    assert call(tmp_path / "out", weights, scan) == 0
    assert call(tmp_path / "out", weights, scan, "--smallest-ml", "1") == 1
    assert f"{mask} is not as this program wrote it" in capsys.readouterr().out
    assert mask.read_bytes() == b"drawn meanwhile"


@pytest.mark.usefixtures("lesion_is_bright")
def test_a_start_after_a_kill_knows_its_own_files(weights, tmp_path, monkeypatch):
    voxels = head(SHAPE)
    voxels[5, 5, 1:4] = 9000
    scan = write_nifti(tmp_path / "scan.nii.gz", voxels, RAS)

    def killed(path, content):
        if "prediction" in content:
            raise KeyboardInterrupt
        save_json(path, content)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(saving, "save_json", killed)
        call(tmp_path / "out", weights, scan)
    assert (tmp_path / "out" / "scan_lesion.nii.gz").exists()
    assert call(tmp_path / "out", weights, scan) == 0
    assert rows_of(tmp_path / "out")["scan.nii.gz"]["lesions"] == "1"


@pytest.mark.usefixtures("lesion_is_bright")
def test_another_table_of_our_name_stays(weights, tmp_path):
    (tmp_path / "predictions.csv").write_text("patient,age\n1,70\n")
    scan = write_nifti(tmp_path / "scan.nii.gz", head(SHAPE), RAS)
    with refused(tmp_path / "predictions.csv", "predict.py did not write it"):
        call(tmp_path, weights, scan)
    assert not (tmp_path / "scan_lesion.nii.gz").exists()  # found before anything is predicted
    assert (tmp_path / "predictions.csv").read_text() == "patient,age\n1,70\n"


def test_a_scan_that_is_not_there_is_found_before_a_framework_starts(
    weights, tmp_path, monkeypatch
):
    monkeypatch.setattr(masks, "load_networks", lambda files: 1 / 0)
    with refused(tmp_path / "gone.nii.gz", "is not a file"):
        call(tmp_path / "out", weights, tmp_path / "gone.nii.gz")
    assert not (tmp_path / "out").exists()


def test_a_folder_that_cannot_be_written_is_found_before_anything_is_predicted(
    weights, tmp_path, monkeypatch
):
    monkeypatch.setattr(masks, "load_networks", lambda files: 1 / 0)
    scan = write_nifti(tmp_path / "scan.nii", head(SHAPE), RAS)
    with refused(scan / "out", "cannot be written"):
        call(scan / "out", weights, scan)


@pytest.mark.usefixtures("lesion_is_bright")
def test_the_sides_are_left_empty_where_they_cannot_be_told(weights, tmp_path):
    voxels = head(SHAPE)
    voxels[5, 5, 1:4] = 9000
    scan = write_nifti(tmp_path / "scan.nii", voxels, RAS)
    content = bytearray(scan.read_bytes())
    content[252:256] = bytes(4)  # qform_code and sform_code
    scan.write_bytes(content)
    assert call(tmp_path / "out", weights, scan) == 0
    row = rows_of(tmp_path / "out")["scan.nii"]
    assert "left and right cannot be told" in row["warnings"]
    assert (row["left_ml"], row["right_ml"]) == ("", "")
    assert float(row["volume_ml"]) > 0


@pytest.mark.usefixtures("lesion_is_bright")
def test_another_archive_of_our_name_stays(weights, tmp_path):
    archive = tmp_path / "atlas2_prediction.zip"
    archive.write_bytes(b"of last year")
    scan = write_nifti(tmp_path / "in" / "sub-1_ses-1_T1w.nii.gz", head(SHAPE), RAS)
    with refused(archive, "predict.py did not write it"):
        call(tmp_path, weights, scan, "--challenge")
    assert archive.read_bytes() == b"of last year"
    assert not list(tmp_path.glob("*mask*"))  # found before anything is predicted
    archive.unlink()
    for _ in range(2):
        assert call(tmp_path, weights, scan, "--challenge") == 0


WITHOUT = """
import sys
from on_backend import take_away
take_away({"keras", "tensorflow", "jax", "torch", "sklearn", "jinja2"})
import predict
sys.exit(predict.main(sys.argv[1:]))
"""


def test_a_mask_needs_nothing_but_what_its_own_requirements_install(weights, tiny_trees, tmp_path):
    scan = next(tiny_trees.atlas.rglob("sub-r001s003*_T1w.nii.gz"))
    root = Path(__file__).parents[2]
    words = [str(scan), "--weights", str(weights), "--output", str(tmp_path / "out")]
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT, *words],
        env=os.environ | {"PYTHONPATH": f"{root}{os.pathsep}{root / 'tests'}"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert len(list((tmp_path / "out").rglob("*_mask.nii.gz"))) == 1


WATCHED = """
import os, runpy, sys
def tell(event, arguments):
    if event in ("socket.connect", "socket.getaddrinfo", "socket.sendto"):
        os.write(2, f"{event} {arguments}\\n".encode())
sys.addaudithook(tell)
sys.argv = ["predict.py", *sys.argv[1:]]
runpy.run_path("predict.py", run_name="__main__")
"""


def test_it_speaks_to_nobody(weights, tmp_path):
    # OpenVINO's telemetry does both, unless it takes itself to be in somebody's CI.
    with_two_transforms(tmp_path / "scan.nii.gz", SHAPE, RAS)
    ours = {name: os.environ[name] for name in ("PATH", "LD_LIBRARY_PATH") if name in os.environ}
    (tmp_path / "home").mkdir()
    words = [tmp_path / "scan.nii.gz", "--weights", weights, "--output", tmp_path / "masks"]
    done = subprocess.run(
        [sys.executable, "-c", WATCHED, *map(str, words)],
        env=ours | {"HOME": str(tmp_path / "home"), "PYTHONUTF8": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "masks" / "scan_lesion.nii.gz").exists()
    assert done.stderr == ""
    assert not (tmp_path / "home" / "intel").exists()
