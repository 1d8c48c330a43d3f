"""evaluate.py scores runs and masks, goes on where it stopped, and refuses what it cannot compare."""

import json
import re
import shutil
import sys
from types import SimpleNamespace

import nibabel
import numpy as np
import pandas
import pytest
from conftest import ATLAS, RAS, SKIP, quickly, refused, write_nifti, write_predictions

import evaluate
from evaluation import kept_predictions
from evaluation.choosing import SMALLEST_ML, THRESHOLDS, WRONG_ML, probability_levels
from evaluation.comparison import rank_runs
from evaluation.metric_table import METRICS
from evaluation.metrics import subject_metrics
from evaluation.strata import VOLUME_STRATA
from evaluation.viewer import COLOURS
from prediction.inference import predict_probability
from prediction.lesions import remove_small
from prediction.network import load_network
from prediction.operating_point import PLAIN
from scans.splits import fingerprint, load_split
from scans.volumes import load_mask, load_volume

STAGES = ("train", "transfer")
WHOSE = ["run", "subject", "session", "site", "seed", "fold"]
MEASURED = ["lesion_volume_ml", *METRICS, "lesion_outside_ml"]
PERFECT = {name: float(metric.larger_is_better) for name, metric in METRICS.items()}


@pytest.fixture(autouse=True)
def quick(monkeypatch, request):
    if not request.node.get_closest_marker("slow"):
        quickly(monkeypatch)


def load_json(path):
    def refuse(constant):
        raise ValueError(f"{constant} is no JSON")

    return json.loads(path.read_text("utf-8"), parse_constant=refuse)


def metrics_csv(folder):
    empty = {name: [""] for name in MEASURED}
    path, text = folder / "metrics.csv", {"session": str}
    return pandas.read_csv(path, dtype=text, keep_default_na=False, na_values=empty)


def copy_run(runs, name, folder, **changes):
    """Copy a run's folder and change facts in its run.json; return the copy."""
    copy = shutil.copytree(runs.folder / name, folder / name)
    facts = load_json(copy / "run.json")
    (copy / "run.json").write_text(json.dumps(facts | changes))
    return copy


def by_hand(run, prepared, case, flip=False):
    """Return probability, reference and spacing of one row of metrics.csv."""
    name = f"{case.subject}_{case.session}"
    made_from = load_json(prepared / "atlas" / f"{name}.json")["made_from"]
    volume = load_volume(made_from["image"])
    reference = load_mask(made_from["masks"][0], None, volume)
    network = load_network(run / "best.weights.h5")
    return predict_probability([network], volume, flip), reference, volume.spacing_mm


def metrics_at(point, probability, reference, spacing_mm):
    smallest = round(point["smallest_ml"] / (np.prod(spacing_mm) / 1000), 6)
    inside = probability.copy()
    if point["ends_mm"]:
        inside[:, :, :SKIP] = inside[:, :, -SKIP:] = 0
    mask = remove_small(inside > point["threshold"], smallest)
    soft = probability_levels(probability) if mask.any() else np.zeros(mask.shape, np.uint8)
    return subject_metrics(reference, mask, spacing_mm, soft)


# What the runs leave


@pytest.mark.parametrize("subset", ["validation", "test"])
def test_metrics_csv_has_a_row_for_each_run_and_scan_of_the_subset(runs, prepared, subset):
    table = metrics_csv(runs.folder / "evaluation" / subset)
    # Their names and order are those of tests/evaluation/test_metrics.py.
    measured = list(subject_metrics(np.ones((1, 1, 1)), np.ones((1, 1, 1)), (1, 1, 1)))
    ends = ["lesion_outside_ml", "lesion_below_ml"]
    assert list(table.columns) == [*WHOSE, *measured, *ends]
    subjects = load_split(prepared, "atlas", 0)[subset]
    scans = {(s, session, site) for site, s, session, _ in ATLAS if s in subjects}
    for run in STAGES:
        found = table[table.run == run][["subject", "session", "site"]]
        assert set(found.itertuples(index=False, name=None)) == scans
        assert len(found) == len(scans)
    assert set(table.run) == set(STAGES)


@pytest.mark.parametrize("subset", ["validation", "test"])
def test_every_metric_is_that_of_the_mask_at_the_operating_point(runs, prepared, subset):
    table = metrics_csv(runs.folder / "evaluation" / subset)
    case = table[table.run == "transfer"].iloc[-1]
    run = runs.folder / "transfer"
    wanted = metrics_at(load_json(run / "operating_point.json"), *by_hand(run, prepared, case))
    for name, value in wanted.items():
        assert float(case[name]) == pytest.approx(value, nan_ok=True), name
    facts = load_json(prepared / "atlas" / f"{case.subject}_{case.session}.json")
    assert float(case.lesion_outside_ml) == facts["lesion_outside_ml"]
    assert float(case.lesion_below_ml) == facts["lesion_below_ml"]


