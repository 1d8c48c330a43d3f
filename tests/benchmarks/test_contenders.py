"""The comparison of contenders: its split, its budget, its table; the peers themselves left out."""

import importlib
import json
import time
from pathlib import Path
from types import SimpleNamespace

import nibabel
import numpy as np
import pandas
import pytest
from conftest import LPS, quickly, refused, write_nifti

from benchmarks.bench import ROOT, cpu_seconds
from benchmarks.contenders import contest, healthy, monai_unet, ours, split, table
from config import as_arguments, load_settings, parse_arguments
from evaluation.cases import Case, find_cases
from evaluation.metric_table import METRICS
from scans.splits import load_split
from scans.volumes import load_lesion, load_mask, load_volume
from system.files import InputError, save_csv, save_json
from system.yaml_files import quoted


@pytest.mark.parametrize("name", ["split", "ours", "monai_unet", "nnunet", "table"])
def test_every_contender_imports_without_its_peers(name):
    assert callable(importlib.import_module(f"benchmarks.contenders.{name}").main)


def test_every_fourth_subject_is_held_back_and_the_others_take_turns():
    rows = split.deal({f"s{i}" for i in range(9)}, folds=3)
    assert [row["subject"] for row in rows] == [f"s{i}" for i in range(9)]
    assert [row["fold"] for row in rows] == [0, 1, 2, "test", 0, 1, 2, "test", 0]


def test_prep_takes_the_split_of_a_folder(tiny_trees, prepared, tmp_path):
    from scans.manifest import load_manifest
    from scans.splits import split_from_table

    path = tmp_path / "split.csv"
    split.main([str(tiny_trees.atlas), str(path), "--set", "split.folds=3"])
    found = split_from_table(path, load_manifest(prepared, "atlas"), "subject", folds=3)
    assert found["test"] == ["sub-r002s001", "sub-r003s002"]
    assert [len(fold) for fold in found["folds"]] == [2, 2, 2]


def budget(seconds):
    return contest.Budget(seconds, cpu_seconds)


def test_steps_leave_room_for_the_validation_of_each_epoch():
    steps = budget(3600).steps(epochs=6, step_s=10, validation_s=95)
    assert steps == 50
    assert 6 * (steps * 10 + 95) <= 3600 < 6 * ((steps + 1) * 10 + 95)
    with refused("6 times", "60 s"):
        budget(60).steps(epochs=6, step_s=10, validation_s=1)


@pytest.mark.slow
def test_a_cost_is_that_of_the_second_call_and_waiting_is_free():
    calls = []

    def work():
        calls.append(0)
        until = time.process_time() + (0.5 if len(calls) == 1 else 0.1)
        while time.process_time() < until:
            pass
        time.sleep(0.3)

    assert 0.1 <= budget(1).cost(work) < 0.25
    assert len(calls) == 2


def copy_scan(prepared, image, mask):
    """Write a scan of the tiny data set as one without lesion."""
    split = load_split(prepared, "atlas", 0)
    scan = find_cases(prepared, split, "training")[0]
    image.parent.mkdir(parents=True, exist_ok=True)
    image.write_bytes(scan.image.read_bytes())
    stored = nibabel.load(scan.masks[0])
    nibabel.save(nibabel.Nifti1Image(np.zeros(stored.shape, np.uint8), stored.affine), mask)


