"""How a script starts its framework, and how it ends in one clear line."""

import contextlib
import errno
import os
import sys
import tempfile
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

from system.files import InputError, OutputError, ProgramError, is_full, one_line

BACKENDS = ("tensorflow", "jax", "torch")
# What Keras reads at its start besides the backend, and the addresses of several machines.
KERAS_SETTINGS = (
    "KERAS_HOME",
    "KERAS_MAX_EPOCHS",
    "KERAS_MAX_STEPS_PER_EPOCH",
    "KERAS_NNX_ENABLED",
)
# What every look at a file may end with, wherever it is.
OUT_OF_REACH = (errno.EACCES, errno.EPERM, errno.ENAMETOOLONG)


def run_script(main):
    """Call `main` as a program: a refused input is one line and exit code 2, Ctrl-C is 130.

    A `KeyboardInterrupt` may carry what was kept, as ``after epoch 3 of 150, kept in runs/train``.
    """
    if sys.getfilesystemencoding().lower() != "utf-8":
        # In another locale, as of containers and cron, Python reads names of files by another rule.
        os.execv(sys.executable, [sys.executable, "-X", "utf8", *sys.orig_argv[1:]])
    try:
        require_temporary_folder()
        sys.exit(main())
    except (InputError, OutputError, ProgramError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except ModuleNotFoundError as error:
        # As where only requirements/predict.txt is installed. What is missing of ours is a mistake.
        package = (error.name or "").partition(".")[0]
        if not package or any(Path(__file__).parents[1].glob(f"{package}*")):
            raise
        print(
            f"error: {package} is not installed; pip install -r requirements.txt", file=sys.stderr
        )
        sys.exit(2)
    except KeyboardInterrupt as stop:
        # Before it says what was kept, a training has not set the earlier run aside yet.
        anew = " without --restart" if stop.args and "--restart" in sys.argv else ""
        kept = f"stopped {stop}" if stop.args else "stopped, what is finished is kept"
        print(f"\n{kept}; the same command{anew} goes on", file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:
        # As under `| head`. Python would fail once more when it flushes at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)
    except OSError as error:
        # Whatever looks at a file first may find a folder closed, or a name too long.
        if error.filename and error.errno in OUT_OF_REACH:
            print(
                f"error: {one_line(error.filename)}: is out of reach ({error.strerror}); ask for "
                "permission, or name another",
                file=sys.stderr,
            )
            sys.exit(2)
        # Standard output, too, may be a file on a full disk.
        if not is_full(error):
            raise
        print(f"error: {error}; free some space and the same command goes on", file=sys.stderr)
        sys.exit(2)


def require_temporary_folder():
    """Refuse to start where nothing temporary can be written, as in a read-only container."""
    try:
        tempfile.gettempdir()
    except FileNotFoundError:
        raise ProgramError(
            "no folder for temporary files can be written; name one in the variable TMPDIR"
        ) from None


@contextlib.contextmanager
def starting_keras():
    """Import Keras in this block on the backend that KERAS_BACKEND names; print its devices.

    Unless one is named, it is the first of `BACKENDS` that is installed.
    """
    installed = [backend for backend in BACKENDS if find_spec(backend)]
    backend = os.environ.get("KERAS_BACKEND") or (installed or BACKENDS)[0]
    if backend not in BACKENDS:
        raise InputError(f"KERAS_BACKEND = {backend}: unknown; choose {', '.join(BACKENDS)}")
    if backend not in installed:
        raise ProgramError(
            f"KERAS_BACKEND = {backend}: is not installed; pip install -r "
            f"requirements/{backend}.txt, or choose another of {', '.join(installed or BACKENDS)}"
        )
    # Keras itself must not choose another one by a file of the user.
    os.environ["KERAS_BACKEND"] = backend
    with _start_up_lines_held_back(), _own_keras_settings():
        devices = import_module(f"system.{backend}_devices").start()
        yield
    print(f"runs on {devices}")


@contextlib.contextmanager
def _own_keras_settings():
    """Keep ~/.keras/keras.json and variables of the user from deciding how this runs.

    They may exchange the axes of an image, change the precision, or end a training early.
    """
    theirs = {name: os.environ.pop(name) for name in KERAS_SETTINGS if name in os.environ}
    with tempfile.TemporaryDirectory() as home:
        os.environ["KERAS_HOME"] = home
        try:
            yield
        finally:
            del os.environ["KERAS_HOME"]
            os.environ.update(theirs)


@contextlib.contextmanager
def _start_up_lines_held_back():
    """Hold back what a library prints at its start, unless the start fails.

    Its C++ code writes past Python's `sys.stderr`, so the file descriptor itself is redirected.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    # TensorFlow leaves oneDNN off on processors without AVX-512: convolutions take twice as long.
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
    sys.stderr.flush()
    terminal = os.dup(2)
    with tempfile.TemporaryFile() as held_back:
        os.dup2(held_back.fileno(), 2)
        try:
            yield
        except BaseException:
            held_back.seek(0)
            os.write(terminal, held_back.read())
            raise
        finally:
            os.dup2(terminal, 2)
            os.close(terminal)
