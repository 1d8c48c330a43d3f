"""Killed, interrupted or out of disk at any moment: the same command ends where it would have."""

import csv
import errno
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import h5py
import numpy as np
import pytest
from conftest import quickly, refused

import evaluate
import predict
import prep
import train_model
from system.cores import CORES
from system.files import OutputError

ROOT = Path(__file__).parents[2]
EPOCHS = 3
# What goes on from step to step beside the weights.
WITH_A_STATE = [
    "--set",
    "train.weight_average=0.9",
    "--set",
    "train.warm_up=0.3",
    "--set",
    "train.schedule=cosine",
]
# Another seed kills at other moments; the result must be the same.
SEED = 0

pytestmark = pytest.mark.slow


def start(script, words, moment=None, **options):
    """Start a script as a process; `moment` is where it kills itself (see kill_at.py)."""
    if CORES == 1 and moment and moment.startswith("concurrent.futures"):
        pytest.skip("on one core no script waits for worker processes")
    program = ["tests/scripts/kill_at.py", script, moment] if moment else [f"{script}.py"]
    return subprocess.Popen(
        [sys.executable, *program, *map(str, words)],
        cwd=ROOT,
        text=True,
        start_new_session=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        **options,
    )


def finish(process, seconds=240):
    """Return exit code, stdout and the lines of stderr that are not TensorFlow's."""
    out, err = process.communicate(timeout=seconds)
    return process.returncode, out, [line for line in err.splitlines() if line.strip()]


def kill(script, words, moment):
    code, out, err = finish(start(script, words, moment))
    assert code == -signal.SIGKILL, (moment, code, out, err)
    return out


def limit_files(size):
    """What a child process does first, so that no file of it grows beyond `size` bytes."""
    return lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))


def arrays(path):
    """All arrays of a weights file, the optimizer's too."""
    found = {}
    with h5py.File(path) as file:
        file.visititems(
            lambda name, item: found.update({name: item[()]} if hasattr(item, "dtype") else {})
        )
    return found


def assert_same_run(run, reference):
    """Everything that a run leaves is the same to the last bit, but for times and names of places."""
    assert {path.name for path in run.iterdir()} == {path.name for path in reference.iterdir()}
    for name in ("history.csv", "learning_curves.png", "predictions.png"):
        assert (run / name).read_bytes() == (reference / name).read_bytes(), name
    for name in ("best.weights.h5", f"state-{EPOCHS}.weights.h5"):
        ours, theirs = arrays(run / name), arrays(reference / name)
        assert ours.keys() == theirs.keys()
        assert [k for k in ours if not np.array_equal(ours[k], theirs[k])] == [], name
    one, other = (json.loads((folder / "run.json").read_text()) for folder in (run, reference))
    for key in ("finished", "best", "epochs", "identity", "subjects"):
        assert one[key] == other[key], key


@pytest.fixture(scope="module")
def words(tiny_overrides, prepared, tmp_path_factory):
    """Make the arguments of a training run in a folder; call it with the folder."""

    def make(folder):
        return [
            *tiny_overrides,
            "--set",
            f"train.epochs={EPOCHS}",
            *WITH_A_STATE,
            "--set",
            f"paths.prepared={prepared}",
            "--set",
            f"paths.runs={folder}",
        ]

    return make


@pytest.fixture(scope="module")
def reference(words, tmp_path_factory):
    """The folder of a training run that nothing interrupted."""
    folder = tmp_path_factory.mktemp("reference")
    train_model.main(words(folder))
    return folder / "train"


