"""Figures of a scan against hand-worked ones and a slow way; statistics against scipy's own."""

import json
import math

import numpy as np
import pytest
from conftest import refused
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from scipy.ndimage import gaussian_filter
from scipy.spatial.distance import cdist

from evaluation.metrics import STRATA, compare, subject_metrics, summary, volume_stratum
from prediction.lesions import remove_small

MM = (1.0, 1.0, 1.0)
KEYS = [
    *("lesion_volume_ml", "dice", "precision", "recall", "hd95_mm", "assd_mm"),
    *("volume_difference_ml", "lesion_f1", "lesion_dice", "lesion_count_difference"),
    *("false_positive_ml", "voxel_difference"),
]
FACES = [np.array(step) for axis in np.eye(3, dtype=int) for step in (axis, -axis)]


def cubes(*corners, shape=(12, 10, 9), side=2):
    """Cubes of side³ voxels whose lowest corners are given."""
    mask = np.zeros(shape, np.uint8)
    for x, y, z in corners:
        mask[x : x + side, y : y + side, z : z + side] = 1
    return mask


def figures(reference, prediction, *names, spacing_mm=MM):
    found = subject_metrics(reference, prediction, spacing_mm)
    return tuple(found[name] for name in names)


EMPTY, CUBE = cubes(), cubes((4, 4, 4))


# --- slow and obvious ---


def flood_fill(mask):
    """Sets of voxels that a walk over faces joins."""
    left, components = set(map(tuple, np.argwhere(mask).tolist())), []
    while left:
        to_do, component = [left.pop()], set()
        while to_do:
            voxel = to_do.pop()
            component.add(voxel)
            neighbours = {tuple((voxel + step).tolist()) for step in FACES} & left
            left -= neighbours
            to_do += neighbours
        components.append(component)
    return components


PERFECT = {"dice", "precision", "recall", "lesion_f1", "lesion_dice"}


def lesion_figures(reference, prediction):
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
        "lesion_count_difference": abs(len(lesions) - len(predicted)),
        "false_positive_ml": sum(map(len, wrong)) / 1000,
        "voxel_difference": abs(len(t) - len(p)),
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


@st.composite
def mask_pairs(draw, largest):
    """Two masks of one shape, each anything from empty to full."""
    shape = draw(st.tuples(*(st.integers(1, side) for side in largest)))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    densities = st.sampled_from([0, 0.03, 0.1, 0.3, 0.6, 0.9, 1])
    return tuple((rng.random(shape) < draw(densities)).astype(np.uint8) for _ in range(2))


@settings(max_examples=1000)
@given(mask_pairs((6, 5, 5)))
def test_figures_of_lesions_equal_the_slow_and_obvious_ones(masks):
    expected = lesion_figures(*masks)
    found = subject_metrics(*masks, MM)
    assert {name: found[name] for name in expected} == pytest.approx(expected, abs=1e-12)


@settings(max_examples=300)
@given(mask_pairs((6, 5, 5)), st.tuples(*[st.floats(0.3, 5)] * 3))
def test_distances_equal_those_of_all_pairs_of_surface_voxels(masks, spacing_mm):
    found = figures(*masks, "hd95_mm", "assd_mm", spacing_mm=spacing_mm)
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
    del found["lesion_volume_ml"], swapped["lesion_volume_ml"]
    if masks[0].any() and masks[1].any():
        # Who is found in whom is not symmetric: one prediction may bridge two lesions.
        for name in ("lesion_f1", "lesion_dice"):
            del found[name], swapped[name]
    del found["false_positive_ml"], swapped["false_positive_ml"]
    assert found == pytest.approx(swapped, nan_ok=True)


@given(mask_pairs((6, 5, 5)))
def test_a_perfect_prediction_has_perfect_figures(masks):
    found = subject_metrics(masks[0], masks[0], MM)
    lesion_volume_ml = found.pop("lesion_volume_ml")
    assert lesion_volume_ml == pytest.approx(masks[0].sum() / 1000)
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
    assert found["volume_difference_ml"] == pytest.approx(4 * 0.00192)


