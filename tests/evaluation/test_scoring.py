"""The operating points that the folds of a run are scored with."""

import numpy as np

from evaluation.choosing import SMALLEST_ML, THRESHOLDS, chosen_operating_point
from evaluation.runs import Predictor
from evaluation.scoring import Tried, choose_for_folds

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
        folds.append(Predictor("train", fold, (weights,), tmp_path, {}))
    for own in (1, 3, 8):
        tried = dict(zip(folds, map(tried_at, ([own] * 9, [5, 5], [5])), strict=True))
        point = choose_for_folds(tried, False)[folds[0]]
        assert (point["threshold"], point["mean_dice"]) == (THRESHOLDS[5], 1)
        assert point["chosen_on"] == "the other folds"
        # For new scans all subjects choose.
        for fold in folds:
            assert chosen_operating_point(fold.weights[0])["threshold"] == THRESHOLDS[own]