@pytest.mark.slow
def test_ours_trains_as_many_epochs_as_fit_and_is_scored(
    arguments, prepared, tmp_path, monkeypatch
):
    quickly(monkeypatch)
    monkeypatch.setattr(contest.Budget, "cost", lambda self, work: (work(), 1.0)[1])
    monkeypatch.setattr(ours, "MEASURED_STEPS", 1)
    monkeypatch.setattr(healthy, "HEADS", 1)
    monkeypatch.setattr(healthy, "write_head", lambda _, *files: copy_scan(prepared, *files))
    results = ["--results", str(tmp_path), "--cpu-seconds"]
    monkeypatch.setattr(ours, "EPOCHS", 2)
    # A second a step, in training and in validation; more steps than the slices have in a round.
    settings, _ = parse_arguments("", arguments)
    step_s, validation_s = ours.measure(settings, settings.train, "atlas", budget(0))
    ours.main([*arguments, *results, str(2 * (13 + validation_s) + 0.5), "--name", "tiny"])
    folder = tmp_path / "tiny" / "seed-0"
    facts = json.loads((folder / "budget.json").read_text())
    assert step_s == 1 and facts["epochs"] == 2 and facts["steps"] == 13
    assert len(pandas.read_csv(folder / "train" / "history.csv")) == 2
    assert json.loads((folder / "train" / "operating_point.json").read_text())["chosen_on"]
    assert len(pandas.read_csv(folder / "evaluation" / "metrics.csv")) == 2
    without_lesion = pandas.read_csv(folder / "healthy" / "evaluation" / "metrics.csv")
    assert (without_lesion.lesion_volume_ml == 0).all()
    assert without_lesion.subject.str.startswith(healthy.SYNTHETIC).sum() == 1
    with refused("is there already"):
        ours.main([*arguments, *results, "1", "--name", "tiny"])


def heads_like(*lesion_corners, side=6):
    """A bright head, lopsided in its grid, with darker lesions; the mask."""
    x, y, z = np.indices((60, 50, 40), np.float32)
    head = np.hypot(np.hypot((x - 33) / 24, (y - 24) / 20), (z - 19) / 16) < 1
    # Alike on both sides, but for the brightness.
    texture = np.cos(abs(x - 33)) + np.sin(y) + np.cos(z / 2)
    whole = np.float32(head * (100 + 10 * texture) * (1 + 0.002 * (x - 33)))
    lesion = np.zeros(head.shape, bool)
    for i, j, k in lesion_corners:
        lesion[i : i + side, j : j + side, k : k + side] = True
    return whole, np.where(lesion, whole * 0.3, whole), lesion


def test_a_lesion_is_covered_by_the_other_side_as_bright_as_what_is_around():
    whole, scan, lesion = heads_like((15, 20, 15))
    covered = healthy.cover_lesion(scan, lesion)
    assert np.abs(covered - whole)[lesion].max() < 6 < np.abs(scan - whole)[lesion].min()
    assert np.abs(covered - whole).max() < 6
    far = np.ones(lesion.shape, bool)
    far[8:28, 13:33, 8:28] = False
    np.testing.assert_array_equal(covered[far], scan[far])


@pytest.mark.parametrize("apart", [2, 11, 13])
def test_a_lesion_that_would_be_covered_by_lesion_is_not(apart):
    # Of 6 voxels, so one of them ends where the cover of the other fades out: 4 + 2 beyond.
    _, scan, lesion = heads_like((15, 15, 15), (46, 15 + apart, 15))
    assert (healthy.cover_lesion(scan, lesion) is None) == (apart < 12)


def test_a_head_without_lesion_stays_as_it_is():
    whole, _, lesion = heads_like()
    np.testing.assert_array_equal(healthy.cover_lesion(whole, lesion), whole)


def test_each_held_back_head_that_can_be_covered_is_written_once(tmp_path):
    settings, cases = load_settings(), []
    for subject, session, corners in (
        ("sub-a", "1", [(15, 20, 15)]),
        ("sub-a", "2", [(15, 20, 15)]),
        ("sub-b", "", [(15, 20, 15), (46, 22, 15)]),
    ):
        _, scan, lesion = heads_like(*corners)
        files = [tmp_path / f"{subject}{session}{kind}.nii.gz" for kind in ("image", "mask")]
        for file, voxels in zip(files, (scan, lesion.astype(np.uint8)), strict=True):
            write_nifti(file, voxels, LPS)
        cases.append(Case(subject, session, "", files[0], (files[1],), None, 50, 0.0))
    (case,) = healthy.covered_cases(tmp_path, settings, cases)
    assert case.subject == "sub-a" and case.image.parent == tmp_path / "healthy"
    made = load_volume(case.image)
    assert not load_lesion(case.masks, None, made).any()
    original = load_volume(cases[0].image)
    np.testing.assert_allclose(made.affine, original.affine)
    lesion = load_lesion(cases[0].masks, None, original) > 0
    assert made.voxels[lesion].mean() > 2 * original.voxels[lesion].mean()
    before = case.image.stat().st_mtime_ns
    assert healthy.covered_cases(tmp_path, settings, cases) == [case]
    assert case.image.stat().st_mtime_ns == before