def test_the_operating_point_has_the_best_mean_of_dice_and_lesion_wise_dice_on_validation(
    runs, prepared
):
    table = metrics_csv(runs.folder / "evaluation" / "validation")
    table = table[table.run == "train"]
    run = runs.folder / "train"
    predicted = [by_hand(run, prepared, case) for case in table.itertuples()]

    names = ["dice", "lesion_dice", "false_positive_ml"]

    def metrics(threshold, smallest_ml, ends_mm):
        point = {"threshold": threshold, "smallest_ml": smallest_ml, "ends_mm": ends_mm}
        scans = pandas.DataFrame([metrics_at(point, *scan) for scan in predicted])[names]
        by_subject = scans.groupby(table.subject.to_numpy()).mean()
        return *by_subject.mean()[:2], by_subject.false_positive_ml.median()

    point = load_json(run / "operating_point.json")
    every = [metrics(t, ml, e) for t in THRESHOLDS for ml in SMALLEST_ML for e in (0, SKIP)]
    best = max(sum(found[:2]) for found in every)
    quiet = max(sum(found[:2]) for found in every if found[2] <= WRONG_ML)
    chosen = metrics(point["threshold"], point["smallest_ml"], point["ends_mm"])
    assert sum(chosen[:2]) == pytest.approx(quiet if quiet >= best / 2 else best)
    stored = [point[name] for name in ("mean_dice", "mean_lesion_dice", "median_false_positive_ml")]
    assert stored == pytest.approx(list(chosen))
    assert point["ends_mm"] in (0, SKIP)
    assert point["height_mm"] == 16
    assert point["chosen_on"] == "validation"


def test_the_test_subset_leaves_the_operating_point_alone(runs):
    for run in STAGES:
        assert (runs.folder / run / "operating_point.json").read_bytes() == runs.points[run]


def test_the_test_subset_uses_the_stored_operating_point(
    runs, arguments, prepared, tmp_path, capsys
):
    run = copy_run(runs, "train", tmp_path)
    point = load_json(run / "operating_point.json") | {
        "threshold": 0.3,
        "smallest_ml": 0.007,
        "ends_mm": 2.0,
    }
    (run / "operating_point.json").write_text(json.dumps(point))
    evaluate.main([str(run), *arguments, "--subset", "test", "--output", str(tmp_path / "out")])
    assert (
        "threshold 0.3, lesions from 0.007 ml, in the slices that training knew\n"
        in capsys.readouterr().out
    )
    for case in metrics_csv(tmp_path / "out").itertuples():
        wanted = metrics_at(point, *by_hand(run, prepared, case))
        assert float(case.dice) == pytest.approx(wanted["dice"])
        assert float(case.voxel_difference) == wanted["voxel_difference"]


def test_heads_are_mirrored_on_the_test_subset_as_on_validation(
    runs, arguments, prepared, tmp_path, capsys
):
    run = copy_run(runs, "train", tmp_path)
    words = [str(run), *arguments, "--output", str(tmp_path / "out")]
    evaluate.main([*words, "--set", "evaluation.flip=true"])
    assert load_json(run / "operating_point.json")["flip"] is True
    assert load_json(runs.folder / "train" / "operating_point.json")["flip"] is False
    capsys.readouterr()
    # Whatever the settings say by then, and where other predictions are there already.
    evaluate.main([*words, "--subset", "test"])
    assert "averaged with the mirrored head" in capsys.readouterr().out
    point = load_json(run / "operating_point.json")
    for case in metrics_csv(tmp_path / "out").itertuples():
        wanted = metrics_at(point, *by_hand(run, prepared, case, flip=True))
        assert float(case.dice) == pytest.approx(wanted["dice"])
        assert float(case.voxel_difference) == wanted["voxel_difference"]


def test_without_an_operating_point_the_test_subset_says_so_and_chooses_none(
    runs, arguments, tmp_path, capsys
):
    run = copy_run(runs, "train", tmp_path)
    (run / "operating_point.json").unlink()
    evaluate.main([*arguments, "--subset", "test", "--output", str(tmp_path / "out"), str(run)])
    shown = capsys.readouterr().out
    assert "no operating point" in shown
    assert "threshold 0.5, lesions from 0 ml, in all slices\n" in shown
    assert not (run / "operating_point.json").exists()


