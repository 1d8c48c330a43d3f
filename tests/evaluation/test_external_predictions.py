"""Masks that another program made belong to one scan each, and lie on its grid."""

import shutil

import nibabel
import numpy as np
import pytest
from conftest import RAS, quickly, refused, write_nifti, write_predictions

from config import load_settings
from evaluation.cases import Case
from evaluation.external_predictions import ExternalPrediction, load_view, score_external


@pytest.fixture
def predictions(tiny_trees, tmp_path, monkeypatch):
    """A folder of perfect predictions of all scans, 0/255."""
    quickly(monkeypatch)
    return write_predictions(tiny_trees.atlas, tmp_path / "predictions")


def score(predictions, tiny_trees):
    return score_external(predictions, tiny_trees.atlas, load_settings().atlas).rows


@pytest.mark.parametrize("what", ["shape", "affine"])
def test_a_prediction_on_another_grid_is_named(predictions, tiny_trees, what):
    file = predictions / "sub-r002s002_ses-1_prediction.nii"
    voxels = np.array(nibabel.load(file).dataobj)  # not mapped: the file is overwritten
    affine = RAS
    if what == "shape":
        voxels = voxels[:, :, 1:]
    else:
        affine = nibabel.affines.from_matvec(np.eye(3), (-13, -16, -8))
    write_nifti(file, voxels, affine)
    with refused(file):
        score(predictions, tiny_trees)


def test_two_predictions_of_one_scan_are_refused_unless_one_is_the_mask(predictions, tiny_trees):
    file = predictions / "sub-r002s002_ses-1_prediction.nii"
    shutil.copy(file, file.with_name("sub-r002s002_ses-1_second.nii"))
    with refused(file, "sub-r002s002_ses-1_second.nii"):
        score(predictions, tiny_trees)
    shutil.copy(file, file.with_name("sub-r002s002_ses-1_mask.nii"))
    assert len(score(predictions, tiny_trees)) == 9


def test_folders_tell_predictions_of_one_name_apart(predictions, tiny_trees, tmp_path):
    masks = write_predictions(tiny_trees.atlas, tmp_path / "masks")
    for folder in (predictions, masks):
        for file in folder.iterdir():
            own = folder / file.name.removesuffix("_prediction.nii").replace("_ses", "/ses")
            own.mkdir(parents=True)
            file.rename(own / "lesion.nii")
            if folder == predictions:
                shutil.copy(own / "lesion.nii", own / "probability.nii")
    rows = score_external(predictions, masks, load_settings().atlas).rows
    assert len(rows) == 9 and all(row["dice"] == 1 for row in rows)
    shutil.rmtree(next(predictions.rglob("lesion.nii")).parent)
    with refused(predictions, "for 1 of 9 masks"):
        score_external(predictions, masks, load_settings().atlas)


def test_what_a_person_made_of_a_prediction_is_none(predictions, tiny_trees, capsys):
    file = predictions / "sub-r002s002_ses-1_prediction.nii"
    stem = "sub-r002s002_ses-1_label-L_desc"
    shutil.copy(file, predictions / f"{stem}-manual_mask.nii")
    file.rename(predictions / f"{stem}-lesion_mask.nii")
    assert len(score(predictions, tiny_trees)) == 9
    assert f"predictions that are not scored, 1: {stem}-manual_mask.nii" in capsys.readouterr().out


def test_of_a_mask_on_both_grids_the_one_on_the_reference_s_is_scored(predictions, tiny_trees):
    file = predictions / "sub-r002s002_ses-1_prediction.nii"
    space = "space-MNI152NLin2009aSym_"
    for name in ("", space):
        shutil.copy(file, predictions / f"sub-r002s002_ses-1_{name}label-L_desc-lesion_mask.nii")
    file.unlink()
    own = predictions / "sub-r002s002_ses-1_label-L_desc-lesion_mask.nii"
    write_nifti(own, np.zeros_like(nibabel.load(own).dataobj), RAS)
    # The reference masks of this tree are in MNI space.
    assert all(row["dice"] == 1 for row in score(predictions, tiny_trees))
    masks = predictions.parent / "native"
    for mask in tiny_trees.atlas.rglob("sub-r002s002*_mask.nii.gz"):
        shutil.copytree(mask.parent, masks, dirs_exist_ok=True)
        (masks / mask.name).rename(masks / mask.name.replace(space, ""))
    (row,) = score_external(predictions, masks, load_settings().atlas).rows
    assert row["dice"] == 0


def test_masks_of_predict_whose_names_are_not_of_bids_are_scored(tmp_path, monkeypatch):
    quickly(monkeypatch)
    mask = np.zeros((8, 8, 8), np.uint8)
    mask[2:4, 2:4, 2:4] = 1
    write_nifti(tmp_path / "scans" / "p01_T1w.nii.gz", mask.astype(np.float32), RAS)
    write_nifti(tmp_path / "scans" / "p01_label-L_desc-T1lesion_mask.nii.gz", mask, RAS)
    write_nifti(tmp_path / "masks" / "p01_T1w_lesion.nii.gz", mask, RAS)
    (row,) = score_external(tmp_path / "masks", tmp_path / "scans", load_settings().atlas).rows
    assert row["dice"] == 1


def test_masks_are_no_predictions_of_themselves(predictions):
    with refused(predictions, "for 9 of 9 masks"):
        score_external(predictions, predictions, load_settings().atlas)


def test_two_masks_of_one_session_are_refused(predictions, tmp_path):
    for space in ("T1w", "MNI"):
        shutil.copy(next(predictions.iterdir()), predictions / f"sub-1_space-{space}_mask.nii")
    masks = shutil.copytree(predictions, tmp_path / "masks")
    with refused("sub-1_space-MNI_mask.nii", "sub-1_space-T1w_mask.nii", "the same subject"):
        score_external(predictions, masks, load_settings().atlas)


def test_masks_without_prediction_are_counted_and_named(predictions, tiny_trees):
    (predictions / "sub-r002s002_ses-1_prediction.nii").unlink()
    with refused(predictions, "for 1 of 9 masks", "sub-r002s002_ses-1", "predict"):
        score(predictions, tiny_trees)


def test_an_image_that_cannot_be_read_is_shown_black_and_said_so(tmp_path, capsys):
    lesion = np.zeros((12, 14, 10), np.uint8)
    lesion[4:6, 4:6, 4:6] = 1
    mask = write_nifti(tmp_path / "mask.nii", lesion, RAS)
    image = write_nifti(tmp_path / "image.nii", np.full(lesion.shape, np.nan, np.float32), RAS)
    view = load_view(ExternalPrediction(mask, Case("a", "", "", image, (mask,), None)))
    assert capsys.readouterr().out.startswith(f"shown black: {image}: ")
    assert not view.volume.voxels.any() and np.array_equal(view.prediction, lesion)
    write_nifti(image, np.arange(12 * 14 * 9, dtype=np.int16).reshape(12, 14, 9), RAS)
    view = load_view(ExternalPrediction(mask, Case("a", "", "", image, (mask,), None)))
    assert "another shape" in capsys.readouterr().out and not view.volume.voxels.any()
