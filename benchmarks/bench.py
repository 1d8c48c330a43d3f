"""What all benchmarks share: contestants that are measured in turns, and tables of their ratios.

The machines are shared and their speed wanders, so nothing is measured once: ours, peer, ours, peer,
in rounds, and a ratio is taken within a round. Each contestant lives in a process of its own (two
libraries in one process fight for its threads) and sleeps while another is awake. CPU time stands
beside wall time, because other programs on the machine hardly change it.
"""

import argparse
import contextlib
import importlib.metadata
import multiprocessing
import os
import platform
import resource
import statistics
import tempfile
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from system.cores import CORES
from system.files import save_json
from system.yaml_files import quoted

ROOT = Path(__file__).parents[1]
RESULTS = Path(__file__).with_name("results")
PACKAGES = (
    "tensorflow",
    "keras",
    "numpy",
    "scipy",
    "nibabel",
    "opencv-python-headless",
    "torch",
    "monai",
    "scikit-image",
    "onnxruntime",
    "openvino",
)
ENVIRONMENT = {
    "TF_CPP_MIN_LOG_LEVEL": "3",
    "TF_ENABLE_ONEDNN_OPTS": "1",  # as the stages set it
    "OMP_WAIT_POLICY": "PASSIVE",  # threads that wait in a loop would count as work
    # glibc hands large arrays back to the system; getting them again, page by page, took a fifth of
    # PyTorch's CPU time in a step and none of ours. Kept, for all alike.
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": str(2**31 - 1),
}


@dataclass(frozen=True)
class Contestant:
    """One side of a comparison.

    Attributes
    ----------
    name : str
    build : callable
        Importable. Called once with `arguments` in the contestant's process; returns the work to be
        measured, a callable, which may return a dictionary of further numbers.
    arguments : tuple
    optional : bool
        Left out of the comparison, and said so, if it cannot be built or warmed up.
    warm_up : bool
        Work once unmeasured. Not where the work itself starts from nothing.
    """

    name: str
    build: Callable
    arguments: tuple = field(default=())
    optional: bool = False
    warm_up: bool = True


def compare(contestants, rounds):
    """Measure contestants in turns, each in a process of its own.

    Parameters
    ----------
    contestants : list of Contestant
    rounds : int

    Returns
    -------
    dict of list of dict
        The samples of each contestant by name, one a round, as `measure` takes them.
    """
    with contextlib.ExitStack() as processes:
        asked = {}
        for contestant in contestants:
            try:
                asked[contestant.name] = processes.enter_context(_awake(contestant))
            except RuntimeError as error:
                if not contestant.optional:
                    raise
                print(f"{contestant.name}: left out, {str(error).strip().splitlines()[-1][:150]}")
        return take_turns(asked, rounds)


def take_turns(contestants, rounds):
    """Ask each contestant for a sample, one after the other, `rounds` times over.

    Parameters
    ----------
    contestants : dict of callable
        By name; each returns a sample.
    rounds : int

    Returns
    -------
    dict of list
        The samples by name, one a round.
    """
    samples = {name: [] for name in contestants}
    for _ in range(rounds):
        for name, sample in contestants.items():
            samples[name].append(sample())
    return samples


def measure(work):
    """Do some work and say what it took.

    Returns
    -------
    dict
        ``wall_s``; ``cpu_s`` of this process and those it started; ``others``, how many cores other
        programs kept busy meanwhile; ``peak_mb`` of this process so far; and what `work` returned.
    """
    busy, cpu, started = _busy_seconds(), cpu_seconds(), time.perf_counter()
    numbers = work() or {}
    wall = time.perf_counter() - started
    cpu, busy = cpu_seconds() - cpu, _busy_seconds() - busy
    peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    times = {"wall_s": wall, "cpu_s": cpu, "others": max(0.0, busy - cpu) / wall}
    return times | {"peak_mb": peak_mb} | numbers


def cpu_seconds():
    """Return the CPU time of this process, of its ended children, and of those still alive."""
    total = 0.0
    for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN):
        used = resource.getrusage(who)
        total += used.ru_utime + used.ru_stime
    for child in multiprocessing.active_children():
        with contextlib.suppress(OSError):
            times = Path(f"/proc/{child.pid}/stat").read_text().rpartition(")")[2].split()
            total += (int(times[11]) + int(times[12])) / os.sysconf("SC_CLK_TCK")
    return total


def _busy_seconds():
    """Return the CPU time that all programs of the machine have used since it started."""
    try:
        first = Path("/proc/stat").read_text().splitlines()[0].split()[1:]
    except OSError:
        return 0.0
    user, nice, system, _, _, interrupts, soft = map(int, first[:7])
    return (user + nice + system + interrupts + soft) / os.sysconf("SC_CLK_TCK")


@contextlib.contextmanager
def _awake(contestant):
    """Start a contestant's process; give a callable that has it work once and returns the sample."""
    ours, theirs = multiprocessing.Pipe()
    before = dict(os.environ)
    os.environ.update(ENVIRONMENT)
    try:
        process = multiprocessing.get_context("spawn").Process(
            target=_serve, args=(theirs, contestant)
        )
        process.start()
    finally:
        os.environ.clear()
        os.environ.update(before)
    theirs.close()

    def answer():
        try:
            sample, trouble = ours.recv()
        except EOFError:
            sample, trouble = None, "its process died"
        if trouble:
            raise RuntimeError(f"{contestant.name}: {trouble}")
        return sample

    def sample():
        # Threads of the one before may still be on their way to sleep.
        time.sleep(0.1)
        ours.send("work")
        return answer()

    try:
        answer()
        yield sample
    finally:
        ours.close()
        process.join()