def test_an_operating_point_that_a_person_wrote_is_not_replaced(runs, arguments, tmp_path):
    run = copy_run(runs, "train", tmp_path)
    own = json.dumps(PLAIN | {"threshold": 0.33, "note": "by eye"})
    (run / "operating_point.json").write_text(own)
    with refused(run / "operating_point.json", "did not choose it", "move it"):
        evaluate.main([str(run), *arguments, "--output", str(tmp_path / "out")])
    assert (run / "operating_point.json").read_text() == own


def test_an_operating_point_of_other_weights_is_refused(runs, arguments, tmp_path):
    run = copy_run(runs, "train", tmp_path)
    shutil.copy(runs.folder / "transfer" / "best.weights.h5", run)
    with refused(run / "operating_point.json", "--subset validation"):
        evaluate.main([str(run), *arguments, "--subset", "test"])


@pytest.mark.parametrize("subset", ["validation", "test"])
def test_the_summary_counts_each_subject_in_one_stratum_and_at_one_site(runs, prepared, subset):
    folder = runs.folder / "evaluation" / subset
    content = load_json(folder / "summary.json")
    assert content["subset"] == subset
    assert list(content["runs"]) == list(STAGES)
    subjects = len(load_split(prepared, "atlas", 0)[subset])
    for run in content["runs"].values():
        assert run["subjects"] == subjects
        by_volume = list(run["strata"]["lesion volume"])
        healthy = ["no lesion"] if run["without_lesion"]["scans"] else []
        assert by_volume == [*healthy, *VOLUME_STRATA]
        for key in ("lesion volume", "site"):
            assert sum(stratum["subjects"] for stratum in run["strata"][key].values()) == subjects
        assert set(run["metrics"]) == set(MEASURED)


def test_the_comparison_is_of_transfer_against_train_in_every_metric(runs):
    content = load_json(runs.folder / "evaluation" / "test" / "comparison.json")
    (comparison,) = content["comparisons"]
    assert (comparison["run"], comparison["baseline"]) == ("transfer", "train")
    assert set(comparison["metrics"]) == set(METRICS) - {"volume_difference_ml"}
    table = metrics_csv(runs.folder / "evaluation" / "test").astype({"dice": float})
    means = table.groupby(["run", "subject"]).dice.mean().groupby("run").mean()
    difference = comparison["metrics"]["dice"]["mean_difference"]
    assert difference == pytest.approx(means["transfer"] - means["train"])


def test_the_report_is_small_enough_to_send(runs):
    report = runs.folder / "evaluation" / "validation" / "report.html"
    assert report.stat().st_size < 15e6


def test_every_table_viewer_and_colour_is_named_for_who_cannot_see_it(runs):
    text = (runs.folder / "evaluation" / "validation" / "report.html").read_text("utf-8")
    assert '<html lang="en">' in text
    viewers = text.count("<iframe")
    assert viewers
    assert len(re.findall(r"<iframe title=\"Slices of ", text)) == viewers
    assert "<th>" not in text
    for name in COLOURS:
        assert f"</i>{name}</li>" in text


# Going on


def test_a_stopped_evaluation_goes_on_with_the_scans_that_are_missing(
    runs, arguments, tmp_path, monkeypatch
):
    run = copy_run(runs, "train", tmp_path)
    shutil.rmtree(run / "predictions")
    words = [str(run), *arguments, "--output", str(tmp_path / "out")]
    predicted = []

    def count(networks, volume, flip, alignment):
        if len(predicted) == 1:
            raise KeyboardInterrupt
        predicted.append(volume)
        return predict_probability(networks, volume, flip, alignment)

    monkeypatch.setattr(kept_predictions, "predict_probability", count)
    with pytest.raises(KeyboardInterrupt):
        evaluate.main(words)
    assert len(list((run / "predictions").iterdir())) == 1
    monkeypatch.setattr(
        kept_predictions,
        "predict_probability",
        lambda *a: predicted.append(0) or predict_probability(*a),
    )
    evaluate.main(words)
    table = metrics_csv(tmp_path / "out")
    assert len(predicted) == len(table)
    whole = metrics_csv(runs.folder / "evaluation" / "validation")
    pandas.testing.assert_frame_equal(table, whole[whole.run == "train"])