def test_the_volume_difference_is_negative_where_lesion_was_missed():
    (difference_ml,) = figures(cubes((0, 0, 0), (5, 5, 5)), CUBE, "volume_difference_ml")
    assert difference_ml == pytest.approx(-0.008)


def test_hand_worked_lesions():
    # Of three lesions one is found, by two predictions; two more predictions touch nothing:
    # TP = 1, FN = 2, FP = 2, so F1 = 1 / (1 + 4 / 2).
    reference = cubes((0, 0, 0), (4, 4, 4), (8, 0, 0))
    prediction = cubes((0, 5, 0), (8, 5, 5))
    prediction[4, 4, 4] = prediction[5, 5, 5] = 1
    assert figures(reference, prediction, "lesion_f1", "lesion_count_difference") == (1 / 3, 1)
    # The found one has 8 voxels, 2 of them are marked, and no others: Dice 2 × 2 / (8 + 2), of five.
    assert figures(reference, prediction, "lesion_dice") == (pytest.approx(0.4 / 5),)
    assert figures(reference, prediction, "false_positive_ml", spacing_mm=(1, 1, 3)) == (
        pytest.approx(16 * 0.003),
    )


def test_two_masks_without_lesion_agree_perfectly():
    found = subject_metrics(EMPTY, EMPTY, MM)
    assert found == {name: float(name in PERFECT) for name in KEYS}


@pytest.mark.parametrize("masks", [(EMPTY, CUBE), (CUBE, EMPTY)])
def test_one_mask_without_lesion_has_ratios_of_0_and_no_distance(masks):
    assert set(figures(*masks, *PERFECT)) == {0}
    assert figures(*masks, "false_positive_ml") == (masks[1].sum() / 1000,)
    assert figures(*masks, "lesion_count_difference", "voxel_difference") == (1, 8)
    assert all(map(math.isnan, figures(*masks, "hd95_mm", "assd_mm")))


def test_cubes_that_touch_by_a_corner_or_an_edge_are_two_lesions_and_by_a_face_one():
    for second, count in (((6, 6, 6), 2), ((6, 6, 4), 2), ((6, 4, 4), 1)):
        together = cubes((4, 4, 4), second)
        assert figures(together, EMPTY, "lesion_count_difference") == (count,)
        assert figures(together, CUBE, "lesion_f1") == (1 / (1 + (count - 1) / 2),)


def test_one_prediction_that_bridges_two_lesions_finds_both():
    reference, bridge = cubes((1, 4, 4), (8, 4, 4)), np.zeros_like(EMPTY)
    bridge[2:9, 4, 4] = 1
    assert figures(reference, bridge, "lesion_f1", "lesion_count_difference") == (1, 1)
    # Of 8 voxels each one is marked, of 7; 2 × 1 / (8 + 7) on both sides.
    assert figures(reference, bridge, "lesion_dice") == (pytest.approx(2 / 15),)
    # The other way round, two predictions find one lesion, and none is wrong.
    assert figures(bridge, reference, "lesion_f1", "lesion_count_difference") == (1, 1)


def test_hand_worked_distances():
    # Reference one voxel, prediction it and one 3 voxels along y of 2 mm: there {0}, back {0, 6}.
    reference, prediction = np.zeros((2, 3, 8, 3), np.uint8)
    reference[1, 2, 1] = prediction[1, 2, 1] = prediction[1, 5, 1] = 1
    hd95, assd = figures(reference, prediction, "hd95_mm", "assd_mm", spacing_mm=(1, 2, 3))
    assert hd95 == pytest.approx(0.95 * 6)
    assert assd == pytest.approx((0 + 0 + 6) / 3)