def _serve(pipe, contestant):
    """Be a contestant: build, warm up, then work whenever asked, until the pipe is closed."""
    # What goes wrong is sent as a traceback; what is printed besides is not wanted.
    for terminal in (1, 2):
        os.dup2(os.open(os.devnull, os.O_WRONLY), terminal)
    try:
        work = contestant.build(*contestant.arguments)
        if contestant.warm_up:
            work()
        pipe.send((None, None))
        while pipe.recv():
            pipe.send((measure(work), None))
    except EOFError:
        pass
    except Exception:
        pipe.send((None, traceback.format_exc()))


@dataclass(frozen=True)
class Spread:
    """Median, lowest and highest of some numbers; written as ``1.43 (1.40–1.47)``."""

    median: float
    low: float
    high: float

    def __str__(self):
        return f"{brief(self.median)} ({brief(self.low)}–{brief(self.high)})"


def spread(numbers):
    numbers = list(numbers)
    return Spread(statistics.median(numbers), min(numbers), max(numbers))


def times_ours(ours, peer, quantity="cpu_s"):
    """Return how many times as long as ours the peer took, round by round, as a `Spread`."""
    return spread(p[quantity] / o[quantity] for o, p in zip(ours, peer, strict=True))


def quickest(samples, names, quantity="cpu_s"):
    """Return which of some contestants has the lowest median; those left out do not count."""
    medians = {n: spread(s[quantity] for s in samples[n]).median for n in names if n in samples}
    return min(medians, key=medians.get)


def brief(number):
    """Write a number with three digits: 0.0123, 1.23, 12.3, 1,230."""
    if number == 0 or abs(number) >= 100:
        return f"{number:,.0f}"
    return f"{number:.3g}" if abs(number) < 1 else f"{number:.{2 - (abs(number) >= 10)}f}"


def markdown(rows):
    """Write a list of equal-keyed dictionaries as a Markdown table, as benchmarks/README.md has it."""
    cells = [list(rows[0])] + [[str(value) for value in row.values()] for row in rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    cells.insert(1, ["-" * width for width in widths])
    lines = (
        " | ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)).rstrip() for line in cells
    )
    return "\n".join(f"| {line} |" for line in lines)


def report(name, rows, samples, **options):
    """Print a table and save it, with all samples, in ``benchmarks/results/<name>.json``."""
    content = {
        "benchmark": name,
        "machine": machine(),
        # Of a path the name alone: where it lay says nothing to others.
        "options": {k: v.name if isinstance(v, Path) else v for k, v in options.items()},
        "table": [{key: str(value) for key, value in row.items()} for row in rows],
        "samples": samples,
    }
    save_json(RESULTS / f"{name}.json", content)
    others = [s["others"] for turns in samples.values() for s in turns if "others" in s]
    load = f"; other programs kept {spread(others)} cores busy" if others else ""
    print(f"\n{markdown(rows)}\n\n{name}: {content['machine']['date']}{load}\n")


def machine():
    """Describe what the numbers were measured on."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    cpu = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    flags = next((line.split() for line in lines if line.startswith("flags")), [])
    versions = {"python": platform.python_version()}
    for package in PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[package] = importlib.metadata.version(package)
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "cpu": cpu[0] if cpu else platform.processor(),
        "avx512": "avx512f" in flags,
        "cores": CORES,
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "load_average": [round(load, 2) for load in os.getloadavg()],
        "versions": versions,
    }


def arguments(documentation, rounds, **further):
    """Read the command line: ``--rounds``, and `further` options by name (default, type, help)."""
    parser = argparse.ArgumentParser(
        description=documentation, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=rounds, help=f"default: {rounds}")
    for name, options in further.items():
        parser.add_argument(f"--{name}", **options)
    return parser.parse_args()


SCANS = {"type": Path, "metavar": "FOLDER", "help": "scans in ATLAS's layout; default: synthetic"}


@contextlib.contextmanager
def scratch():
    """Give a temporary folder, on a disk rather than in memory where there is a choice."""
    with tempfile.TemporaryDirectory(prefix="lesions-bench-", dir="/var/tmp") as folder:
        yield Path(folder)


def find_or_make_scans(given, folder, count):
    """Return a folder of full-grid scans: the given one, or `count` that demo.py's functions make."""
    if given:
        return given
    from synthetic.datasets import make_atlas

    make_atlas(folder / "ATLAS_2", count, 0, CORES)
    return folder / "ATLAS_2"


def prepare(scans, prepared, format="npy", changes=()):
    """Run prep.py on a folder of scans, in this process, quietly; return its settings.

    `changes` are further settings, ``section.key=value``.
    """
    from config import load_settings
    from prep import main

    overrides = [
        f"paths.atlas={quoted(scans)}",
        "paths.brats17=/nowhere",
        f"paths.prepared={quoted(prepared)}",
        f"slices.format={format}",
        "split.folds=2",
        *changes,
    ]
    options = [word for override in overrides for word in ("--set", override)]
    with contextlib.redirect_stdout(None):
        main(options)
    return load_settings(overrides=overrides)