def test_scans_are_predicted_anew_only_for_other_weights(runs, arguments, tmp_path, monkeypatch):
    run = copy_run(runs, "train", tmp_path)
    words = [str(run), *arguments, "--output", str(tmp_path / "out")]
    predicted = []
    monkeypatch.setattr(
        kept_predictions,
        "predict_probability",
        lambda *a: predicted.append(0) or predict_probability(*a),
    )
    evaluate.main(words)
    assert not predicted
    shutil.copy(runs.folder / "transfer" / "best.weights.h5", run)
    evaluate.main(words)
    table = metrics_csv(tmp_path / "out")
    assert len(predicted) == len(table)
    whole = metrics_csv(runs.folder / "evaluation" / "validation")
    wanted = whole[whole.run == "transfer"].dice.tolist()
    assert table.dice.tolist() == wanted


def test_runs_are_ranked_as_the_challenge_does_and_one_alone_is_refused(
    runs, arguments, tmp_path, capsys, monkeypatch
):
    words = [*arguments, "--subset", "test", "--ranking", "isles26", "--output", str(tmp_path)]
    evaluate.main(words)
    table = metrics_csv(tmp_path)
    found = load_json(tmp_path / "comparison.json")["ranking"]
    assert found["mean_rank"] == rank_runs(table.to_dict("records"), "isles26")["mean_rank"]
    assert sum(found["mean_rank"].values()) == pytest.approx(3)
    sentence = f"Mean rank by isles26 over {len(table) // 2} scans and 5 metrics"
    assert sentence in capsys.readouterr().out
    assert sentence in (tmp_path / "report.html").read_text("utf-8")
    monkeypatch.setattr("evaluation.scoring.predict_missing", None)
    with refused("train: a ranking needs 2 runs or more"):
        evaluate.main([str(runs.folder / "train"), *words])
    external = ["--predictions", "a", "--masks", "b", "--output", str(tmp_path)]
    with refused("--ranking isles26", "not for --predictions"):
        evaluate.main([*external, "--ranking", "isles26"])
    with refused("--subset test", "not for --predictions"):
        evaluate.main([*external, "--subset", "test"])


def test_a_kept_prediction_is_the_probability_in_levels_on_the_scans_grid(runs, prepared):
    case = metrics_csv(runs.folder / "evaluation" / "validation").query("run == 'train'").iloc[-1]
    run = runs.folder / "train"
    kept = nibabel.load(run / "predictions" / f"{case.subject}_{case.session}_levels.nii.gz")
    made_from = load_json(prepared / "atlas" / f"{case.subject}_{case.session}.json")["made_from"]
    assert kept.shape == nibabel.load(made_from["image"]).shape
    np.testing.assert_array_equal(kept.affine, nibabel.load(made_from["image"]).affine)
    probability, _, _ = by_hand(run, prepared, case)
    levels = nibabel.as_closest_canonical(kept).get_fdata().astype(int)
    assert kept.get_data_dtype() == np.uint16
    # A level is 1.6 % of the probability, which was computed in another order.
    assert np.abs(levels - probability_levels(probability).astype(int)).max() <= 2
    assert len(np.unique(levels)) > 1


# Which runs are taken


def test_a_run_of_another_split_is_refused_by_name(runs, arguments, tmp_path):
    identity = load_json(runs.folder / "train" / "run.json")["identity"]
    run = copy_run(runs, "train", tmp_path, identity=identity | {"split": "0123456789abcdef"})
    with refused(run, "another split", "splits.json"):
        evaluate.main([*arguments, str(run)])


def test_runs_of_two_folds_are_not_compared(runs, arguments, prepared, tmp_path):
    identity = load_json(runs.folder / "train" / "run.json")["identity"]
    other = {"split": fingerprint(load_split(prepared, "atlas", 1))}
    run = copy_run(runs, "train", tmp_path, fold=1, identity=identity | other)
    with refused(run, "another fold", runs.folder / "transfer"):
        evaluate.main([*arguments, str(runs.folder / "transfer"), str(run)])


def test_a_run_that_is_not_finished_is_left_out_and_refused_if_named(
    runs, arguments, tmp_path, capsys
):
    run = copy_run(runs, "train", tmp_path, finished=False)
    with refused(run, "not finished"):
        evaluate.main([*arguments, str(run)])
    copy_run(runs, "transfer", tmp_path)
    evaluate.main([*arguments, "--set", f"paths.runs={tmp_path}"])
    assert set(metrics_csv(tmp_path / "evaluation" / "validation").run) == {"transfer"}
    assert load_json(tmp_path / "evaluation/validation/comparison.json")["comparisons"] == []


