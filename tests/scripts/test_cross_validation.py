"""All folds together: each subject scored once, by the network and the point that never saw it."""

import html
import json
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pandas
import pytest
from conftest import ATLAS, SKIP, quickly, refused

import cross_validate
import evaluate
import train_model
from evaluation import kept_predictions
from evaluation.choosing import chosen_operating_point
from evaluation.metrics import subject_metrics
from prediction.inference import predict_probability
from prediction.lesions import remove_small
from prediction.network import load_network
from prediction.operating_point import PLAIN
from scans.splits import fingerprint, load_split
from scans.volumes import load_mask, load_volume

FOLDS = 3


AS_DRAWN = ["--set", f"split.folds={FOLDS}"]


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    quickly(monkeypatch)


@pytest.fixture(scope="module")
def trained(arguments, tmp_path_factory):
    """Folder with a run of each fold, `fold_0/train` to `fold_2/train`; copy it to change it."""
    folder = tmp_path_factory.mktemp("folds")
    for fold in range(FOLDS):
        settings = (f"fold={fold}", f"paths.runs={folder}/fold_{fold}", "train.epochs=1")
        train_model.main([*arguments, *(word for s in settings for word in ("--set", s))])
    return folder


@pytest.fixture
def folds(trained, tmp_path):
    return shutil.copytree(trained, tmp_path / "runs")


@pytest.fixture(scope="module")
def scored(trained, arguments, tmp_path_factory):
    """Folder of an evaluation on the validation, then the test subset; leave it as it is."""
    folder = tmp_path_factory.mktemp("scored")
    copy = shutil.copytree(trained, folder / "runs")
    with pytest.MonkeyPatch.context() as patch:
        quickly(patch)
        for subset in ("validation", "test"):
            output = ["--output", str(folder / subset)]
            evaluate.main([*arguments, "--subset", subset, *output, *runs_of(copy)])
    return folder


def runs_of(folder, numbers=range(FOLDS)):
    # Not in their order.
    return [str(folder / f"fold_{number}" / "train") for number in reversed(numbers)]


def load_json(path):
    return json.loads(path.read_text("utf-8"))


def metrics_csv(folder):
    return pandas.read_csv(folder / "metrics.csv", dtype={"session": str})


def dice_by_hand(weights, prepared, case, point):
    made_from = load_json(prepared / "atlas" / f"{case.subject}_{case.session}.json")["made_from"]
    volume = load_volume(made_from["image"])
    reference = load_mask(made_from["masks"][0], None, volume)
    probability = predict_probability([load_network(file) for file in weights], volume)
    if point["ends_mm"]:
        probability[:, :, :SKIP] = probability[:, :, -SKIP:] = 0
    smallest = round(point["smallest_ml"] / (np.prod(volume.spacing_mm) / 1000), 6)
    mask = remove_small(probability > point["threshold"], smallest)
    return subject_metrics(reference, mask, volume.spacing_mm)["dice"]


def change_run(folder, **changes):
    path = folder / "run.json"
    path.write_text(json.dumps(load_json(path) | changes))


# Who is scored by whom


def test_every_subject_is_scored_once_whatever_its_fold(scored, prepared):
    table = metrics_csv(scored / "validation")
    held_back = load_split(prepared, "atlas", 0)["test"]
    wanted = [(subject, session) for _, subject, session, _ in ATLAS if subject not in held_back]
    assert sorted(zip(table.subject, table.session, strict=True)) == sorted(wanted)
    assert set(table.run) == {"train"}


def test_no_subject_is_scored_by_a_network_that_trained_on_it(scored, prepared):
    points = load_json(scored / "validation" / "summary.json")["runs"]["train"]["operating_points"]
    for case in metrics_csv(scored / "validation").itertuples():
        unseen = []
        for fold in range(FOLDS):
            run = scored / "runs" / f"fold_{fold}" / "train"
            seen = load_json(run / "run.json")["subjects"]["training"]
            kept = run / "predictions" / f"{case.subject}_{case.session}_levels.nii.gz"
            assert kept.exists() == (f"atlas/{case.subject}" not in seen)
            unseen += [] if f"atlas/{case.subject}" in seen else [fold]
        (fold,) = unseen
        weights = [scored / "runs" / f"fold_{fold}" / "train" / "best.weights.h5"]
        dice = dice_by_hand(weights, prepared, case, points[f"train, fold {fold}"])
        assert case.dice == pytest.approx(dice), case.subject


