"""Metrics of a scan against hand-worked ones and a slow way."""

import itertools
import json
import math

import numpy as np
import pytest
from conftest import refused
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import gaussian_filter
from scipy.spatial.distance import cdist
from small_masks import CORNERS, FACES, cubes, flood_fill, mask_pairs

from evaluation.metrics import pr_auc, subject_metrics

MM = (1.0, 1.0, 1.0)
KEYS = [
    *(
        "lesion_volume_ml",
        "lesion_count",
        "longest_voxel_side_mm",
        "dice",
        "precision",
        "recall",
        "hd95_mm",
        "assd_mm",
    ),
    *("volume_difference_ml", "lesion_f1", "lesion_dice", "atlas_lesion_count_difference"),
    *("false_positive_ml", "voxel_difference", "absolute_volume_difference_ml"),
    *("lesion_count_difference", "recognition_quality", "pr_auc"),
]
PERFECT = {"dice", "precision", "recall", "lesion_f1", "lesion_dice", "recognition_quality"}
EMPTY, CUBE = cubes(), cubes((4, 4, 4))


def measured(reference, prediction, *names, spacing_mm=MM):
    found = subject_metrics(reference, prediction, spacing_mm)
    return tuple(found[name] for name in names)


def lesion_metrics(reference, prediction):
    """The ATLAS challenge's four, the lesion-wise Dice of BraTS, and what is marked for nothing."""
    t, p = (set(map(tuple, np.argwhere(mask).tolist())) for mask in (reference, prediction))
    lesions, predicted = flood_fill(reference), flood_fill(prediction)
    touching = [set().union(*(one for one in predicted if one & lesion)) for lesion in lesions]
    each = [
        2 * len(lesion & found) / (len(lesion) + len(found))
        for lesion, found in zip(lesions, touching, strict=True)
    ]
    tp, fn = sum(map(bool, touching)), sum(not found for found in touching)
    wrong = [lesion for lesion in predicted if not lesion & t]
    fp = len(wrong)
    return {
        "dice": 2 * len(t & p) / (len(t) + len(p)) if t or p else 1.0,
        "lesion_f1": tp / (tp + (fp + fn) / 2) if t or p else 1.0,
        "lesion_dice": sum(each) / (tp + fn + fp) if t or p else 1.0,
        "atlas_lesion_count_difference": abs(len(lesions) - len(predicted)),
        "false_positive_ml": sum(map(len, wrong)) / 1000,
        "voxel_difference": abs(len(t) - len(p)),
    }


def isles_metrics(reference, prediction):
    """Of ISLES'26: lesions that touch by a corner are one, and pairs are made one by one."""
    lesions, predicted = (flood_fill(mask, CORNERS) for mask in (reference, prediction))
    shares = [
        (len(one & other) / len(one | other), i, j)
        for i, one in enumerate(predicted)
        for j, other in enumerate(lesions)
    ]
    pairs = []
    for share, i, j in sorted(shares, reverse=True):
        if share >= 0.25 and all(i != a and j != b for a, b in pairs):
            pairs.append((i, j))
    wrong = len(predicted) - len(pairs)
    missed = len(lesions) - len(pairs)
    counted = len(pairs) + (wrong + missed) / 2
    return {
        "lesion_count_difference": abs(len(lesions) - len(predicted)),
        "recognition_quality": len(pairs) / counted if counted else 1.0,
        "absolute_volume_difference_ml": abs(int(reference.sum()) - int(prediction.sum())) / 1000,
    }


def brute_force_distances(reference, prediction, spacing_mm):
    """HD95 and ASSD from all pairs of surface voxels."""
    surfaces = []
    for mask in (reference, prediction):
        voxels = set(map(tuple, np.argwhere(mask).tolist()))
        surface = [
            voxel
            for voxel in sorted(voxels)
            if any(tuple((voxel + step).tolist()) not in voxels for step in FACES)
        ]
        surfaces.append(np.reshape(surface, (-1, 3)) * spacing_mm)
    if not all(map(len, surfaces)):
        nothing = math.nan if any(map(len, surfaces)) else 0.0
        return nothing, nothing
    distances = cdist(*surfaces)
    there, back = distances.min(axis=1), distances.min(axis=0)
    hd95 = max(np.percentile(there, 95), np.percentile(back, 95))
    return hd95, (there.sum() + back.sum()) / (there.size + back.size)


@settings(max_examples=1000)
@given(mask_pairs((6, 5, 5)))
def test_metrics_of_lesions_equal_the_slow_and_obvious_ones(masks):
    expected = lesion_metrics(*masks)
    found = subject_metrics(*masks, MM)
    assert {name: found[name] for name in expected} == pytest.approx(expected, abs=1e-12)