def test_a_run_on_tumours_is_refused(runs, arguments, tmp_path):
    run = copy_run(runs, "train", tmp_path, stage="pre_train")
    with refused(run, "tumours"):
        evaluate.main([*arguments, str(run)])


def test_without_any_finished_run_the_stage_to_run_is_named(arguments, tmp_path):
    with refused(tmp_path / "train", "train_model.py"):
        evaluate.main([*arguments, "--set", f"paths.runs={tmp_path}"])


def test_two_runs_in_folders_of_one_name_are_told_apart(runs, arguments, tmp_path):
    run = copy_run(runs, "train", tmp_path)
    names = [str(runs.folder / "train"), str(run)]
    evaluate.main([*arguments, *names, "--output", str(tmp_path / "out")])
    assert list(load_json(tmp_path / "out" / "summary.json")["runs"]) == names
    found = load_json(tmp_path / "out" / "comparison.json")["comparisons"][0]["metrics"]
    assert {metric["verdict"] for metric in found.values()} == {"not shown"}


# Masks that another program made


@pytest.fixture
def other_program(tiny_trees, tmp_path, monkeypatch):
    """A folder of perfect predictions, 0/255; `.score()` runs evaluate.py on it."""
    # Fails where anything imports it.
    monkeypatch.setitem(sys.modules, "tensorflow", None)
    folder = write_predictions(tiny_trees.atlas, tmp_path / "predictions")

    def score(predictions=folder, masks=tiny_trees.atlas):
        words = ["--predictions", predictions, "--masks", masks, "--output", tmp_path / "out"]
        evaluate.main(list(map(str, words)))
        return metrics_csv(tmp_path / "out")

    return SimpleNamespace(folder=folder, score=score, output=tmp_path / "out")


@pytest.mark.slow
def test_perfect_predictions_have_dice_1_everywhere(other_program):
    table = other_program.score()
    assert [tuple(scan) for scan in table[["site", "subject", "session"]].to_numpy()] == [
        scan[:3] for scan in ATLAS
    ]
    assert "nan" not in (other_program.output / "metrics.csv").read_text()
    assert table.pop("pr_auc").isna().all()
    for name in METRICS.keys() - {"pr_auc"}:
        assert (table[name] == PERFECT[name]).all(), name
    summary = load_json(other_program.output / "summary.json")["runs"]["predictions"]
    assert (summary["scans"], summary["subjects"]) == (9, 8)
    assert summary["metrics"]["pr_auc"]["missing"] == 9
    assert "9 scans without" in (other_program.output / "report.html").read_text("utf-8")
    assert summary["lesion_outside_ml"] is None and summary["lesion_below_ml"] is None
    assert load_json(other_program.output / "comparison.json")["comparisons"] == []


def test_all_missing_predictions_are_named(other_program):
    for name in ("sub-r001s001_ses-2", "sub-r003s002_ses-1"):
        (other_program.folder / f"{name}_prediction.nii").unlink()
    with refused(other_program.folder, "2 of 9", "sub-r001s001_ses-2_", "sub-r003s002_ses-1_"):
        other_program.score()
    assert not any(other_program.output.iterdir())


def test_equal_file_names_are_pairs_whatever_they_are(other_program, tmp_path):
    mask = np.zeros((4, 4, 4), np.uint8)
    mask[1:3, 1:3, 1:3] = 1
    for name in ("left", "right"):
        write_nifti(tmp_path / "a" / f"{name}.nii.gz", mask, RAS)
        write_nifti(tmp_path / "b" / f"{name}.nii", mask * (name == "left"), RAS)
    table = other_program.score(tmp_path / "b", tmp_path / "a")
    assert table.subject.tolist() == ["left", "right"]
    assert table.dice.astype(float).tolist() == [1, 0]
    assert table.hd95_mm.fillna(-1).tolist() == [0, -1]


@pytest.mark.parametrize(
    "words", [["--predictions", "a"], ["--masks", "a"], ["--predictions", "a", "--masks", "b"]]
)
def test_what_belongs_together_is_asked_for_together(words):
    with refused("--predictions, --masks and --output belong together"):
        evaluate.main(words)


@pytest.mark.parametrize("name", ["metrics.csv", "summary.json", "comparison.json", "report.html"])
def test_files_of_the_user_in_the_output_folder_stay(runs, arguments, tmp_path, name):
    (tmp_path / name).write_text("{}")
    with refused(tmp_path / name, "evaluate.py did not write it"):
        evaluate.main([*arguments, "--output", str(tmp_path)])
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert (tmp_path / name).read_text() == "{}"
