"""The comparison of contenders: its split, its budget, its table; the peers themselves left out."""

import importlib
import json
import shutil
import tarfile
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas
import pytest
from conftest import quickly, refused, write_nifti

from benchmarks.bench import ROOT, cpu_seconds
from benchmarks.contenders import contest, gather, monai_unet, ours, table
from benchmarks.contenders.monai_recipes import RECIPES
from benchmarks.gpu import pack
from config import parse_arguments
from data import load_stage_data
from evaluation.cases import find_cases
from evaluation.metric_table import METRICS
from prediction.operating_point import PLAIN
from scans.find import find_scans
from scans.folds import split_from_table
from scans.manifest import load_manifest
from scans.splits import load_split
from scans.template import AFFINE, SHAPE
from scans.volumes import load_mask, load_volume
from synthetic.datasets import atlas_files
from system.files import save_csv, save_json
from system.yaml_files import quoted


@pytest.mark.parametrize("name", ["gather", "ours", "monai_unet", "nnunet", "table"])
def test_every_contender_imports_without_its_peers(name):
    assert callable(importlib.import_module(f"benchmarks.contenders.{name}").main)


def scan(site, number):
    image, _ = atlas_files("data", site, number)
    return SimpleNamespace(subject=image.parents[2].name, image=image)


def test_each_painted_site_is_a_fold_and_all_else_is_held_back():
    painted = [scan("P002", 1), scan("P001", 2), scan("P001", 1)]
    assert gather.deal(painted, [scan("R001", 1)]) == {
        "sub-p001s001": 0,
        "sub-p001s002": 0,
        "sub-p002s001": 1,
        "sub-r001s001": "test",
    }
    with refused("sub-p002s001", "is painted, and held back"):
        gather.deal(painted, painted[:1])


def test_prep_takes_the_split_of_what_was_gathered(tmp_path, monkeypatch):
    small = np.zeros((8, 8, 8), np.uint8)
    sites = {"painted": ("P001", "P002"), "strokes": ("R001", "R002")}
    for folder, own in sites.items():
        for site in own:
            for file in atlas_files(tmp_path / folder, site, 1):
                write_nifti(file, small, np.eye(4))
    for head in ("a_T1w", "b_T1w"):
        write_nifti(tmp_path / "heads" / f"{head}.nii.gz", small, np.eye(4))
    whole = np.ones(SHAPE, np.float32)
    whole[0] = 0
    monkeypatch.setattr("synthetic.controls.bring_head", lambda path: (whole, 1.0))
    words = [str(tmp_path / "painted"), "--strokes", str(tmp_path / "strokes")]
    words += ["--healthy", str(tmp_path / "heads"), "--output", str(tmp_path / "contest")]
    with refused("nowhere"):
        gather.main([str(tmp_path / "nowhere"), *words[1:]])
    gather.main(words)
    with refused("is there already"):
        gather.main(words)
    found, problems, *_ = find_scans(
        tmp_path / "contest" / "scans", "atlas", "_T1w", ["_label-L_desc-T1lesion_mask"]
    )
    assert not problems
    columns = ("content", "alike")
    rows = [{"subject": s.subject} | dict.fromkeys(columns, s.subject) for s in found]
    split = split_from_table(
        tmp_path / "contest" / "split.csv", pandas.DataFrame(rows), "subject", folds=2
    )
    held_back = ["sub-h001s001", "sub-h001s002", "sub-r001s001", "sub-r002s001"]
    assert split == {"test": held_back, "folds": [["sub-p001s001"], ["sub-p002s001"]]}
    image = load_volume(found[0].image)
    np.testing.assert_array_equal(image.affine, AFFINE)
    assert not load_mask(found[0].masks[0], None, image).any()


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