def test_the_inside_of_a_lesion_is_not_its_surface():
    # A hollow 5³ cube has the surface of a full one, and one of its own around the hole.
    full = cubes((1, 1, 1), shape=(7, 7, 7), side=5)
    hollow = full - cubes((3, 3, 3), shape=(7, 7, 7), side=1)
    (assd,) = figures(full, hollow, "assd_mm")
    assert assd == pytest.approx(6 * 1 / (98 + 104))


@pytest.mark.parametrize("axis", range(3))
@pytest.mark.parametrize("voxels", range(1, 4))
def test_a_cube_that_is_moved_is_as_far_away_as_it_was_moved(axis, voxels):
    spacing_mm, corner = (0.8, 1.1, 3.0), [1, 1, 1]
    reference = cubes(corner, shape=(12, 12, 12), side=6)
    corner[axis] += voxels
    prediction = cubes(corner, shape=(12, 12, 12), side=6)
    # A voxel's way out at the side may be shorter, but never for those of the face left behind.
    (hd95,) = figures(reference, prediction, "hd95_mm", spacing_mm=spacing_mm)
    assert hd95 == pytest.approx(voxels * spacing_mm[axis])


def test_every_figure_is_a_plain_number_in_the_order_of_the_table():
    found = subject_metrics(CUBE, cubes((5, 4, 4)), np.array([1, 1, 2], np.float32))
    assert list(json.loads(json.dumps(found))) == KEYS
    counts = {name for name, value in found.items() if type(value) is int}
    assert counts == {"lesion_count_difference", "voxel_difference"}


def test_the_masks_are_left_as_they_are():
    reference, prediction = CUBE * np.uint8(255), cubes((5, 4, 4), (0, 0, 0))
    before = reference.copy(), prediction.copy()
    subject_metrics(reference, prediction, MM)
    remove_small(prediction, 9)
    np.testing.assert_array_equal((reference, prediction), before)


def test_masks_on_different_grids_are_refused():
    with refused("12×10×9", "12×10×8"):
        subject_metrics(CUBE, CUBE[..., :8], MM)
    with refused("12×10"):
        subject_metrics(CUBE[..., 0], CUBE[..., 0], MM)


# --- small lesions, strata ---


def test_lesions_below_the_smallest_size_are_removed_and_no_others():
    mask = cubes((0, 0, 0), (6, 6, 6)) * np.uint8(255)
    mask[8, 8, 8] = 255  # by a corner: a lesion of its own
    for smallest, left in ((0, 17), (1, 17), (2, 16), (8, 16), (9, 0)):
        kept = remove_small(mask, smallest)
        assert kept.dtype == np.uint8
        assert np.count_nonzero(kept) == left
        assert np.isin(kept, (0, 255)).all()
    assert remove_small(mask > 0, 2).dtype == bool
    assert not remove_small(EMPTY, 5).any()


@settings(max_examples=200)
@given(mask_pairs((6, 5, 5)), st.integers(0, 4))
def test_removing_small_lesions_equals_the_slow_and_obvious_way(masks, smallest):
    expected = np.zeros_like(masks[0])
    for component in flood_fill(masks[0]):
        if len(component) >= smallest:
            expected[tuple(np.transpose(list(component)))] = 1
    np.testing.assert_array_equal(remove_small(masks[0], smallest), expected)


def test_strata_meet_at_1_and_10_and_50_ml():
    volumes_ml = (0, 0.999, 1, 9.999, 10, 50, 50.001, 500)
    found = [STRATA.index(volume_stratum(volume)) for volume in volumes_ml]
    assert found == [0, 0, 1, 1, 2, 2, 3, 3]
    assert STRATA == ("<1 ml", "1–10 ml", "10–50 ml", ">50 ml")


# --- statistics ---


def boot(values, seed):
    rng = np.random.default_rng(seed)
    found = stats.bootstrap((values,), np.mean, method="BCa", random_state=rng)
    return found.confidence_interval


