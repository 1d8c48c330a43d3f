"""The metrics of all subjects described, compared, and put in sentences: did it help?"""

import numpy as np
import pytest

from evaluation.comparison import compare_runs, describe, divide, rank_runs
from evaluation.metric_table import METRICS
from evaluation.sentences import notes
from evaluation.strata import volume_stratum

PERFECT = {name: float(metric.larger_is_better) for name, metric in METRICS.items()}


def row(run, subject, session="1", site="R001", **metrics):
    """A row of metrics.csv: a perfect prediction of a lesion of 5 ml, but for `metrics`."""
    whose = {"run": run, "subject": subject, "session": session, "site": site}
    return (
        whose
        | {"lesion_volume_ml": 5.0}
        | PERFECT
        | {"lesion_outside_ml": 0.0, "lesion_below_ml": 0.0}
        | metrics
    )


def test_sessions_are_averaged_before_subjects():
    rows = [row("a", "1", "1", dice=0.2), row("a", "1", "2", dice=0.4), row("a", "2", dice=0.9)]
    found = describe(rows, 0)
    assert (found["subjects"], found["scans"]) == (2, 3)
    assert found["metrics"]["dice"]["mean"] == pytest.approx(0.6)


def test_runs_are_ranked_by_scan_and_metric_and_equal_ones_share_a_rank():
    equal = {"absolute_volume_difference_ml": 1.0, "lesion_count_difference": 2.0}
    rows = [
        row("a", "1", dice=0.5, recognition_quality=0.5, pr_auc=0.7, **equal),
        row("b", "1", dice=0.6, recognition_quality=0.4, pr_auc=0.6, **equal),
        # To the organisers its Dice is 0, as no lesion is recognised; it has no soft map.
        row("a", "2", dice=0.9, recognition_quality=0.0, pr_auc=np.nan, **equal),
        row("b", "2", dice=0.1, recognition_quality=0.1, pr_auc=0.1, **equal),
    ]
    found = rank_runs(rows, "isles26")
    # The first scan: 2, 1.5, 1.5, 1, 1; the second: 2, 1.5, 1.5, 2, 2.
    assert found["mean_rank"] == {"b": pytest.approx(1.4), "a": pytest.approx(1.6)}
    assert list(found["mean_rank"]) == ["b", "a"]
    assert found["scans"] == 2


def test_strata_follow_the_lesion_volume_and_the_site():
    volumes_ml = (0.5, 5, 8, 30, 80)
    rows = [
        row("a", str(i), site=f"R{i % 2}", lesion_volume_ml=ml, dice=ml / 100)
        for i, ml in enumerate(volumes_ml)
    ]
    found = describe(rows, 0)
    assert [s["subjects"] for s in found["strata"]["lesion volume"].values()] == [1, 2, 1, 1]
    for ml in (0.5, 30, 80):
        stratum = found["strata"]["lesion volume"][volume_stratum(ml)]
        assert stratum["dice"]["mean"] == pytest.approx(ml / 100)
    assert [s["subjects"] for s in found["strata"]["site"].values()] == [3, 2]


def test_runs_are_divided_alike_though_one_has_seeds_that_lack_scans():
    rows = [row("a", str(i), participant_age=str(30 + i)) for i in range(10)]
    rows += [row("b", str(i), participant_age=str(30 + i), seed=0) for i in range(10)]
    rows += [row("b", str(i), participant_age=str(30 + i), seed=1) for i in range(5)]
    strata = divide(rows, ["age"])
    found = [describe([own for own in rows if own["run"] == run], 0, strata) for run in "ab"]
    one, other = (own["strata"]["age"] for own in found)
    assert list(one) == list(other) == ["30 to 32", "33 to 34", "35 to 36", "37 to 39"]
    assert [s["subjects"] for s in one.values()] == [s["subjects"] for s in other.values()]
    assert found[1]["seeds"] == 2


def test_marks_on_scans_without_lesion_are_told_apart():
    none = {"lesion_volume_ml": 0.0}
    marked = {
        "dice": 0.0,
        "volume_difference_ml": 3.0,
        "voxel_difference": 3000,
        "atlas_lesion_count_difference": 2,
        "hd95_mm": np.nan,
        "assd_mm": np.nan,
    }
    found = describe([row("a", "1", **none), row("a", "2", **none, **marked), row("a", "3")], 0)
    assert found["without_lesion"] == {
        "scans": 2,
        "with_false_positives": 1,
        "false_positive_ml": 1.5,
        "false_positive_lesions": 1.0,
    }
    assert found["metrics"]["hd95_mm"]["missing"] == 1
    assert found["with_lesion"]["subjects"] == 1
    assert found["with_lesion"]["dice"]["mean"] == 1
    told = " ".join(notes({"a": found}))
    assert "1 of 2 scans without lesion have something marked" in told
    assert "Dice of the 1 subjects with a lesion alone 1.000" in told