@pytest.mark.slow
def test_ours_trains_as_many_epochs_as_fit_and_is_scored(
    arguments, prepared, tmp_path, monkeypatch
):
    quickly(monkeypatch)
    monkeypatch.setattr(contest.Budget, "cost", lambda self, work: (work(), 1.0)[1])
    monkeypatch.setattr(ours, "MEASURED_STEPS", 1)
    words = [*arguments, "--results", str(tmp_path), "--name", "tiny"]
    # A second a step, in training and in validation; more steps than the slices have in a round.
    settings, _ = parse_arguments("", arguments)
    step_s, validation_s = ours.measure(settings, settings.train, "atlas", budget(0))
    seconds = str(2 * (13 + validation_s) + 0.5)
    ours.main([*words, "--cpu-seconds", seconds, "--epochs", "2", "--train-only"])
    folder = tmp_path / "tiny" / "seed-0"
    assert not (folder / "evaluation").exists()
    facts = json.loads((folder / "budget.json").read_text())
    assert step_s == 1 and facts["epochs"] == 2 and facts["steps"] == 13
    assert len(pandas.read_csv(folder / "train" / "history.csv")) == 2
    # Where the scans are it is only scored.
    monkeypatch.setattr(ours, "measure", lambda *_: pytest.fail("began to train"))
    ours.main(words)
    assert json.loads((folder / "train" / "operating_point.json").read_text())["chosen_on"]
    assert len(pandas.read_csv(folder / "evaluation" / "metrics.csv")) == 2
    with refused("is there already"):
        ours.main(words)
    # Killed before all was scored, it is scored by the same command.
    (folder / "evaluation" / "metrics.csv").unlink()
    ours.main(words)
    assert len(pandas.read_csv(folder / "evaluation" / "metrics.csv")) == 2
    (folder / "budget.json").unlink()
    with refused("unfinished"):
        ours.main(words)


def test_what_travels_holds_the_program_and_no_held_back_slice(
    arguments, prepared, tmp_path, monkeypatch
):
    # The first scan is held back, too: nothing may be read of it there.
    first = load_manifest(prepared, "atlas").subject[0]
    source = shutil.copytree(prepared, tmp_path / "source")
    text = (source / "splits.json").read_text()
    other = load_split(prepared, "atlas", 0)["test"][0]
    text = text.replace(first, "?").replace(other, first).replace("?", other)
    (source / "splits.json").write_text(text)
    monkeypatch.setattr("sys.argv", ["pack", str(tmp_path), "--prepared", str(source), "--contest"])
    pack.main()
    assert (tmp_path / "benchmarks" / "contenders" / "ours.py").is_file()
    assert (tmp_path / "configs" / "strong.yaml").is_file() and not (tmp_path / "tests").exists()
    with tarfile.open(tmp_path / "prepared.tar.bz2") as archive:
        archive.extractall(tmp_path, filter="data")
    rows = load_manifest(tmp_path / "prepared", "atlas")
    there = [(tmp_path / "prepared" / name).is_file() for name in rows.image]
    split = load_split(tmp_path / "prepared", "atlas", 0)
    assert split["test"] and there == (~rows.subject.isin(split["test"])).tolist()
    settings, _ = parse_arguments("", [*arguments, "--set", f"paths.prepared={tmp_path}/prepared"])
    data = load_stage_data("atlas", settings, 2, augmented=False)
    assert data.validation[0][0].shape == (2, 32, 32, 1)


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

    def dark(case, volume):
        return np.float32((volume.voxels > 50) & (volume.voxels < 300))

    points = {
        tmp_path / "plain": PLAIN,
        tmp_path / "tuned": monai_unet.choose_on(cases, dark, "lesions"),
    }
    monai_unet.write_masks(cases, dark, points)
    for case in cases:
        image = load_volume(case.image)
        plain, tuned = (
            load_mask(folder / "predictions" / case.masks[0].name, None, image) for folder in points
        )
        np.testing.assert_array_equal(plain, dark(case, image))
        assert (tuned <= plain).all()


def test_all_contenders_have_the_split_that_ours_trains_on(arguments, prepared, monkeypatch):
    found = {}
    monkeypatch.setattr("evaluation.cases.find_cases", lambda folder, split, subset: split)
    for by in ("subject", "site"):
        settings, _ = parse_arguments("", [*arguments, "--set", f"split.by={by}"])
        found[by] = contest.cases_of(settings, "validation")
        assert found[by] == load_split(prepared, "atlas", 0, by)
        _, order, validation = monai_unet.load_slices(settings, RECIPES["monai"])
        rows = load_manifest(prepared, "atlas").subject
        assert set(rows[validation]) <= set(found[by]["validation"])
        assert set(rows[order(0)]) <= set(found[by]["training"])
    assert found["subject"] != found["site"]