def test_the_test_subset_is_scored_by_the_average_of_all_networks(scored, prepared):
    weights = [Path(run) / "best.weights.h5" for run in sorted(runs_of(scored / "runs"))]
    point = chosen_operating_point(weights[0], "lesions")
    table = metrics_csv(scored / "test")
    assert set(table.subject) == set(load_split(prepared, "atlas", 0)["test"])
    for case in table.itertuples():
        assert case.dice == pytest.approx(dice_by_hand(weights, prepared, case, point))
        kept = scored / "runs" / "evaluation" / "predictions" / "train"
        assert (kept / f"{case.subject}_{case.session}_levels.nii.gz").exists()


def test_the_average_is_predicted_anew_only_if_one_of_its_networks_changed(
    scored, arguments, tmp_path, monkeypatch
):
    copy = shutil.copytree(scored, tmp_path / "scored")
    words = [*arguments, "--subset", "test", "--output", str(tmp_path), *runs_of(copy / "runs")]
    predicted = []
    monkeypatch.setattr(
        kept_predictions,
        "predict_probability",
        lambda *a: predicted.append(0) or predict_probability(*a),
    )
    evaluate.main(words)
    assert not predicted
    last = copy / "runs" / "fold_2" / "train"
    shutil.copy(copy / "runs" / "fold_0" / "train" / "best.weights.h5", last)
    shutil.copy(copy / "runs" / "fold_0" / "train" / "operating_point.json", last)
    evaluate.main(words)
    assert len(predicted) == len(metrics_csv(tmp_path))


# The operating point


def test_folds_whose_points_were_not_chosen_together_have_none_for_the_test_subset(
    scored, arguments, tmp_path
):
    copy = shutil.copytree(scored / "runs", tmp_path / "runs")
    file = copy / "fold_1" / "train" / "operating_point.json"
    file.write_text(json.dumps(load_json(file) | PLAIN | {"threshold": 0.9, "smallest_ml": 0.02}))
    with refused("train", "--subset validation", *runs_of(copy)):
        evaluate.main([*arguments, "--subset", "test", *runs_of(copy)])


# Which runs are one


def test_two_runs_are_compared_over_the_subjects_of_all_folds(scored, arguments, tmp_path):
    # With the predictions that are there already.
    folds, other = (shutil.copytree(scored / "runs", tmp_path / name) for name in ("one", "other"))
    evaluate.main([*arguments, "--output", str(tmp_path), *runs_of(folds), *runs_of(other)])
    summary = load_json(tmp_path / "summary.json")["runs"]
    assert list(summary) == [str(place / "fold_*" / "train") for place in (folds, other)]
    assert {run["subjects"] for run in summary.values()} == {6}
    (found,) = load_json(tmp_path / "comparison.json")["comparisons"]
    assert (found["metrics"]["dice"]["n"], found["metrics"]["dice"]["ties"]) == (6, 6)


def test_a_run_that_lacks_folds_says_how_many_subjects_are_not_scored(
    scored, arguments, prepared, tmp_path, capsys
):
    folds = shutil.copytree(scored / "runs", tmp_path / "runs")
    evaluate.main([*arguments, "--output", str(tmp_path), *runs_of(folds, range(2))])
    assert "train: Noise between seeds is unknown" in (shown := capsys.readouterr().out)
    missing = len(load_split(prepared, "atlas", 2)["validation"])
    assert f"not over all folds; {missing} subjects are not scored" in shown
    assert f"{missing} subjects are not scored" in (tmp_path / "report.html").read_text("utf-8")
    other = shutil.copytree(folds / "fold_2" / "train", tmp_path / "train")
    with refused("other subjects", folds / "fold_0", other):
        evaluate.main([*arguments, *runs_of(folds, range(2)), str(other)])


def test_folds_of_different_settings_are_refused_by_name(folds, arguments):
    run = folds / "fold_1" / "train"
    identity = load_json(run / "run.json")["identity"]
    identity["train"]["learning_rate"] = 1.0
    change_run(run, identity=identity)
    with refused(run, "another train.learning_rate", folds / "fold_0"):
        evaluate.main([*arguments, *runs_of(folds)])


def test_one_fold_in_two_folders_is_refused(folds, arguments):
    shutil.copytree(folds / "fold_0", folds / "fold_7")
    with refused(folds / "fold_0", folds / "fold_7", "both are fold 0"):
        evaluate.main([*arguments, *runs_of(folds), str(folds / "fold_7" / "train")])


# Several seeds, and sites that are held out


