"""What every script does at its two ends: read its arguments, and end in one clear line.

Nothing slow is imported here, so that ``--help`` and a mistake in the settings answer at once.
"""

import argparse
import contextlib
import errno
import os
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path

from config import load_settings
from system.files import InputError, OutputError
from system.parallel import CORES


def read_settings(description, argv=None, add_arguments=None, **flags):
    """Parse ``--config``, ``--set`` and the script's own flags into checked settings.

    Parameters
    ----------
    description : str
        The script's docstring, shown by ``--help``.
    argv : list of str, optional
        Arguments without the program's name; those of the process when omitted.
    add_arguments : callable, optional
        Gets the argparse parser, to add what is more than a flag.
    **flags : str
        Names of on/off flags of this script, each with its help text.

    Returns
    -------
    config.Settings, or (config.Settings, argparse.Namespace) if the script has more

    Raises
    ------
    InputError
        If a setting is unknown, of a wrong type or impossible.
    """
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--config", type=Path, metavar="FILE", help="settings that replace those of config.yaml"
    )
    parser.add_argument(
        "--set", action="append", default=[], metavar="SECTION.KEY=VALUE", dest="overrides",
        help="one setting, may be repeated; replaces those of both files",
    )  # fmt: skip
    for name, text in flags.items():
        parser.add_argument(f"--{name.replace('_', '-')}", action="store_true", help=text)
    if add_arguments:
        add_arguments(parser)
    arguments = parser.parse_args(argv)
    settings = load_settings(arguments.config, arguments.overrides)
    return (settings, arguments) if flags or add_arguments else settings


def as_arguments(config=None, overrides=()):
    """Write settings as the arguments of a script, as `read_settings` parses them.

    Parameters
    ----------
    config : path-like, optional
    overrides : iterable of str
        ``"section.key=value"``.

    Returns
    -------
    list of str
    """
    words = ["--config", str(config)] if config else []
    return words + [word for override in overrides for word in ("--set", override)]


def run(main):
    """Call `main` as a program: a refused input is one line and exit code 2, Ctrl-C is 130.

    A `KeyboardInterrupt` may carry what was kept, as ``after epoch 3 of 150, kept in runs/train``.
    """
    try:
        sys.exit(main())
    except (InputError, OutputError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt as stop:
        kept = f"stopped {stop}" if stop.args else "stopped, what is finished is kept"
        same = (
            "the same command without --restart" if "--restart" in sys.argv else "the same command"
        )
        print(f"\n{kept}; {same} goes on", file=sys.stderr)
        sys.exit(130)
    except OSError as error:
        # Also what is printed may go to a file on a full disk.
        if error.errno != errno.ENOSPC:
            raise
        print(f"error: {error}; free some space and the same command goes on", file=sys.stderr)
        sys.exit(2)


@contextlib.contextmanager
def starting_tensorflow():
    """Import Keras on TensorFlow in this block; the device it found is named."""
    os.environ["KERAS_BACKEND"] = "tensorflow"
    with _holding_back():
        yield
        import tensorflow as tf

        gpus = tf.config.list_logical_devices("GPU")
    device = f"{len(gpus)} GPU" if gpus else f"{CORES} CPU cores"
    print(f"runs on {device}, TensorFlow {tf.__version__}")


@contextlib.contextmanager
def starting_keras():
    """Import Keras on what KERAS_BACKEND names: `starting_tensorflow`, or the same for JAX."""
    backend = os.environ.get("KERAS_BACKEND", "tensorflow")
    if backend == "tensorflow":
        with starting_tensorflow():
            yield
    elif backend == "jax" and find_spec("jax"):
        with _holding_back():
            yield
            from system.devices import start_jax

            devices = start_jax()
        print(f"runs on {devices}")
    else:
        missing = (
            "pip install -r requirements/jax.txt"
            if backend == "jax"
            else "choose tensorflow or jax"
        )
        raise InputError(f"KERAS_BACKEND = {backend}: cannot train on it; {missing}, or unset it")


@contextlib.contextmanager
def _holding_back():
    """Hold back what a library prints at its start.

    Its C++ code writes past Python's `sys.stderr`, so the file descriptor itself is redirected; if
    the start fails, the lines are printed after all.
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