def test_a_run_killed_at_any_moment_ends_as_one_that_never_was(words, reference, tmp_path):
    rng = random.Random(SEED)
    arguments, folder = words(tmp_path), tmp_path / "train"

    def epochs_kept():
        path = folder / "state.json"
        return len(json.loads(path.read_text())["history"]) if path.exists() else 0

    # Within the weights of the first epoch; then, the folder being there, before their commit is moved.
    kill("train_model", arguments, "pathlib.Path.write_bytes:1")
    assert [path.name for path in folder.glob("*.weights.h5")] == [".partial-state-1.weights.h5"]
    kill("train_model", arguments, "pathlib.Path.replace:2")
    assert (folder / "state-1.weights.h5").exists()
    assert epochs_kept() == 0

    # The disk is full from the first weights on; what is smaller still fits.
    code, _, err = finish(start("train_model", arguments, preexec_fn=limit_files(20_000)))
    assert code == 2
    assert len(err) == 1
    assert "state-1.weights.h5: cannot be written" in err[0]
    assert "the same command goes on" in err[0]
    assert epochs_kept() == 0

    # Ctrl-C reaches the whole group, as from a terminal.
    code, _, err = finish(start("train_model", arguments, "system.files.save_csv:1:SIGINT"))
    assert code == 130
    assert err == [f"stopped after epoch 1 of {EPOCHS}, kept in {folder}; the same command goes on"]
    assert epochs_kept() == 1

    step = rng.randint(2, 5)
    kill("train_model", arguments, f"keras.callbacks.CallbackList.on_train_batch_end:{step}")
    # The last epoch is committed, but its row is not in history.csv yet.
    kill("train_model", arguments, f"system.files.save_csv:{EPOCHS}")
    assert epochs_kept() == EPOCHS
    assert len((folder / "history.csv").read_text().splitlines()) == EPOCHS
    kill("train_model", arguments, "training.pictures.save_predictions:1")
    train_model.main(arguments)
    assert_same_run(folder, reference)


def test_a_disk_that_fills_up_at_any_write_costs_one_line(words, reference, tmp_path, monkeypatch):
    rng, replace, refusals = random.Random(SEED), Path.replace, 0
    while not (tmp_path / "train" / "predictions.png").exists():
        free = iter(range(rng.randint(4, 8)))

        def move(path, target, free=free):
            if next(free, None) is None:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return replace(path, target)

        monkeypatch.setattr(Path, "replace", move)
        try:
            train_model.main(words(tmp_path))
        except OutputError as error:
            refusals += 1
            assert str(error).startswith(str(tmp_path))
            assert "cannot be written (No space left on device)" in str(error)
            assert "\n" not in str(error)
    monkeypatch.undo()
    train_model.main(words(tmp_path))
    assert refusals > 2
    assert_same_run(tmp_path / "train", reference)


def files_below(folder):
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def is_alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def test_prep_killed_at_any_moment_ends_as_one_that_never_was(prepared, tiny_overrides, tmp_path):
    rng = random.Random(SEED)
    arguments = [*tiny_overrides, "--set", f"paths.prepared={tmp_path}"]
    # The parent alone is killed; each time so many scans are through.
    for scans in (1, rng.randint(2, 6), rng.randint(7, 16)):
        workers = kill("prep", arguments, f"concurrent.futures.Future.result:{scans}").split()
        assert workers
        patience = time.monotonic() + 10
        while any(map(is_alive, workers)) and time.monotonic() < patience:
            time.sleep(0.02)
        assert not any(map(is_alive, workers)), "worker processes outlive their parent"
        assert not (tmp_path / "splits.json").exists()
    kill("prep", arguments, "pathlib.Path.replace:2")  # between slices.csv and splits.json
    assert prep.main(arguments) == 0
    assert files_below(tmp_path) == files_below(prepared)


def test_a_killed_change_of_the_slices_leaves_no_table_that_mixes_old_and_new(
    prepared, tiny_overrides, words, tmp_path
):
    folder = shutil.copytree(prepared, tmp_path / "prepared")
    change = ["--set", "slices.skip=3"]
    arguments = [*tiny_overrides, *change, "--set", f"paths.prepared={folder}"]
    kill("prep", arguments, "concurrent.futures.Future.result:3")
    with refused(folder / "slices.csv", "not found", "run prep.py"):
        train_model.main([*words(tmp_path), "--set", f"paths.prepared={folder}"])
    assert prep.main(arguments) == 0
    fresh = tmp_path / "fresh"
    assert prep.main([*arguments, "--set", f"paths.prepared={fresh}"]) == 0
    assert files_below(folder) == files_below(fresh)


def test_prep_says_what_a_full_disk_or_ctrl_c_left(prepared, tiny_overrides, tmp_path):
    arguments = [*tiny_overrides, "--set", f"paths.prepared={tmp_path}"]
    code, out, err = finish(start("prep", arguments, preexec_fn=limit_files(8_000)))
    assert code == 2
    assert "left out" not in out
    assert len(err) == 1
    # Not as one bad scan of many: the others would be left out one by one.
    assert err[0].startswith(f"error: {tmp_path}/")
    assert "cannot be written" in err[0]
    assert not (tmp_path / "slices.csv").exists()

    moment = "concurrent.futures.Future.result:5:SIGINT"
    code, _, err = finish(start("prep", arguments, moment))
    assert code == 130
    assert err == [f"stopped after 4 of 17 scans, kept in {tmp_path}; the same command goes on"]
    assert prep.main(arguments) == 0
    assert files_below(tmp_path) == files_below(prepared)