@pytest.mark.parametrize("shift", [-3, 0, 2])
def test_mirroring_moves_the_middle_and_lets_nothing_in(shift):
    line = np.arange(1, 8)[:, None, None]
    found = healthy.mirrored(line, shift)[:, 0, 0].tolist()
    wanted = [7 - (i - shift) if 0 <= i - shift < 7 else 0 for i in range(7)]
    assert found == wanted


def test_a_scan_that_changed_is_refused_before_the_budget_is_spent(
    arguments, tmp_path, monkeypatch
):
    arguments = [*arguments, "--results", str(tmp_path), "--cpu-seconds", "60"]
    monkeypatch.setattr(ours, "measure", lambda *_: pytest.fail("began to train"))
    monkeypatch.setattr("evaluation.runs.Path.is_file", lambda path: path.suffix != ".gz")
    with refused("gone or changed", "run it again"):
        ours.main(arguments)


def test_a_tuned_point_marks_a_mask_for_each_scan_on_its_own_grid(prepared, tmp_path):
    cases = find_cases(prepared, load_split(prepared, "atlas", 0), "validation")

    def dark(volume):
        return np.float32((volume.voxels > 50) & (volume.voxels < 300))

    points = {
        tmp_path / "plain": monai_unet.PLAIN,
        tmp_path / "tuned": monai_unet.choose_point(cases, dark),
    }
    monai_unet.write_masks(cases, dark, points)
    for case in cases:
        image = load_volume(case.image)
        plain, tuned = (
            load_mask(folder / "predictions" / case.masks[0].name, None, image) for folder in points
        )
        np.testing.assert_array_equal(plain, dark(image))
        assert (tuned <= plain).all()


def test_choosing_settings_touches_no_held_back_subject(arguments, tmp_path, monkeypatch):
    evaluated = []
    script = SimpleNamespace(main=evaluated.append)
    monkeypatch.setattr(ours, "measure", lambda *_: (1.0, 1.0))
    monkeypatch.setattr(ours, "import_module", lambda name: script)
    plan = [*arguments, "--results", str(tmp_path), "--cpu-seconds", "60"]
    ours.main([*plan, "--validation-only", "--epochs", "3"])
    trained, scored = evaluated
    assert "train.epochs=3" in trained
    assert "validation" in scored and "test" not in scored
    assert not (tmp_path / "healthy").exists()


def test_transfer_starts_from_what_pre_training_left(arguments, tmp_path, monkeypatch):
    started = {}

    def script(name):
        return SimpleNamespace(main=lambda options: started.setdefault(name, options))

    monkeypatch.setattr(ours, "measure", lambda *_: (1.0, 1.0))
    monkeypatch.setattr(ours, "healthy_cases", lambda *_: [])
    monkeypatch.setattr(ours, "import_module", script)
    plan = [*arguments, "--results", str(tmp_path), "--cpu-seconds", "60", "--stage"]
    ours.main([*plan, "pre_train"])
    assert set(started) == {"pre_train_model"}
    ours.main([*plan, "transfer"])
    assert set(started) == {"pre_train_model", "transfer_learning", "evaluate"}
    runs = [option for option in started["pre_train_model"] if option.startswith("paths.runs=")][-1]
    weights = Path(json.loads(runs.partition("=")[2]), "pre_train", "best.weights.h5")
    assert f"transfer.initial_weights={quoted(weights)}" in started["transfer_learning"]
    assert weights.parents[2] == tmp_path / "reference-pre_train"
    assert (tmp_path / "reference-transfer" / "seed-0" / "budget.json").exists()


