"""Every script reads its arguments alike, and ends in one clear line."""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace

import pytest

from config import parse_arguments
from system.console import run_script, starting_keras
from system.files import InputError, OutputError, ProgramError

ROOT = Path(__file__).parents[2]


def raises(error):
    raise error


@pytest.mark.parametrize(
    ("main", "code", "shown"),
    [
        (lambda: None, None, ""),
        (lambda: 1, 1, ""),
        (lambda: raises(InputError("x.nii: broken")), 2, "error: x.nii: broken\n"),
        (lambda: raises(OutputError("x.csv: full")), 2, "error: x.csv: full\n"),
        (lambda: raises(ProgramError("x: missing")), 2, "error: x: missing\n"),
        (lambda: raises(OSError(28, "No space left")), 2, "error: [Errno 28] No space left; free"),
        (
            lambda: raises(OSError(122, "Quota exceeded")),
            2,
            "error: [Errno 122] Quota exceeded; free",
        ),
        (
            lambda: raises(OSError(13, "Permission denied", "closed/x.nii")),
            2,
            "error: closed/x.nii: is out of reach (Permission denied); ask for permission",
        ),
        (
            lambda: raises(OSError(36, "File name too long", "x" * 300)),
            2,
            f"error: {'x' * 300}: is out of reach (File name too long)",
        ),
        (
            lambda: raises(ModuleNotFoundError("No module named 'cv2'", name="cv2")),
            2,
            "error: cv2 is not installed; pip install -r requirements.txt",
        ),
        (lambda: raises(KeyboardInterrupt), 130, "\nstopped, what is finished is kept; the same"),
        (lambda: raises(KeyboardInterrupt("after 2 of 3")), 130, "\nstopped after 2 of 3; the"),
    ],
)
def test_a_script_ends_with_its_code_and_one_line(main, code, shown, capsys):
    with pytest.raises(SystemExit) as exit:
        run_script(main)
    assert exit.value.code == code
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith(shown) and bool(captured.err) == bool(shown)
    assert captured.err.strip().count("\n") == 0


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        (["after epoch 1 of 2"], "stopped after epoch 1 of 2; the same command without --restart"),
        ([], "stopped, what is finished is kept; the same command goes on"),
    ],
    ids=["training", "nothing set aside yet"],
)
def test_a_restart_that_was_stopped_says_whether_the_next_restarts_too(
    said, shown, monkeypatch, capsys
):
    monkeypatch.setattr("sys.argv", ["train_model.py", "--restart"])
    with pytest.raises(SystemExit):
        run_script(lambda: raises(KeyboardInterrupt(*said)))
    assert capsys.readouterr().err.strip().startswith(shown)


def test_without_a_folder_for_temporary_files_nothing_starts(monkeypatch, capsys):
    """As in a container whose root is read-only and that was given no /tmp."""
    monkeypatch.setattr(tempfile, "gettempdir", lambda: raises(FileNotFoundError("No usable")))
    with pytest.raises(SystemExit) as exit:
        run_script(lambda: pytest.fail("began all the same"))
    assert exit.value.code == 2
    line = capsys.readouterr().err
    assert line.startswith("error: no folder for temporary files") and "TMPDIR" in line


def test_a_reader_who_has_seen_enough_ends_a_script_in_silence():
    """As `head` does, which closes the pipe."""
    code = "from system.console import run_script; run_script(lambda: [print('x' * 99) for _ in range(9999)])"
    script = subprocess.Popen(
        [sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    script.stdout.read(1)
    script.stdout.close()
    assert script.stderr.read() == b""
    assert script.wait() == 141


@pytest.mark.parametrize("utf8", ["0", "1"])
def test_names_with_umlauts_are_met_in_the_locale_of_containers(tmp_path, utf8):
    folder = tmp_path / "Schädel"
    folder.mkdir()
    words = [sys.executable, ROOT / "prep.py", "--set", f"paths.atlas={folder}"]
    plain = os.environ | {"LC_ALL": "C", "PYTHONUTF8": utf8, "PYTHONCOERCECLOCALE": "0"}
    ended = subprocess.run(words, env=plain, capture_output=True, check=False)
    assert ended.returncode == 2
    assert ended.stderr.decode("utf-8").startswith(f"error: {folder}: no file ends in _T1w.nii.gz")


def test_the_keras_settings_of_the_user_change_nothing(tmp_path):
    theirs = {"image_data_format": "channels_first", "floatx": "float16", "backend": "torch"}
    (tmp_path / "keras.json").write_text(json.dumps(theirs | {"epsilon": 0.1}))
    program = """
from system.console import starting_keras
with starting_keras():
    from keras import config
print(config.backend(), config.image_data_format(), config.floatx(), config.epsilon())
"""
    changed = os.environ | {"KERAS_HOME": str(tmp_path), "KERAS_MAX_EPOCHS": "1"}
    changed.pop("KERAS_BACKEND", None)
    words = [sys.executable, "-c", program]
    shown = subprocess.run(words, env=changed, cwd=ROOT, capture_output=True, check=True).stdout
    assert shown.decode().splitlines()[-1] == "tensorflow channels_last float32 1e-07"
    assert json.loads((tmp_path / "keras.json").read_text()) == theirs | {"epsilon": 0.1}


def test_a_module_of_ours_that_is_missing_is_a_mistake():
    with pytest.raises(ModuleNotFoundError):
        run_script(lambda: raises(ModuleNotFoundError("No module", name="scans.gone")))


def test_a_mistake_in_the_program_keeps_its_traceback():
    with pytest.raises(ZeroDivisionError):
        run_script(lambda: 1 / 0)


def test_settings_come_from_the_files_and_the_arguments(tmp_path):
    overlay = tmp_path / "overlay.yaml"
    overlay.write_text("seed: 3\nfold: 1\nslices: {skip: 7}\n", "utf-8")
    settings, _ = parse_arguments(
        "", ["--config", str(overlay), "--set", "fold=2", "--set", "seed=4"]
    )
    assert (settings.seed, settings.fold, settings.slices.skip) == (4, 2, 7)


def test_a_flag_of_the_script_is_off_unless_given():
    _, off = parse_arguments("", [], keep_all="help")
    _, on = parse_arguments("", ["--keep-all"], keep_all="help")
    assert (off.keep_all, on.keep_all) == (False, True)


def test_an_unknown_argument_is_refused(capsys):
    with pytest.raises(SystemExit) as exit:
        parse_arguments("", ["--epochs", "3"])
    assert exit.value.code == 2
    assert "--epochs" in capsys.readouterr().err


@pytest.fixture
def pretended_tensorflow(monkeypatch):
    devices = SimpleNamespace(start=lambda: "2 CPU cores, TensorFlow 9.9")
    monkeypatch.setitem(sys.modules, "system.tensorflow_devices", devices)


@pytest.mark.usefixtures("pretended_tensorflow")
def test_what_a_framework_prints_at_its_start_is_held_back(capfd):
    with starting_keras():
        os.write(2, b"from C++\n")
    os.write(2, b"afterwards\n")
    shown = capfd.readouterr()
    assert shown.err == "afterwards\n"
    assert shown.out == "runs on 2 CPU cores, TensorFlow 9.9\n"


@pytest.mark.usefixtures("pretended_tensorflow")
def test_what_a_framework_prints_is_shown_if_its_start_fails(capfd):
    with pytest.raises(ImportError), starting_keras():
        os.write(2, b"from C++\n")
        raise ImportError
    os.write(2, b"afterwards\n")
    assert capfd.readouterr().err == "from C++\nafterwards\n"