@settings(max_examples=500)
@given(mask_pairs((6, 5, 5)))
def test_metrics_of_the_successor_equal_the_slow_and_obvious_ones(masks):
    expected = isles_metrics(*masks)
    found = subject_metrics(*masks, MM)
    assert {name: found[name] for name in expected} == pytest.approx(expected, abs=1e-12)


@settings(max_examples=300)
@given(mask_pairs((6, 5, 5)), st.integers(0, 2**32 - 1), st.sampled_from([1, 2, 5, 256]))
def test_the_area_under_the_curve_is_that_of_all_thresholds_one_by_one(masks, seed, count):
    reference, levels = masks[0] > 0, np.zeros(masks[0].shape, np.uint8)
    levels[:] = np.random.default_rng(seed).integers(0, count, levels.shape)
    if not reference.any():
        assert pr_auc(reference, levels) == (len(np.unique(levels)) == 1)
        return
    points = [(0.0, 1.0)]  # recall and precision where nothing is marked
    for threshold in sorted(set(levels.ravel().tolist()), reverse=True):
        marked = levels >= threshold
        right = np.count_nonzero(marked & reference)
        points.append((right / reference.sum(), right / marked.sum()))
    area = sum((b[0] - a[0]) * (a[1] + b[1]) / 2 for a, b in itertools.pairwise(points))
    assert pr_auc(reference, levels) == pytest.approx(area, abs=1e-12)
    assert subject_metrics(*masks, MM, levels)["pr_auc"] == pr_auc(reference, levels)


@settings(max_examples=300)
@given(mask_pairs((6, 5, 5)), st.tuples(*[st.floats(0.3, 5)] * 3))
def test_distances_equal_those_of_all_pairs_of_surface_voxels(masks, spacing_mm):
    found = measured(*masks, "hd95_mm", "assd_mm", spacing_mm=spacing_mm)
    expected = brute_force_distances(*masks, spacing_mm)
    assert found == pytest.approx(expected, rel=1e-9, nan_ok=True)


@given(mask_pairs((6, 5, 5)), st.tuples(*[st.floats(0.3, 5)] * 3))
def test_swapping_the_masks_swaps_precision_and_recall_and_changes_no_other_agreement(
    masks, spacing_mm
):
    found = subject_metrics(*masks, spacing_mm)
    swapped = subject_metrics(*masks[::-1], spacing_mm)
    swapped["precision"], swapped["recall"] = swapped["recall"], swapped["precision"]
    swapped["volume_difference_ml"] *= -1
    for name in ("lesion_volume_ml", "lesion_count"):
        del found[name], swapped[name]
    if masks[0].any() and masks[1].any():
        # Who is found in whom is not symmetric: one prediction may bridge two lesions.
        for name in ("lesion_f1", "lesion_dice"):
            del found[name], swapped[name]
    del found["false_positive_ml"], swapped["false_positive_ml"]
    assert found == pytest.approx(swapped, nan_ok=True)


@given(mask_pairs((6, 5, 5)))
def test_a_perfect_prediction_has_perfect_metrics(masks):
    found = subject_metrics(masks[0], masks[0], MM)
    lesion_volume_ml = found.pop("lesion_volume_ml")
    assert lesion_volume_ml == pytest.approx(masks[0].sum() / 1000)
    assert (found.pop("lesion_count") > 0) == masks[0].any()
    assert found.pop("longest_voxel_side_mm") == 1
    assert math.isnan(found.pop("pr_auc"))
    assert found == {name: float(name in PERFECT) for name in found}


@given(mask_pairs((5, 4, 4)), st.tuples(*[st.integers(0, 3)] * 6))
def test_background_around_the_masks_changes_nothing(masks, width):
    padded = [np.pad(mask, np.reshape(width, (3, 2))) for mask in masks]
    found, expected = (subject_metrics(*pair, (1, 2, 3)) for pair in (padded, masks))
    assert found == pytest.approx(expected, nan_ok=True)


@given(mask_pairs((5, 4, 4)))
def test_masks_of_0_and_255_and_of_bool_count_the_same_as_0_and_1(masks):
    expected = subject_metrics(*masks, MM)
    reference, prediction = masks
    for pair in (
        (reference * np.uint8(255), prediction),
        (reference, prediction * np.uint8(255)),
        (reference.astype(bool), prediction * np.uint8(2)),
    ):
        assert subject_metrics(*pair, MM) == pytest.approx(expected, nan_ok=True)


# --- by hand ---