@pytest.mark.slow
def test_all_folds_share_the_budget_and_are_averaged(arguments, tmp_path, monkeypatch):
    began = []

    def script(name):
        return SimpleNamespace(main=lambda options: began.append((name, options)))

    monkeypatch.setattr(healthy, "HEADS", 1)
    monkeypatch.setattr(ours, "measure", lambda *_: (1.0, 1.0))
    monkeypatch.setattr(contest, "score", lambda *_: None)
    monkeypatch.setattr(ours, "import_module", script)
    plan = [*arguments, "--results", str(tmp_path), "--cpu-seconds", "60", "--all-folds"]
    with refused("--all-folds", "pre_train"):
        ours.main([*plan, "--stage", "pre_train"])
    ours.main([*plan, "--set", "split.folds=3", "--name", "average"])
    folder = tmp_path / "average" / "seed-0"
    assert [name for name, _ in began] == ["train_model"] * 3 + ["evaluate"] * 2 + ["predict"]
    *training, choosing, scoring, marking = [options for _, options in began]
    for fold, options in enumerate(training):
        own = [f"fold={fold}", f"paths.runs={quoted(folder / f'fold_{fold}')}"]
        assert options[-4:] == as_arguments(overrides=own)
        assert "train.epochs=4" in options
    runs = [str(folder / f"fold_{fold}" / "train") for fold in range(3)]
    evaluation = folder / "evaluation"
    assert choosing[:3] == scoring[:3] == runs
    assert choosing[-4:] == ["--subset", "validation", "--output", str(evaluation / "validation")]
    assert scoring[-4:] == ["--subset", "test", "--output", str(evaluation)]
    first = marking.index("--weights") + 1
    assert marking[first : first + 4] == [f"{run}/best.weights.h5" for run in runs] + ["--output"]
    facts = json.loads((folder / "budget.json").read_text())
    assert (facts["networks"], facts["epochs"], facts["steps"]) == (3, 4, 4)


def test_a_scan_that_another_fold_validates_is_looked_for_as_well(arguments, tmp_path, monkeypatch):
    from evaluation.cases import find_cases

    def changed(prepared, split, subset):
        cases = find_cases(prepared, split, subset)
        if split["validation"] == load_split(prepared, "atlas", 1)["validation"]:
            raise InputError(f"{cases[0].image}: changed")

    monkeypatch.setattr("evaluation.cases.find_cases", changed)
    monkeypatch.setattr(ours, "measure", lambda *_: pytest.fail("began to train"))
    plan = [*arguments, "--results", str(tmp_path), "--cpu-seconds", "60"]
    with refused("changed"):
        ours.main([*plan, "--all-folds", "--set", "split.folds=3"])


def scan_row(subject, lesion_ml, difference_ml, dice, session=""):
    """Return a row of metrics.csv."""
    metrics = dict.fromkeys(METRICS, 0.5) | {"dice": dice, "lesion_f1": dice / 2}
    metrics["volume_difference_ml"] = difference_ml
    whose = {"run": "predictions", "subject": subject, "session": session, "site": "a"}
    return (
        whose
        | metrics
        | {"lesion_volume_ml": lesion_ml, "lesion_outside_ml": 0.0, "lesion_below_ml": 0.0}
    )


def save_metrics(results, contender, seed, dice, healthy_ml=1.0):
    """Write what a contender leaves: metrics of a scan a subject and of heads without lesion."""
    folder = results / contender / f"seed-{seed}"
    rows = [scan_row(f"s{i}", 5.0, 9.0, value) for i, value in enumerate(dice)]
    save_csv(folder / "evaluation" / "metrics.csv", rows)
    rows = [
        scan_row(f"{kind}{i}", 0.0, factor * ml, 0.0)
        for kind, factor in (("s", 0.1), (healthy.SYNTHETIC, 1))
        for i, ml in enumerate((0.1, healthy_ml, 9.0))
    ]
    save_csv(folder / "healthy" / "evaluation" / "metrics.csv", rows)
    save_json(folder / "budget.json", {"epochs": 10 + seed, "steps": 200})


def rows_of(folder):
    table.keep(folder, folder / "kept")
    return table.load_rows(folder / "kept")


