"""How the operating point of a run is chosen, and stored for the test subset and new scans."""

import itertools
import json

import numpy as np
import pytest
from conftest import refused
from scipy.ndimage import gaussian_filter
from scipy.special import expit

from evaluation.choosing import (
    LOOKED_AT,
    RULES,
    SMALLEST_ML,
    THRESHOLDS,
    WRONG_ML,
    choose_operating_point,
    chosen_operating_point,
    level_of,
    metric_grids,
    probability_levels,
    save_operating_point,
)
from evaluation.metrics import subject_metrics
from prediction.lesions import remove_small
from prediction.operating_point import PLAIN, read_operating_point

# Of one scan: with all slices and with those that training knew; Dice, lesion-wise Dice, wrong ml.
GRID = (2, 3, len(THRESHOLDS), len(SMALLEST_ML))


def test_levels_grow_with_the_probability_and_are_cut_where_it_is():
    rng = np.random.default_rng(0)
    edges = np.float32(THRESHOLDS)
    around = [np.nextafter(edges, np.float32(to)) for to in (0, 1)]
    drawn = expit(rng.uniform(-20, 20, 971))
    probability = np.concatenate([[0, 1], edges, *around, drawn]).astype(np.float32)
    probability = probability.reshape(10, 10, 10)
    levels = probability_levels(probability)
    order = np.argsort(probability, axis=None)
    assert (np.diff(levels.ravel()[order].astype(int)) >= 0).all()
    assert levels.dtype == np.uint16
    # As many as there are probabilities, but for the few that are neighbours.
    assert len(np.unique(levels)) > 0.8 * len(np.unique(probability))
    for threshold in THRESHOLDS:
        np.testing.assert_array_equal(levels > level_of(threshold), probability > threshold)
    odd = np.float32([np.nan, -0.0, -1e-9, 0, 1, 1.0000001])
    assert probability_levels(odd).tolist() == [0, 0, 0, 0, levels.max(), levels.max()]


def test_the_grids_are_the_metrics_of_the_masks():
    rng = np.random.default_rng(0)
    smooth = gaussian_filter(rng.random((30, 30, 30)), 1.5)
    others = gaussian_filter(rng.random((30, 30, 30)), 1.5)
    probability = np.float32((smooth - smooth.min()) / np.ptp(smooth))
    # Lesions that are found, some of which are found and others missed, and none at all.
    for aim, reference in itertools.product(
        RULES,
        (
            smooth > np.quantile(smooth, 0.95),
            np.maximum(smooth, others) > np.quantile(smooth, 0.97),
            smooth > 2,
        ),
    ):
        levels = probability_levels(probability)
        grids = metric_grids(levels, reference.astype(np.uint8), (1, 1, 1), aim)
        masks = [
            [remove_small(probability > t, ml / 0.001) > 0 for ml in SMALLEST_ML]
            for t in THRESHOLDS
        ]
        metrics = [[subject_metrics(reference, mask, (1, 1, 1)) for mask in row] for row in masks]
        for grid, name in zip(grids, LOOKED_AT[aim], strict=True):
            wanted = [[found[name] for found in row] for row in metrics]
            if (aim, name) == ("isles26", "dice"):
                lost = [[found["recognition_quality"] == 0 for found in row] for row in metrics]
                wanted = np.where(lost, 0, wanted)
            assert grid == pytest.approx(np.array(wanted))
            assert len(np.unique(grid)) > 1


def test_the_operating_point_counts_a_subject_once_however_many_sessions():
    good, bad = np.zeros((2, *GRID))
    good[0, :2, 1, 2], bad[0, :2, 6, 3] = 1, 0.9
    point = choose_operating_point([good, bad, bad], ["a", "b", "b"], "lesions")
    assert (point["threshold"], point["smallest_ml"]) == (THRESHOLDS[1], SMALLEST_ML[2])
    assert (point["mean_dice"], point["mean_lesion_dice"], point["subjects"]) == (0.5, 0.5, 2)


def test_the_operating_point_weighs_dice_and_lesion_wise_dice_alike():
    grid = np.zeros(GRID)
    grid[0, 0, 3, 4], grid[0, 1, 3, 4] = 0.6, 0.1
    grid[0, 0, 5, 6], grid[0, 1, 5, 6] = 0.5, 0.3
    grid[0, 0, 7, 8], grid[0, 1, 7, 8] = 0.1, 0.6
    point = choose_operating_point([grid], ["a"], "lesions")
    assert (point["threshold"], point["smallest_ml"]) == (THRESHOLDS[5], SMALLEST_ML[6])
    assert (point["mean_dice"], point["mean_lesion_dice"]) == (0.5, 0.3)


@pytest.mark.parametrize(("second_best", "chosen"), [(0.5, 6), (0.3, 6), (0.29, 2)])
def test_points_with_many_wrong_lesions_are_left_out_unless_the_others_are_not_half_as_good(
    second_best, chosen
):
    grids = np.zeros((3, *GRID))
    grids[:, 0, :2, 2, 0], grids[:, 0, :2, 6, 0] = 0.6, second_best
    grids[:, :, 2] = WRONG_ML + 0.1
    # Of the second best one subject of three has more, which its median does not see.
    grids[:2, 0, 2, 6, 0] = WRONG_ML
    point = choose_operating_point(grids, ["a", "b", "c"], "lesions")
    assert point["threshold"] == THRESHOLDS[chosen]
    assert point["median_false_positive_ml"] == pytest.approx(WRONG_ML + (chosen == 2) / 10)