def test_predict_killed_between_scans_ends_as_one_that_never_was(reference, tiny_trees, tmp_path):
    scans = sorted(tiny_trees.atlas.rglob("*_T1w.nii.gz"))
    scans = [scan for scan in scans if not scan.name.startswith(".")][:3]

    def arguments(folder):
        return [*scans, "--output", folder, "--weights", reference / "best.weights.h5"]

    def results(folder):
        """All but the seconds, and the names of the folders."""
        found = files_below(folder)
        for name, content in found.items():
            if name.endswith(".json"):
                facts = json.loads(content.replace(str(folder).encode(), b""))
                found[name] = facts | {"prediction": facts["prediction"] | {"seconds": 0}}
        with (folder / "predictions.csv").open() as file:
            rows = [
                row | {"seconds": 0, "mask": Path(row["mask"]).name} for row in csv.DictReader(file)
            ]
        return found | {"predictions.csv": rows}

    # Before the second scan is predicted, and when the first is written.
    for moment in ("prediction.inference.predict_seen:2", "concurrent.futures.Future.result:2"):
        kill("predict", arguments(tmp_path / "killed"), moment)
    first = min((tmp_path / "killed").rglob("*.json"), key=lambda path: path.stat().st_mtime_ns)
    written = first.stat().st_mtime_ns
    for folder in ("killed", "whole"):
        assert predict.main([*map(str, arguments(tmp_path / folder))]) == 0
    assert first.stat().st_mtime_ns == written
    assert results(tmp_path / "killed") == results(tmp_path / "whole")


@pytest.mark.parametrize("scans", [1, 3])
def test_predict_on_a_full_disk_stops_in_one_line_and_goes_on(
    scans, reference, tiny_trees, tmp_path
):
    found = sorted(tiny_trees.atlas.rglob("sub-r00*_T1w.nii.gz"))[:scans]
    arguments = [*found, "--output", tmp_path / "out", "--weights", reference / "best.weights.h5"]
    code, _, lines = finish(start("predict", arguments, preexec_fn=limit_files(100)))
    assert code == 2
    (line,) = [line for line in lines if line.startswith("error: ")]
    assert str(tmp_path / "out") in line
    assert "free some space and the same command goes on" in line
    assert not list((tmp_path / "out").rglob("*.json"))
    assert predict.main(list(map(str, arguments))) == 0


def test_evaluate_on_a_full_disk_stops_in_one_line(words, reference, tmp_path):
    run = shutil.copytree(reference, tmp_path / "train")
    code, _, lines = finish(start("evaluate", words(tmp_path), preexec_fn=limit_files(100)))
    assert code == 2
    (line,) = [line for line in lines if line.startswith("error: ")]
    assert str(run / "predictions") in line
    assert "free some space and the same command goes on" in line
    assert not list((run / "predictions").glob("*.nii.gz"))


def test_evaluate_killed_at_any_moment_ends_as_one_that_never_was(words, reference, tmp_path):
    for name in ("killed", "whole"):
        shutil.copytree(reference, tmp_path / name / "train")
    predictions = tmp_path / "killed" / "train" / "predictions"
    for moment in (
        "concurrent.futures.Future.result:2",
        "evaluation.choosing.save_json:1",
        "evaluation.report.save_text:1",
    ):
        kill("evaluate", words(tmp_path / "killed"), moment)
        first = min(predictions.glob("*.nii.gz"), key=lambda path: path.stat().st_mtime_ns)
        written = first.stat().st_mtime_ns
    with pytest.MonkeyPatch.context() as patch:
        quickly(patch)
        for name in ("killed", "whole"):
            evaluate.main(words(tmp_path / name))
    assert first.stat().st_mtime_ns == written

    def results(name):
        found = files_below(tmp_path / name)
        here = str(tmp_path / name).encode()
        found.pop("evaluation/validation/report.html")
        return {file: content.replace(here, b"") for file, content in found.items()}

    killed, whole = results("killed"), results("whole")
    assert killed.keys() == whole.keys()
    assert [file for file in whole if killed[file] != whole[file]] == []
    assert "evaluation/validation/metrics.csv" in whole