def test_the_table_pairs_subjects_and_averages_seeds(tmp_path):
    dice = np.linspace(0.1, 0.8, 8)
    save_metrics(tmp_path, "strong", 0, dice + 0.1, healthy_ml=0.25)
    save_metrics(tmp_path, "strong", 1, dice + 0.2, healthy_ml=1.25)
    save_metrics(tmp_path, "peer", 0, dice, healthy_ml=2.0)
    first, second = table.table(rows_of(tmp_path), "strong", seed=0)
    assert (first["contender"], second["contender"]) == ("**strong**", "peer")
    assert first["Dice"].startswith("0.600 (0.") and second["Dice"].startswith("0.450 (0.")
    assert (first["seeds"], first["steps"], second["steps"]) == (2, "2,000 2,200", "2,000")
    assert first["Dice by seed"] == "0.550 0.650"
    column = "false positives, {} heads, ml, median (range)".format
    assert first[column("synthetic")] == "0.75 (0.10–9.00)"
    assert second[column("synthetic")] == "2.00 (0.10–9.00)"
    assert first[column("held-back")] == "0.07 (0.01–0.90)"
    assert second["Dice − strong"].startswith("−0.150 (−0.150 to −0.150; p = 0.0")
    assert second["lesion F1 − strong"].startswith("−0.075 ")
    assert first["Dice − strong"] == ""


def test_the_steps_of_all_averaged_networks_are_counted(tmp_path):
    save_metrics(tmp_path, "strong", 0, [0.1, 0.2, 0.3])
    save_json(
        tmp_path / "strong" / "seed-0" / "budget.json", {"epochs": 4, "steps": 9, "networks": 5}
    )
    assert table.table(rows_of(tmp_path), "strong", seed=0)[0]["steps"] == "180"


def test_the_table_refuses_contenders_with_other_subjects(tmp_path):
    save_metrics(tmp_path, "strong", 0, [0.1, 0.2, 0.3])
    save_metrics(tmp_path, "peer", 0, [0.1, 0.2])
    rows = rows_of(tmp_path)
    with refused("peer", "other subjects"):
        table.table(rows, "strong", seed=0)
    other_heads = rows.assign(subject=rows.subject.where(rows.run == "strong", "x"))
    with refused("peer", "other subjects"):
        table.table(other_heads[other_heads.healthy], "strong", seed=0)
    with refused("--ours best", "peer, strong"):
        table.table(rows, "best", seed=0)


def test_the_table_grows_by_what_was_kept_before(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(table, "KEPT", tmp_path / "kept")
    printed = []
    for place, name in (("here", "strong"), ("there", "peer")):
        save_metrics(tmp_path / place, name, 0, [0.1, 0.2, 0.3])
        table.main([str(tmp_path / place)])
        printed.append(capsys.readouterr().out)
    assert "| peer " not in printed[0]
    assert "| **strong** " in printed[1] and "| peer " in printed[1]
    table.main([])
    assert capsys.readouterr().out == printed[1]
    with refused("empty", "metrics.csv"):
        table.main([str(tmp_path / "empty")])
    (tmp_path / "there" / "peer" / "seed-0" / "budget.json").unlink()
    (tmp_path / "there" / "peer").rename(tmp_path / "there" / "new")
    with refused("budget.json", "is missing"):
        table.main([str(tmp_path / "there")])
    assert not (tmp_path / "kept" / "new").exists()


def test_the_documentation_shows_the_metrics_that_were_kept(capsys):
    table.main([])
    shown = capsys.readouterr().out.strip()
    assert shown in (ROOT / "benchmarks" / "README.md").read_text()
    results = (ROOT / "docs" / "results.md").read_text()
    names, _, *rows = [[cell.strip() for cell in line.split("|")] for line in shown.splitlines()]
    dice, lesion_f1 = names.index("Dice"), names.index("lesion F1")
    assert len(rows) > 5
    for row in rows:
        if row[1] != "monai":
            assert f"| {row[dice]} | {row[lesion_f1]} |" in results