def test_half_a_brain_in_one_piece_is_no_good_point_though_all_lesions_are_found_by_it():
    reference = np.zeros((20, 20, 20), np.uint8)
    for x in range(0, 15, 3):  # five that are missed, and one that is found
        reference[x : x + 2, 2:4, 2:4] = 1
    reference[15:18, 15:18, 15:18] = 1
    levels = np.full(reference.shape, level_of(0.7), np.uint16)
    levels[15:18, 15:18, 14:18] = level_of(0.9)
    half_a_brain, found = (
        subject_metrics(reference, levels > level_of(t), (1, 1, 1)) for t in (0.5, 0.7)
    )
    assert half_a_brain["dice"] + half_a_brain["lesion_f1"] > found["dice"] + found["lesion_f1"]
    grid = metric_grids(levels, reference, (1, 1, 1), "lesions")
    assert choose_operating_point([[grid, grid]], ["a"], "lesions")["threshold"] == 0.7


def test_dice_alone_chooses_if_it_is_the_aim():
    grid = np.zeros((2, 1, *GRID[2:]))
    grid[0, 0, 3, 4], grid[0, 0, 5, 6] = 0.6, 0.5
    point = choose_operating_point([grid], ["a"], "dice")
    assert (point["threshold"], point["smallest_ml"]) == (THRESHOLDS[3], SMALLEST_ML[4])
    assert point["mean_dice"] == 0.6


def test_for_isles_26_the_metrics_rank_the_points_on_each_scan():
    # Dice, recognition quality, volume and count difference of four scans of three subjects.
    grids = np.zeros((4, 2, 4, *GRID[2:]))
    grids[:, :, 2:] = 9
    grids[:, 0, :, 2, 3] = (0.4, 0.9, 1, 1)  # second in one metric, first in three
    grids[:, 0, 0, 6, 0] = 0.9
    # A subject of two scans counts once: the others outvote it.
    grids[:2, 0, :, 7, 7] = (1, 1, 0, 0)
    point = choose_operating_point(grids, ["a", "a", "b", "c"], "isles26")
    assert (point["threshold"], point["smallest_ml"]) == (THRESHOLDS[2], SMALLEST_ML[3])
    assert point["mean_dice"] == pytest.approx(0.4)
    assert point["mean_recognition_quality"] == pytest.approx(0.9)
    assert point["mean_lesion_count_difference"] == 1


def test_of_equal_operating_points_the_plainest_is_taken():
    grid = np.ones(GRID) * [[[[1]], [[1]], [[0]]]]
    point = choose_operating_point([grid], ["a"], "lesions")
    assert (point["threshold"], point["smallest_ml"]) == (0.5, 0)
    assert not point["trained_slices_only"]


def test_slices_that_training_left_out_are_left_empty_only_where_that_is_better():
    grids = np.full((3, *GRID), 0.5)
    grids[:, 1, :2, 4, 0] = 0.6
    assert choose_operating_point(grids, ["a", "b", "c"], "lesions")["trained_slices_only"]
    grids[:, 0, :2, 2, 0] = 0.7
    point = choose_operating_point(grids, ["a", "b", "c"], "lesions")
    assert not point["trained_slices_only"]
    assert point["threshold"] == THRESHOLDS[2]


def test_a_stored_point_is_read_as_it_was_chosen(tmp_path):
    weights = tmp_path / "best.weights.h5"
    weights.write_bytes(b"weights")
    point = {"threshold": 0.3, "smallest_ml": 0.05, "ends_mm": 50.0, "height_mm": 189.0}
    point["flip"] = True
    save_operating_point(point | {"mean_dice": 0.6}, weights, "dice")
    assert read_operating_point(weights) == point
    assert chosen_operating_point(weights, "dice") == point
    with refused("was chosen for dice, not for evaluation.choose_for = lesions; set that, or"):
        chosen_operating_point(weights, "lesions")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"weights": "0123456789abcdef"}, "not chosen for best.weights.h5 as it is now"),
        ({"rule": "mean Dice"}, "was chosen for another rule"),
        ({"threshold": 0.123}, "its threshold is none of 0.1, 0.2"),
    ],
)
def test_a_point_of_other_weights_another_rule_or_none_of_those_tried_is_not_used_on_test(
    change, reason, tmp_path
):
    weights, stored = tmp_path / "best.weights.h5", tmp_path / "operating_point.json"
    assert chosen_operating_point(weights, "lesions") is None
    weights.write_bytes(b"weights")
    good = save_operating_point(PLAIN, weights, "lesions")
    assert chosen_operating_point(weights, "lesions") == PLAIN
    stored.write_text(json.dumps(good | change))
    with refused(stored, reason, "--subset validation"):
        chosen_operating_point(weights, "lesions")
    stored.write_text(json.dumps({name: good[name] for name in good if name not in change}))
    with refused(stored):
        chosen_operating_point(weights, "lesions")
