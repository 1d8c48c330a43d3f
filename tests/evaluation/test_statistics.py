"""Statistics over subjects against textbooks and scipy's own."""

import json
import math

import numpy as np
import pytest
from scipy import stats

from evaluation.formatting import mean_and_sd
from evaluation.statistics import compare, compare_seeds, summary
from evaluation.strata import VOLUME_STRATA, volume_stratum


def test_strata_meet_at_1_and_10_and_50_ml():
    volumes_ml = (0.001, 0.999, 1, 9.999, 10, 50, 50.001, 500)
    found = [VOLUME_STRATA.index(volume_stratum(volume)) for volume in volumes_ml]
    assert found == [0, 0, 1, 1, 2, 2, 3, 3]
    assert volume_stratum(0) == "no lesion"
    assert VOLUME_STRATA == ("<1 ml", "1–10 ml", "10–50 ml", ">50 ml")


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


def test_one_value_is_told_without_a_spread_and_none_as_a_dash():
    shown = [mean_and_sd(summary(values, 0), 2) for values in ([1.0, 2.0], [0.5], [math.nan])]
    assert shown == ["1.50 ± 0.71", "0.50", "–"]


def test_what_does_not_exist_is_left_out_and_counted():
    found = summary([math.nan, 1.0, 2.0, math.nan, 6.0], seed=0)
    assert (found["n"], found["missing"], found["mean"]) == (3, 2, 3)
    pair = compare([1.0, math.nan, 3.0, 4.0], [0.0, 0.0, math.nan, 1.0], 0, larger_is_better=True)
    assert (pair["n"], pair["missing"], pair["mean_difference"]) == (2, 2, 2)
    assert (pair["wins"], pair["ties"], pair["losses"]) == (2, 0, 0)


def test_too_few_subjects_have_no_interval_and_none_has_no_number():
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


@pytest.mark.parametrize(("wins", "p"), [(4, 2 / 2**4), (5, 2 / 2**5), (6, 2 / 2**6)])
def test_ties_do_not_make_few_differences_significant(wins, p):
    # Exact: of 2^n ways to sign n differences the two in which all signs agree.
    found = paired([0.0] * 30 + [0.1 + 0.01 * i for i in range(wins)])
    assert found["p"] == pytest.approx(p)
    assert (found["wins"], found["ties"], found["losses"]) == (wins, 30, 0)


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
    two_seeds = np.random.default_rng(0).normal(size=(9, 2))
    for found in (
        paired(PAIRED),
        paired([0.0]),
        compare(two_seeds, two_seeds[::-1], 0, larger_is_better=True),
        summary(PAIRED, 0),
        summary([1, 2, 4], 0),
    ):
        found |= found.pop("seeds", {})
        ends = {name: found.pop(name) for name in ("counts", "sd") if name in found}
        assert json.loads(json.dumps(found)) == pytest.approx(found, nan_ok=True)
        assert json.loads(json.dumps(ends)).keys() == ends.keys()


# --- several seeds ---


def two_ways(rng, subjects, seeds, difference, sd_of_seeds):
    """Dice of two ways, subjects × seeds, of which the first is better by a difference."""
    people = rng.normal(0.6, 0.2, (subjects, 1))

    def way(mean):
        by_person = rng.normal(mean, 0.04, (subjects, 1))
        by_seed = rng.normal(0, sd_of_seeds, (1, seeds))
        return people + by_person + by_seed + rng.normal(0, 0.05, (subjects, seeds))

    return way(difference), way(0)


def test_seeds_are_averaged_before_subjects_are_paired():
    one, other = two_ways(np.random.default_rng(0), 30, 3, 0.05, 0.01)
    found = compare(one, other, 0, larger_is_better=True)
    averaged = compare(one.mean(1), other.mean(1), 0, larger_is_better=True)
    for name in ("n", "mean_difference", "p", "effect_size", "wins", "losses"):
        assert found[name] == pytest.approx(averaged[name])
    assert found["low"] < averaged["low"] and averaged["high"] < found["high"]


def test_a_value_that_a_seed_lacks_is_taken_from_the_others():
    one, other = np.array([[0.4, math.nan], [0.6, 0.8], [math.nan] * 2]), np.array([[0.1]] * 3)
    found = compare(one, other, 0, larger_is_better=True)
    assert (found["n"], found["missing"]) == (2, 1)
    assert found["mean_difference"] == pytest.approx((0.3 + 0.6) / 2)


def test_seeds_are_compared_by_students_test_of_their_means():
    one, other = two_ways(np.random.default_rng(1), 40, 3, 0.02, 0.01)
    found = compare_seeds(one, other)
    assert found["counts"] == [3, 3]
    assert found["sd"] == pytest.approx([one.mean(0).std(ddof=1), other.mean(0).std(ddof=1)])
    scipys = stats.ttest_ind(one.mean(0), other.mean(0))
    assert found["p"] == pytest.approx(scipys.pvalue, rel=1e-4)
    low, high = scipys.confidence_interval()
    assert found["reach"] == pytest.approx((high - low) / 2, rel=1e-4)
    assert found["larger_than_noise"] is bool(found["p"] < 0.05)


@pytest.mark.parametrize(("counts", "known"), [((1, 1), False), ((3, 1), False), ((2, 2), True)])
def test_noise_is_unknown_where_a_way_has_one_seed(counts, known):
    one, other = two_ways(np.random.default_rng(2), 20, 3, 0.1, 0.01)
    found = compare_seeds(one[:, : counts[0]], other[:, : counts[1]])
    assert (found["larger_than_noise"] is not None) == (not math.isnan(found["p"])) == known


def test_seeds_that_agree_to_the_last_bit_make_no_noise():
    same = np.full((8, 2), 0.5)
    assert compare_seeds(same, same)["larger_than_noise"] is False
    assert compare_seeds(same + 0.1, same)["larger_than_noise"] is True


@pytest.mark.parametrize("subjects", [36, 200])
def test_one_seed_takes_noise_for_a_difference_and_several_do_not(subjects):
    rng = np.random.default_rng(3)
    shown, held = {}, {}
    for seeds in (1, 2, 3):
        found = [
            compare(*two_ways(rng, subjects, seeds, 0, 0.012), 0, larger_is_better=True)
            for _ in range(100)
        ]
        shown[seeds] = sum(own["verdict"] != "not shown" for own in found)
        held[seeds] = sum(own["low"] <= 0 <= own["high"] for own in found)
    assert shown[1] >= 10 and held[1] <= 85
    assert max(shown[2], shown[3]) <= 8
    assert min(held[2], held[3]) >= 90


def test_lists_of_different_subjects_are_refused():
    with pytest.raises(ValueError):
        compare([0.1, 0.2, 0.3], [0.1], 0, larger_is_better=True)