def test_an_empty_prediction_has_no_distance_and_the_rest_is_compared():
    lost = {"dice": 0.0, "hd95_mm": np.nan, "assd_mm": np.nan}
    rows = [row("a", str(i)) for i in range(8)]
    rows += [row("b", str(i), hd95_mm=4.0 + i) for i in range(7)] + [row("b", "7", **lost)]
    found = compare_runs(rows, "b", "a", 0)["metrics"]["hd95_mm"]
    assert (found["n"], found["missing"], found["verdict"]) == (7, 1, "hurt")
    assert "1 where it does not exist" in found["sentence"]


def test_a_run_that_marks_nothing_in_the_hard_sessions_does_not_gain_by_it():
    lost = {"dice": 0.0, "hd95_mm": np.nan, "assd_mm": np.nan}
    rows = [row(run, str(i), "1", hd95_mm=4.0 + i) for run in "ab" for i in range(8)]
    rows += [row("a", str(i), "2", hd95_mm=44.0) for i in range(8)]
    rows += [row("b", str(i), "2", **lost) for i in range(8)]
    found = compare_runs(rows, "b", "a", 0)["metrics"]
    assert found["dice"]["verdict"] == "hurt"
    hd95 = found["hd95_mm"]
    assert (hd95["n"], hd95["mean_difference"], hd95["verdict"]) == (8, 0.0, "not shown")
    described = describe([own for own in rows if own["run"] == "b"], 0)["metrics"]
    assert [described[name]["missing"] for name in ("hd95_mm", "dice")] == [8, 0]


def test_rounding_of_means_over_seeds_decides_no_rank():
    equal = {"absolute_volume_difference_ml": 1.0, "lesion_count_difference": 2.0}
    equal |= {"recognition_quality": 0.5, "pr_auc": 0.5}
    rows = [
        row("a", "1", dice=dice, seed=seed, **equal) for seed, dice in enumerate((0.1, 0.2, 0.3))
    ]
    rows += [
        row("b", "1", dice=dice, seed=seed, **equal) for seed, dice in enumerate((0.3, 0.2, 0.1))
    ]
    assert rank_runs(rows, "isles26")["mean_rank"] == {"a": 1.5, "b": 1.5}


def compared(**metrics):
    """Sentences on 12 subjects that all differ by about so much from a middling baseline."""
    middling = dict.fromkeys(METRICS, 0.5)
    rows = [row("train", str(i), **middling) for i in range(12)]
    rows += [
        row(
            "transfer",
            str(i),
            **middling | {name: 0.5 + by * (1 + i / 20) for name, by in metrics.items()},
        )
        for i in range(12)
    ]
    found = compare_runs(rows, "transfer", "train", 0)["metrics"]
    return {name: metric["sentence"] for name, metric in found.items()}


def test_clearly_better_metrics_are_said_to_have_helped():
    better = {name: 0.2 if PERFECT[name] else -0.2 for name in METRICS}
    for sentence in compared(**better).values():
        assert "transfer helped, " in sentence
        assert "12 better, 0 equal, 0 worse" in sentence
    assert compared(dice=0.2)["dice"] == (
        "Dice: transfer helped, +0.255 against train (95 % interval +0.235 to +0.273; "
        "p < 0.001; 12 better, 0 equal, 0 worse)."
    )


def test_clearly_worse_metrics_are_said_to_have_hurt():
    worse = {name: -0.2 if PERFECT[name] else 0.2 for name in METRICS}
    assert all("transfer hurt, " in sentence for sentence in compared(**worse).values())


def test_equal_metrics_are_said_to_show_nothing():
    for sentence in compared().values():
        assert "not shown that transfer helped or hurt" in sentence
        assert "0 better, 12 equal, 0 worse" in sentence


def test_a_volume_is_compared_by_how_far_it_is_off():
    # With its sign it would be smaller: once is enough, and without it.
    found = compared(volume_difference_ml=-1.2, absolute_volume_difference_ml=1.2)
    assert "hurt" in found["absolute_volume_difference_ml"]
    assert "volume_difference_ml" not in found


def test_lesion_that_training_skipped_is_told_below_and_above():
    rows = [row("a", "1", lesion_outside_ml=3.0, lesion_below_ml=2.5), row("a", "2")]
    (sentence,) = notes({"a": describe(rows, 0)})
    assert "3.0 ml, 30.0 % of the lesion volume" in sentence
    assert "2.5 ml at the bottom and 0.5 ml at the top" in sentence