def pretend(runs, new, prepared, seed=0, by="subject"):
    """Copy trained folds as those of another seed, or by site: each with another one's weights."""
    for fold in range(FOLDS):
        folder = shutil.copytree(runs / f"fold_{fold}" / "train", new / f"fold_{fold}" / "train")
        other = runs / f"fold_{(fold + 1 + seed) % FOLDS}" / "train"
        shutil.copy(other / "best.weights.h5", folder)
        facts = load_json(folder / "run.json")
        split = load_split(prepared, "atlas", fold, by)
        identity = facts["identity"] | {"seed": seed, "split": fingerprint(split)}
        change_run(folder, seed=seed, identity=identity)
    return [str(new / f"fold_{fold}" / "train") for fold in range(FOLDS)]


@pytest.fixture(scope="module")
def two_seeds_by_both(trained, arguments, prepared, tmp_path_factory):
    """Folder of an evaluation of folds by subject and by site, two seeds each."""
    folder = tmp_path_factory.mktemp("seeds")
    runs = shutil.copytree(trained, folder / "runs")
    words = runs_of(runs)
    for place, seed, by in (
        ("seed_1", 1, "subject"),
        ("by_site", 0, "site"),
        ("by_site/seed_1", 1, "site"),
    ):
        words += pretend(trained, runs / place, prepared, seed, by)
    with pytest.MonkeyPatch.context() as patch:
        quickly(patch)
        evaluate.main([*arguments, "--output", str(folder / "validation"), *words])
        words = [*arguments, "--subset", "test", "--output", str(folder / "test"), *words]
        evaluate.main(words)
    return folder


def test_each_seed_scores_every_subject_and_is_told_in_the_table(two_seeds_by_both, prepared):
    table = metrics_csv(two_seeds_by_both / "validation")
    assert set(table.run) == {"train", "train by site"}
    counts = table.groupby(["run", "subject", "session"]).seed.agg(["nunique", "count"])
    assert (counts == 2).all(axis=None)
    for by, name in (("subject", "train"), ("site", "train by site")):
        for fold in range(FOLDS):
            own = table[(table.run == name) & (table.fold == fold)]
            assert set(own.subject) == set(load_split(prepared, "atlas", fold, by)["validation"])


def test_the_cost_of_an_unseen_site_and_the_noise_between_seeds_are_sentences(two_seeds_by_both):
    (found,) = load_json(two_seeds_by_both / "validation" / "comparison.json")["comparisons"]
    assert (found["run"], found["baseline"]) == ("train by site", "train")
    table = metrics_csv(two_seeds_by_both / "validation")
    by_seed = table.groupby(["run", "seed", "subject"]).dice.mean().groupby(["run", "seed"]).mean()
    dice = found["metrics"]["dice"]
    difference = by_seed["train by site"].mean() - by_seed["train"].mean()
    assert dice["mean_difference"] == pytest.approx(difference)
    assert dice["seeds"]["sd"][1] == pytest.approx(by_seed["train"].std(), abs=1e-8)
    assert "unseen site" in found["cost"] and "6 subjects, 3 sites" in found["cost"]
    assert f"of {by_seed['train'].std():.3f} over 2 of train" in found["noise"]
    assert len(set(dice["seeds"]["sd"])) == 2
    text = (two_seeds_by_both / "validation" / "report.html").read_text("utf-8")
    for sentence in (found["cost"], found["noise"]):
        assert sentence in html.unescape(text)
    assert "cross-validation over 3 folds, 2 seeds" in text
    assert "cross-validation over 3 folds of whole sites, 2 seeds" in text
    assert "seed 0: 0, 1, 2 of 3; seed 1: 0, 1, 2 of 3" in text


def test_each_seed_has_its_own_points_and_its_own_average_on_the_test_subset(two_seeds_by_both):
    points = load_json(two_seeds_by_both / "validation" / "summary.json")["runs"]["train"]
    assert set(points["operating_points"]) == {
        f"train, seed {seed}, fold {fold}" for seed in (0, 1) for fold in range(FOLDS)
    }
    runs = load_json(two_seeds_by_both / "test" / "summary.json")["runs"]
    assert set(runs["train"]["operating_points"]) == {"train, seed 0", "train, seed 1"}
    for place in (".", "seed_1", "by_site", "by_site/seed_1"):
        folder = two_seeds_by_both / "runs" / place / "evaluation" / "predictions" / "train"
        assert list(folder.glob("*_levels.nii.gz")), place
    (found,) = load_json(two_seeds_by_both / "test" / "comparison.json")["comparisons"]
    assert found["cost"] is None