def test_a_summary_of_known_values():
    values = [2, 4, 4, 4, 5, 5, 7, 9]  # the textbook's: mean 5, Σ(x − 5)² = 32
    found = summary(values, seed=0)
    assert (found["n"], found["missing"]) == (8, 0)
    assert found["mean"] == 5
    assert found["sd"] == pytest.approx(math.sqrt(32 / 7))
    assert (found["q1"], found["median"], found["q3"]) == (4, 4.5, 5.5)
    assert found["low"] < 5 < found["high"]


def test_the_interval_is_scipys_and_the_seed_alone_decides_it():
    values = np.random.default_rng(5).exponential(size=700)
    found = summary(values, seed=3)
    # Whatever the size of the batches in which it resamples.
    assert (found["low"], found["high"]) == pytest.approx(tuple(boot(values, 3)), rel=1e-12)
    assert summary(values, seed=3) == found
    assert summary(values, seed=4) != found


def test_the_interval_of_skewed_values_leans_to_their_long_tail():
    found = summary([0.0] * 10 + [1.0, 2.0, 9.0], seed=0)
    assert found["high"] - found["mean"] > 1.3 * (found["mean"] - found["low"])


def test_the_interval_holds_the_true_mean_in_about_95_of_100_samples():
    rng = np.random.default_rng(0)
    intervals = [summary(rng.normal(3, 1, 40), seed) for seed in range(200)]
    held = sum(found["low"] <= 3 <= found["high"] for found in intervals)
    assert 180 <= held <= 198


def test_what_does_not_exist_is_left_out_and_counted():
    found = summary([math.nan, 1.0, 2.0, math.nan, 6.0], seed=0)
    assert (found["n"], found["missing"], found["mean"]) == (3, 2, 3)
    pair = compare([1.0, math.nan, 3.0, 4.0], [0.0, 0.0, math.nan, 1.0], 0, larger_is_better=True)
    assert (pair["n"], pair["missing"], pair["mean_difference"]) == (2, 2, 2)
    assert (pair["wins"], pair["ties"], pair["losses"]) == (2, 0, 0)


def test_too_few_subjects_have_no_interval_and_none_has_no_figure():
    nothing, one, two = (summary(values, seed=0) for values in ([math.nan], [0.5], [0.5, 0.7]))
    assert (nothing.pop("n"), nothing.pop("missing")) == (0, 1)
    assert all(map(math.isnan, nothing.values()))
    assert one["mean"] == one["median"] == 0.5
    assert math.isnan(one["sd"])
    assert two["sd"] == pytest.approx(math.sqrt(0.02))
    assert all(math.isnan(found[end]) for found in (one, two) for end in ("low", "high"))


@pytest.mark.parametrize("values", [[0.1] * 7, [1.0, 1.0, 1 + 2e-16], [0.3 - 0.2, 0.1, 0.1]])
def test_the_interval_of_equal_values_is_that_value(values):
    found = summary(values, seed=0)
    assert found["low"] == found["high"] == pytest.approx(values[0])


PAIRED = stats.norm(0.05, 0.1).ppf(np.linspace(0.01, 0.99, 30))


def paired(differences, larger_is_better=True):
    """Compare two ways that differ so in each subject."""
    other = np.linspace(0.2, 0.7, len(differences))
    return compare(other + np.array(differences), other, 1, larger_is_better)


def test_a_comparison_is_scipys():
    found = paired(PAIRED)
    d = np.round(PAIRED, 9)
    assert found["p"] == pytest.approx(stats.wilcoxon(d).pvalue, rel=1e-6)
    assert (found["low"], found["high"]) == pytest.approx(tuple(boot(d, 1)), rel=1e-6)
    assert found["mean_difference"] == pytest.approx(0.05)
    positive = stats.wilcoxon(d, alternative="greater").statistic
    assert found["effect_size"] == pytest.approx(2 * positive / (30 * 31 / 2) - 1)