def test_hand_worked_overlap():
    # 8 voxels of reference, 12 predicted, 4 of them right, 0.8 × 0.8 × 3 mm = 1.92 µl each.
    prediction = cubes((5, 4, 4), (9, 0, 0))
    prediction[9:11, 0:2, 0:1] = 0
    found = subject_metrics(CUBE, prediction, (0.8, 0.8, 3))
    assert found["dice"] == 8 / 20
    assert found["precision"] == 4 / 12
    assert found["recall"] == 4 / 8
    assert found["voxel_difference"] == 4
    assert found["lesion_volume_ml"] == pytest.approx(8 * 0.00192)
    assert (found["lesion_count"], found["longest_voxel_side_mm"]) == (1, 3)
    assert found["volume_difference_ml"] == pytest.approx(4 * 0.00192)


def test_the_volume_difference_is_negative_where_lesion_was_missed():
    (difference_ml,) = measured(cubes((0, 0, 0), (5, 5, 5)), CUBE, "volume_difference_ml")
    assert difference_ml == pytest.approx(-0.008)


def test_hand_worked_lesions():
    # Of three lesions one is found, by two predictions; two more predictions touch nothing:
    # TP = 1, FN = 2, FP = 2, so F1 = 1 / (1 + 4 / 2).
    reference = cubes((0, 0, 0), (4, 4, 4), (8, 0, 0))
    prediction = cubes((0, 5, 0), (8, 5, 5))
    prediction[4, 4, 4] = prediction[5, 5, 5] = 1
    assert measured(reference, prediction, "lesion_f1", "atlas_lesion_count_difference") == (
        1 / 3,
        1,
    )
    # The found one has 8 voxels, 2 of them are marked, and no others: Dice 2 × 2 / (8 + 2), of five.
    assert measured(reference, prediction, "lesion_dice") == (pytest.approx(0.4 / 5),)
    assert measured(reference, prediction, "false_positive_ml", spacing_mm=(1, 1, 3)) == (
        pytest.approx(16 * 0.003),
    )


def test_two_masks_without_lesion_agree_perfectly():
    found = subject_metrics(EMPTY, EMPTY, MM, EMPTY)
    ones = {*PERFECT, "pr_auc", "longest_voxel_side_mm"}
    assert found == {name: float(name in ones) for name in KEYS}


@pytest.mark.parametrize("masks", [(EMPTY, CUBE), (CUBE, EMPTY)])
def test_one_mask_without_lesion_has_ratios_of_0_and_no_distance(masks):
    assert set(measured(*masks, *PERFECT)) == {0}
    assert measured(*masks, "false_positive_ml") == (masks[1].sum() / 1000,)
    assert measured(*masks, "atlas_lesion_count_difference", "voxel_difference") == (1, 8)
    assert all(map(math.isnan, measured(*masks, "hd95_mm", "assd_mm")))


def test_cubes_that_touch_by_a_corner_or_an_edge_are_two_lesions_and_by_a_face_one():
    for second, count in (((6, 6, 6), 2), ((6, 6, 4), 2), ((6, 4, 4), 1)):
        together = cubes((4, 4, 4), second)
        assert measured(together, EMPTY, "atlas_lesion_count_difference") == (count,)
        assert measured(together, CUBE, "lesion_f1") == (1 / (1 + (count - 1) / 2),)


def test_to_isles_26_cubes_that_touch_by_a_corner_are_one_lesion():
    for second, count in (((6, 6, 6), 1), ((6, 6, 4), 1), ((7, 7, 7), 2)):
        assert measured(cubes((4, 4, 4), second), EMPTY, "lesion_count_difference") == (count,)


def test_a_lesion_is_recognised_once_and_from_a_quarter_of_the_union_on():
    # A cube of 8 voxels against one moved by a voxel: 4 of 12 are shared; along two axes 2 of 14.
    assert measured(CUBE, cubes((5, 4, 4)), "recognition_quality") == (1,)
    assert measured(CUBE, cubes((5, 5, 4)), "recognition_quality") == (0,)
    exactly = CUBE.copy()
    exactly[4:6, 4:6, 5] = exactly[4:6, 4, 4] = 0
    assert exactly.sum() == 2
    assert measured(CUBE, exactly, "recognition_quality") == (1,)
    # Two predictions cover one lesion by halves: one is it, the other is wrong.
    bar, halves = np.zeros((2, 12, 3, 3), np.uint8)
    bar[1:10, 1, 1] = halves[1:5, 1, 1] = halves[6:10, 1, 1] = 1
    assert measured(bar, halves, "recognition_quality") == (pytest.approx(2 / 3),)
    assert measured(bar, halves, "lesion_f1") == (1,)


def test_a_soft_map_counts_though_its_mask_is_empty():
    soft = CUBE * np.uint8(3)
    assert subject_metrics(CUBE, EMPTY, MM, soft)["pr_auc"] == 1
    assert subject_metrics(EMPTY, EMPTY, MM, soft)["pr_auc"] == 0
    share = CUBE.sum() / CUBE.size
    assert subject_metrics(CUBE, EMPTY, MM, EMPTY)["pr_auc"] == pytest.approx((1 + share) / 2)