def test_mirrored_copies_are_averaged_in_the_patch_and_nothing_is_found_beyond():
    def leftmost(images):
        return (np.arange(images.shape[-1]) == 0) * np.ones_like(images)

    recipe = SimpleNamespace(patch=(4, 6), mirrored_axes=((), (-1,), (-2,), (-2, -1)))
    fitting = SimpleNamespace(recipe=recipe, probability=leftmost)
    found = monai_unet.Fitting.average(fitting, np.ones((2, 1, 8, 8), np.float32))
    wanted = np.zeros((8, 8))
    wanted[2:6, [1, 6]] = 0.5
    np.testing.assert_array_equal(found, np.broadcast_to(wanted, (2, 1, 8, 8)))


@pytest.mark.slow
@pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES)
def test_a_recipe_of_monai_learns_bright_squares(recipe, tmp_path):
    monai = pytest.importorskip("monai")

    def read(row):
        rng = np.random.default_rng(row)
        mask = np.zeros((1, 64, 64), np.float32)
        x, y = rng.integers(8, 40, 2)
        mask[0, x : x + 16, y : y + 16] = 1
        return {"image": 3 * mask + rng.normal(0, 0.3, mask.shape).astype("f4"), "mask": mask}

    monai.utils.set_determinism(0)
    rounds = lambda number: np.arange(8)  # noqa: E731
    fitting = monai_unet.Fitting(recipe, 4, read, rounds, np.arange(100, 104))
    batch = next(fitting.batches)
    assert batch["image"].shape == batch["mask"].shape == (4, 1, 64, 64)
    assert set(np.unique(batch["mask"])) == {0, 1}
    fitting.fit(10, tmp_path / "best.pt")
    assert fitting.dice() > 0.8
    again = monai_unet.Fitting(recipe, 4, read, rounds, fitting.validation)
    again.load(tmp_path / "best.pt")
    assert again.dice() > 0.8


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


def test_transfer_starts_from_what_pre_training_left(arguments, tmp_path, monkeypatch):
    started = {}

    def script(name):
        return SimpleNamespace(main=lambda options: started.setdefault(name, options))

    monkeypatch.setattr(ours, "measure", lambda *_: (1.0, 1.0))
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


def scan_row(subject, lesion_ml, difference_ml, dice):
    """Return a row of metrics.csv."""
    metrics = dict.fromkeys(METRICS, 0.5) | {"dice": dice, "lesion_f1": dice / 2}
    metrics["volume_difference_ml"] = difference_ml
    whose = {"run": "predictions", "subject": subject, "session": "", "site": "a"}
    volumes = {"lesion_volume_ml": lesion_ml, "lesion_outside_ml": 0.0, "lesion_below_ml": 0.0}
    return whose | metrics | volumes


def save_metrics(results, contender, seed, dice, healthy_ml=1.0):
    """Write what a contender leaves: metrics of a scan a subject, and of heads without lesion."""
    folder = results / contender / f"seed-{seed}"
    rows = [scan_row(f"s{i}", 5.0, 9.0, value) for i, value in enumerate(dice)]
    rows += [scan_row(f"h{i}", 0.0, ml, 0.0) for i, ml in enumerate((0.1, healthy_ml, 9.0))]
    save_csv(folder / "evaluation" / "metrics.csv", rows)
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
    column = "false positives, ml, median (range)"
    assert (first[column], second[column]) == ("0.75 (0.10–9.00)", "2.00 (0.10–9.00)")
    assert second["Dice − strong"].startswith("−0.150 (−0.150 to −0.150; p = 0.0")
    assert second["lesion F1 − strong"].startswith("−0.075 ")
    assert first["Dice − strong"] == ""


def test_the_table_refuses_contenders_with_other_subjects(tmp_path):
    save_metrics(tmp_path, "strong", 0, [0.1, 0.2, 0.3])
    save_metrics(tmp_path, "peer", 0, [0.1, 0.2])
    rows = rows_of(tmp_path)
    with refused("peer", "other subjects"):
        table.table(rows, "strong", seed=0)
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
    assert rows
    for row in rows:
        assert f"| {row[dice]} | {row[lesion_f1]} |" in results