def test_one_seed_leaves_the_noise_unknown(scored):
    text = (scored / "validation" / "report.html").read_text("utf-8")
    assert "Noise between seeds is unknown" in text
    assert "--seeds 2" in text


def test_seeds_that_lack_folds_are_told(trained, arguments, prepared, tmp_path):
    runs = shutil.copytree(trained, tmp_path / "runs")
    more = pretend(trained, runs / "seed_4", prepared, seed=4)
    evaluate.main([*arguments, "--output", str(tmp_path / "out"), *runs_of(runs), *more[:2]])
    text = (tmp_path / "out" / "report.html").read_text("utf-8")
    assert "seed 0: 0, 1, 2 of 3; seed 4: 0, 1 of 3, without 2" in text


def test_one_seed_twice_and_two_seeds_in_one_folder_are_refused(
    trained, arguments, prepared, tmp_path
):
    runs = shutil.copytree(trained, tmp_path / "runs")
    twice = pretend(trained, runs / "seed_1", prepared, seed=0)
    with refused(twice[0], "both are fold 0 of seed 0"):
        evaluate.main([*arguments, *runs_of(runs), *twice])
    mixed = pretend(trained, tmp_path / "mixed", prepared)
    run = tmp_path / "mixed" / "fold_2" / "train"
    change_run(run, seed=5, identity=load_json(run / "run.json")["identity"] | {"seed": 5})
    with refused(run, "another seed"):
        evaluate.main([*arguments, *mixed])


def test_a_seed_of_one_fold_among_seeds_of_several_is_refused(
    trained, arguments, prepared, tmp_path
):
    runs = shutil.copytree(trained, tmp_path / "runs")
    (alone, *_) = pretend(trained, runs / "seed_1", prepared, seed=1)
    with refused(alone, "only fold of seed 1"):
        evaluate.main([*arguments, *runs_of(runs), alone])


def test_sites_held_out_are_compared_with_their_like_alone(trained, arguments, prepared, tmp_path):
    runs = shutil.copytree(trained, tmp_path / "runs")
    by_site = pretend(trained, runs / "by_site", prepared, by="site")
    for run in map(Path, by_site):
        identity = load_json(run / "run.json")["identity"]
        identity["train"]["epochs"] = 9
        change_run(run, identity=identity)
    evaluate.main([*arguments, "--output", str(tmp_path / "out"), *runs_of(runs), *by_site])
    assert load_json(tmp_path / "out" / "comparison.json")["comparisons"] == []
    text = (tmp_path / "out" / "report.html").read_text("utf-8")
    assert (
        "not known for train by site: it was trained with another train.epochs than train" in text
    )


def test_the_report_says_that_it_is_a_cross_validation(scored):
    text = (scored / "validation" / "report.html").read_text("utf-8")
    assert "cross-validation over 3 folds, 6 subjects, 7 scans" in text
    assert "chosen on the other folds" in text
    for fold in range(FOLDS):
        assert f"Training on stroke lesions, fold {fold}" in text
        assert f"operating point of train, fold {fold}" in text
    assert "average of 3 networks" in (scored / "test" / "report.html").read_text("utf-8")


@pytest.fixture
def commands(monkeypatch):
    """Scripts and arguments that cross_validate.py calls, which do nothing and end well."""
    noted = []

    def note(command):
        noted.append([Path(command[1]).name, *command[2:]])
        return subprocess.CompletedProcess(command, 0)

    monkeypatch.setattr(subprocess, "run", note)
    return noted


def test_each_fold_is_trained_in_its_own_folder_and_all_are_evaluated_together(commands, prepared):
    words = ["--set", 'paths.runs="my #1 runs"', "--set", f"paths.prepared={prepared}", *AS_DRAWN]
    cross_validate.main(["--stages", "train", "transfer", *words])
    *stages, last = commands
    assert stages == [
        [
            script,
            *words,
            *("--set", "seed=0", "--set", f"fold={fold}", "--set", "split.by=subject"),
            *("--set", f'paths.runs="my #1 runs/fold_{fold}"'),
            *("--set", 'transfer.initial_weights="my #1 runs/pre_train/best.weights.h5"'),
        ]
        for fold in range(FOLDS)
        for script in ("train_model.py", "transfer_learning.py")
    ]
    output = ["--output", "my #1 runs/evaluation/cross_validation"]
    folds = range(FOLDS)
    runs = [f"my #1 runs/fold_{fold}/{stage}" for stage in ("train", "transfer") for fold in folds]
    assert last == ["evaluate.py", *runs, *words, *output]


