"""The operating points that folds are scored with, and what a scored scan looks like."""

import numpy as np
import pytest
from conftest import RAS, draw_head, quickly, refused, write_nifti

from config import Evaluation
from evaluation.cases import Case
from evaluation.choosing import SMALLEST_ML, THRESHOLDS, chosen_operating_point
from evaluation.kept_predictions import load_scored, missing_predictions, predict_cases
from evaluation.runs import Predictor
from evaluation.scoring import Tried, choose_for_folds, load_view
from prediction.operating_point import PLAIN

FOLDS = 3


def tried_at(levels):
    """What was tried on scans of which each has one threshold that is any good."""
    found = []
    for number, level in enumerate(levels):
        grid = np.zeros((2, 3, len(THRESHOLDS), len(SMALLEST_ML)))
        grid[0, :2, level, 0] = 1
        found.append(Tried(grid, 2.0, 16.0, f"s{number}"))
    return found


def test_the_point_of_a_fold_does_not_depend_on_its_own_subjects(tmp_path):
    folds = []
    for fold in range(FOLDS):
        weights = tmp_path / f"fold_{fold}" / "best.weights.h5"
        weights.parent.mkdir()
        weights.write_bytes(b"%d" % fold)
        folds.append(Predictor("train", f"train, fold {fold}", 0, fold, (weights,), tmp_path, {}))
    for own in (1, 3, 8):
        tried = dict(zip(folds, map(tried_at, ([own] * 9, [5, 5], [5])), strict=True))
        point = choose_for_folds(tried, Evaluation())[folds[0]]
        assert (point["threshold"], point["mean_dice"]) == (THRESHOLDS[5], 1)
        assert point["chosen_on"] == "the other folds"
        # For new scans all subjects choose.
        for fold in folds:
            assert (
                chosen_operating_point(fold.weights[0], "lesions")["threshold"] == THRESHOLDS[own]
            )


@pytest.mark.parametrize("damage", [lambda b: b[:20], lambda b: b[:12] + bytes(40) + b[52:]])
def test_a_damaged_prediction_is_made_anew(damage, tmp_path, monkeypatch):
    quickly(monkeypatch)
    voxels, _ = draw_head(np.random.default_rng(0), (12, 14, 10), 0.4, background=0)
    image = write_nifti(tmp_path / "a.nii", voxels, RAS)
    (tmp_path / "best.weights.h5").write_bytes(b"weights")
    case = Case("a", "", "", image, (image,), None)
    predictor = Predictor("train", "train", 0, 0, (tmp_path / "best.weights.h5",), tmp_path, {})
    predict_cases(predictor, [case], False, lambda volume, flip, alignment: volume.voxels * 0)
    assert missing_predictions(predictor, [case], False) == []
    file = predictor.prediction_of(case)
    file.write_bytes(damage(file.read_bytes()))
    assert missing_predictions(predictor, [case], False) == [case]


def test_a_prediction_that_is_damaged_further_on_is_named_with_what_to_do(tmp_path):
    voxels, depth = draw_head(np.random.default_rng(0), (12, 14, 10), 0.4, background=0)
    image = write_nifti(tmp_path / "a.nii", voxels, RAS)
    mask = write_nifti(tmp_path / "m.nii", (depth < 1).astype(np.uint8), RAS)
    case = Case("a", "", "", image, (mask,), None)
    predictor = Predictor("train", "train", 0, 0, (), tmp_path, {})
    file = write_nifti(predictor.prediction_of(case), voxels, RAS)
    file.write_bytes(file.read_bytes()[:-400])
    with refused(file, "delete it, and the same command makes it anew"):
        load_scored(predictor, case)


def test_a_view_has_no_nan_where_the_scan_has_it_outside_the_head(tmp_path):
    voxels, depth = draw_head(np.random.default_rng(0), (12, 14, 10), 0.4, background=0)
    lesion = (depth < 1).astype(np.uint8)
    image = write_nifti(tmp_path / "a.nii", np.where(voxels == 0, np.nan, voxels), RAS)
    mask = write_nifti(tmp_path / "m.nii", lesion, RAS)
    case = Case("a", "", "", image, (mask,), None, 0, 0.0)
    predictor = Predictor("train", "train", 0, 0, (), tmp_path, {})
    write_nifti(predictor.prediction_of(case), lesion * np.uint16(65000), RAS)
    view = load_view(predictor, case, PLAIN)
    assert np.isfinite(view.volume.voxels).all()
    np.testing.assert_array_equal(view.prediction, lesion)