def test_one_prediction_that_bridges_two_lesions_finds_both():
    reference, bridge = cubes((1, 4, 4), (8, 4, 4)), np.zeros_like(EMPTY)
    bridge[2:9, 4, 4] = 1
    assert measured(reference, bridge, "lesion_f1", "atlas_lesion_count_difference") == (1, 1)
    # Of 8 voxels each one is marked, of 7; 2 × 1 / (8 + 7) on both sides.
    assert measured(reference, bridge, "lesion_dice") == (pytest.approx(2 / 15),)
    # The other way round, two predictions find one lesion, and none is wrong.
    assert measured(bridge, reference, "lesion_f1", "atlas_lesion_count_difference") == (1, 1)


def test_hand_worked_distances():
    # Reference one voxel, prediction it and one 3 voxels along y of 2 mm: there {0}, back {0, 6}.
    reference, prediction = np.zeros((2, 3, 8, 3), np.uint8)
    reference[1, 2, 1] = prediction[1, 2, 1] = prediction[1, 5, 1] = 1
    hd95, assd = measured(reference, prediction, "hd95_mm", "assd_mm", spacing_mm=(1, 2, 3))
    assert hd95 == pytest.approx(0.95 * 6)
    assert assd == pytest.approx((0 + 0 + 6) / 3)


def test_the_inside_of_a_lesion_is_not_its_surface():
    # A hollow 5³ cube has the surface of a full one, and one of its own around the hole.
    full = cubes((1, 1, 1), shape=(7, 7, 7), side=5)
    hollow = full - cubes((3, 3, 3), shape=(7, 7, 7), side=1)
    (assd,) = measured(full, hollow, "assd_mm")
    assert assd == pytest.approx(6 * 1 / (98 + 104))


@pytest.mark.parametrize("axis", range(3))
@pytest.mark.parametrize("voxels", range(1, 4))
def test_a_cube_that_is_moved_is_as_far_away_as_it_was_moved(axis, voxels):
    spacing_mm, corner = (0.8, 1.1, 3.0), [1, 1, 1]
    reference = cubes(corner, shape=(12, 12, 12), side=6)
    corner[axis] += voxels
    prediction = cubes(corner, shape=(12, 12, 12), side=6)
    # A voxel's way out at the side may be shorter, but never for those of the face left behind.
    (hd95,) = measured(reference, prediction, "hd95_mm", spacing_mm=spacing_mm)
    assert hd95 == pytest.approx(voxels * spacing_mm[axis])


def test_every_metric_is_a_plain_number_in_the_order_of_the_table():
    other = cubes((5, 4, 4))
    found = subject_metrics(CUBE, other, np.array([1, 1, 2], np.float32), other)
    assert list(json.loads(json.dumps(found))) == KEYS
    counts = {name for name, value in found.items() if type(value) is int}
    lesions = {"lesion_count", "atlas_lesion_count_difference", "lesion_count_difference"}
    assert counts == lesions | {"voxel_difference"}


def test_the_masks_are_left_as_they_are():
    reference, prediction = CUBE * np.uint8(255), cubes((5, 4, 4), (0, 0, 0))
    before = reference.copy(), prediction.copy()
    subject_metrics(reference, prediction, MM)
    np.testing.assert_array_equal((reference, prediction), before)


def test_masks_on_different_grids_are_refused():
    with refused("12×10×9", "12×10×8"):
        subject_metrics(CUBE, CUBE[..., :8], MM)
    with refused("12×10"):
        subject_metrics(CUBE[..., 0], CUBE[..., 0], MM)


def test_hd95_is_that_of_monai_where_the_benchmarks_are_installed():
    monai = pytest.importorskip("monai.metrics")
    import torch

    rng = np.random.default_rng(0)
    for _ in range(50):
        shape, spacing_mm = rng.integers(8, 24, 3), tuple(rng.uniform(0.5, 3, 3))
        smooth = [gaussian_filter(rng.random(shape), rng.uniform(0.5, 2)) for _ in range(2)]
        masks = [values > np.quantile(values, rng.uniform(0.5, 0.98)) for values in smooth]
        one, other = (torch.tensor(mask[None, None], dtype=torch.float32) for mask in masks)
        wanted = monai.compute_hausdorff_distance(
            one, other, include_background=True, percentile=95, spacing=spacing_mm
        )
        found = subject_metrics(*masks, spacing_mm)["hd95_mm"]
        assert found == pytest.approx(float(wanted), abs=1e-4)