def trained_by(commands):
    """Seed, fold, kind of folds and folder of each training that was called for."""
    return [
        tuple(word.split("=")[1].strip('"') for word in command[-9:-2:2])
        for command in commands
        if command[0] != "evaluate.py"
    ]


def test_seeds_and_sites_have_folders_of_their_own(commands, prepared, tmp_path):
    words = ["--set", f"paths.runs={tmp_path}", "--set", f"paths.prepared={prepared}", *AS_DRAWN]
    cross_validate.main(["--seeds", "2", "--by", "site", *words, "--set", "seed=7"])
    homes = {"7": tmp_path / "by_site", "8": tmp_path / "by_site" / "seed_8"}
    assert trained_by(commands) == [
        (seed, str(fold), "site", f"{home}/fold_{fold}")
        for seed, home in homes.items()
        for fold in range(FOLDS)
    ]
    runs = [f"{home}/fold_{fold}/train" for home in homes.values() for fold in range(FOLDS)]
    assert commands[-1][: 1 + len(runs)] == ["evaluate.py", *runs]
    assert commands[-1][-1] == str(tmp_path / "evaluation" / "cross_validation_by_site")


def test_folds_by_subject_that_are_finished_are_evaluated_beside_those_by_site(
    commands, prepared, folds, capsys
):
    words = ["--set", f"paths.runs={folds}", "--set", f"paths.prepared={prepared}", *AS_DRAWN]
    cross_validate.main(["--by", "site", *words])
    by_subject = [f"{folds}/fold_{fold}/train" for fold in range(FOLDS)]
    by_site = [f"{folds}/by_site/fold_{fold}/train" for fold in range(FOLDS)]
    assert commands[-1][1 : 1 + 2 * FOLDS] == by_subject + by_site
    # Seeds by subject that are not there yet are left out, and so are runs of another split.
    cross_validate.main(["--by", "site", "--seeds", "2", *words])
    assert commands[-1][1 : 1 + FOLDS] == by_subject
    run = folds / "fold_1" / "train"
    identity = load_json(run / "run.json")["identity"]
    for change, reason in (
        ({"finished": False}, "not finished: cross_validate.py --by subject"),
        ({"finished": True, "identity": identity | {"split": "other"}}, "another split"),
    ):
        change_run(run, **change)
        capsys.readouterr()
        cross_validate.main(["--by", "site", *words])
        assert commands[-1][1 : 1 + FOLDS] == by_site
        shown = capsys.readouterr().out
        assert "cost of an unseen site stays unknown" in shown and reason in shown


def test_another_machine_trains_the_folds_it_is_told_and_scores_nothing(commands, prepared):
    words = ["--set", f"paths.prepared={prepared}", *AS_DRAWN]
    cross_validate.main(["--folds", "2", "0", *words])
    assert [fold for _, fold, *_ in trained_by(commands)] == ["2", "0"]
    assert "evaluate.py" not in [command[0] for command in commands]
    with refused("--folds 3", "are 0 to 2"):
        cross_validate.main(["--folds", "3", *words])
    with refused("--seeds 0"):
        cross_validate.main(["--seeds", "0", *words])


def test_a_mistake_is_refused_before_the_first_fold(commands):
    with refused("did you mean epochs"):
        cross_validate.main(["--set", "train.epoch=3"])
    with pytest.raises(SystemExit) as stopped:
        cross_validate.main(["--stages", "pre_train"])
    assert stopped.value.code == 2
    assert commands == []


def test_other_folds_than_were_drawn_are_refused_before_the_first_is_trained(prepared, tmp_path):
    words = ["--set", f"paths.runs={tmp_path}", "--set", f"paths.prepared={prepared}"]
    with refused("splits.json", "has 3 folds of atlas, and split.folds is 5"):
        cross_validate.main(words)
    assert not any(tmp_path.iterdir())


def test_a_fold_that_fails_ends_the_cross_validation_with_its_code(tmp_path, prepared, capfd):
    # Refused before Keras is imported, which takes seconds.
    shutil.copy(prepared / "splits.json", tmp_path)
    folders = [f"paths.runs={tmp_path}", f"paths.prepared={tmp_path}", f"split.folds={FOLDS}"]
    with pytest.raises(SystemExit) as stopped:
        cross_validate.main([word for folder in folders for word in ("--set", folder)])
    assert stopped.value.code == 2
    said = capfd.readouterr()
    assert "fold 0 by subject, seed 0: train_model.py" in said.out
    assert f"{tmp_path / 'slices.csv'}: not found" in said.err
    assert "fold 1" not in said.out