def test_hand_worked_comparison():
    # Darwin's maize, crossed against self-fertilised, in eighths of an inch: the two negative
    # differences rank 11 and 14 of 15 in size, so W = 24 (|49|, 6, 8, 16, ... 67); p = 0.04126.
    eighths = [49, -67, 8, 16, 6, 23, 28, 41, 14, 29, 56, 24, 75, 60, -48]
    found = paired(eighths)
    assert found["p"] == pytest.approx(0.04126, abs=1e-5)
    assert found["effect_size"] == pytest.approx((96 - 24) / 120)
    assert (found["wins"], found["ties"], found["losses"]) == (13, 0, 2)


def test_ways_that_differ_in_no_subject_tie():
    for count in (1, 2, 30):
        found = paired([0.0] * count)
        assert (found["p"], found["effect_size"], found["verdict"]) == (1, 0, "not shown")
        assert (found["wins"], found["ties"], found["losses"]) == (0, count, 0)
        assert found["mean_difference"] == 0


def test_rounding_makes_no_winner():
    thirds = np.full(20, 0.1) * 3  # 0.30000000000000004
    found = compare(thirds, np.full(20, 0.3), 0, larger_is_better=True)
    assert (found["ties"], found["p"], found["verdict"]) == (20, 1, "not shown")


def test_no_pair_at_all_shows_nothing():
    for values in ([], [math.nan]):
        found = compare(values, values, 0, larger_is_better=True)
        assert (found["n"], found["missing"], found["verdict"]) == (0, len(values), "not shown")
        assert math.isnan(found["p"]) and math.isnan(found["effect_size"])


def test_what_helps_depends_on_whether_larger_is_better():
    for differences, larger, smaller in (
        (PAIRED, "helped", "hurt"),
        (-PAIRED, "hurt", "helped"),
        (PAIRED - 0.05, "not shown", "not shown"),
    ):
        more, less = paired(differences, True), paired(differences, False)
        assert (more["verdict"], less["verdict"]) == (larger, smaller)
        assert (more["wins"], more["losses"]) == (less["losses"], less["wins"])
        assert more["effect_size"] == less["effect_size"]


@pytest.mark.parametrize("larger_is_better", [True, False])
def test_five_subjects_show_nothing_however_large_the_difference(larger_is_better):
    differences = np.array([0.5, 0.6, 0.7, 0.8, 0.9])
    for sign in (1, -1):
        found = paired(sign * differences, larger_is_better)
        assert sign * found["low"] > 0 and sign * found["high"] > 0
        assert found["p"] == 1 / 16
        assert found["verdict"] == "not shown"


def test_a_small_p_with_an_interval_across_0_shows_nothing():
    # Most subjects gain a little, one loses much: the mean may as well be below 0.
    differences = np.array([*np.linspace(0.01, 0.03, 20), -0.9])
    for sign in (1, -1):
        found = paired(sign * differences)
        assert found["p"] < 0.05 and found["low"] < 0 < found["high"]
        assert found["verdict"] == "not shown"


def test_a_mean_and_ranks_that_disagree_show_nothing():
    # 40 of 46 lose a little, and 6 gain so much that the mean is surely above 0.
    differences = np.array([*np.linspace(-0.02, -0.01, 40), *np.linspace(0.4, 0.6, 6)])
    for sign in (1, -1):
        found = paired(sign * differences)
        assert found["p"] < 0.05 and sign * found["effect_size"] < 0
        assert sign * found["low"] > 0 and sign * found["high"] > 0
        assert found["verdict"] == "not shown"


def test_a_comparison_and_a_summary_are_plain_numbers():
    for found in (paired(PAIRED), paired([0.0]), summary(PAIRED, 0), summary([1, 2, 4], 0)):
        assert json.loads(json.dumps(found)) == pytest.approx(found, nan_ok=True)


def test_lists_of_different_subjects_are_refused():
    with pytest.raises(ValueError):
        compare([0.1, 0.2, 0.3], [0.1], 0, larger_is_better=True)


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
