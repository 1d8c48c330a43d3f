"""What the contenders share: a budget of computing, and how those of other programs are scored.

A budget is CPU time of all threads and processes of the training, because the machines are shared;
3,600 s are 30 minutes of two cores. What a step and a validation cost is measured first, uncounted;
then so many are planned that training, with its whole schedule of the learning rate, ends with the
budget. Preparation, planning and the prediction of the scans are free.
"""

import contextlib
import ctypes
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from benchmarks.bench import ENVIRONMENT, cpu_seconds, machine
from config import as_arguments
from system.cores import CORES
from system.files import InputError, save_json
from system.yaml_files import quoted

# Files that a contender leaves once it is trained, and once it is scored as well.
PLAN, SCORED = "budget.json", "evaluation/metrics.csv"


def add_arguments(parser):
    parser.add_argument(
        "--results",
        type=Path,
        default=Path("contenders"),
        metavar="FOLDER",
        help="gets <contender>/seed-<seed>; default: contenders",
    )
    parser.add_argument(
        "--cpu-seconds", type=float, default=3600, help="of training; default: 3600"
    )
    parser.add_argument(
        "--wall-seconds", type=float, help="of training, instead: where a GPU computes"
    )
    parser.add_argument(
        "--train-only",
        action="store_true",
        help="score nothing: where the scans are not; started again without, it only scores",
    )


def set_up_process():
    """Let threads wait without computing, and memory stay; before PyTorch or TensorFlow is imported.

    By default glibc returns every large array to the system: half of the CPU time of PyTorch's steps
    then goes to getting it back, page by page.
    """
    os.environ |= ENVIRONMENT | {"OMP_NUM_THREADS": str(CORES)}
    with contextlib.suppress(AttributeError, OSError):  # not glibc
        libc = ctypes.CDLL(None)
        libc.mallopt(-4, 0)  # M_MMAP_MAX
        libc.mallopt(-1, 2**31 - 1)  # M_TRIM_THRESHOLD


@dataclass(frozen=True)
class Budget:
    """So many seconds of a clock, for training and the validation in it."""

    seconds: float
    clock: Callable

    @classmethod
    def given(cls, arguments):
        if arguments.wall_seconds:
            return cls(arguments.wall_seconds, time.perf_counter)
        return cls(arguments.cpu_seconds, cpu_seconds)

    def cost(self, work):
        """Return the seconds of a second call of `work`: the first builds and fills what lasts."""
        work()
        self.rest()
        before = self.clock()
        work()
        # Workers refill their queues.
        self.rest()
        return self.clock() - before

    def rest(self):
        """Wait until no worker of this process computes."""
        spent = 1.0
        while self.clock is cpu_seconds and spent > 0.3:
            spent = -cpu_seconds()
            time.sleep(1)
            spent += cpu_seconds()

    def steps(self, epochs, step_s, validation_s=0.0):
        """Return how many steps an epoch has if so many epochs, each validated, fill the budget."""
        steps = int((self.seconds / epochs - validation_s) / step_s) if epochs > 0 else 0
        if steps < 1:
            raise InputError(
                f"a step of {step_s:.1f} s and a validation of {validation_s:.1f} s do not fit "
                f"{epochs} times into {self.seconds:.0f} s; give more"
            )
        return steps

    def spend(self, train, folder, **plan):
        """Train, and write plan, costs and machine to ``budget.json`` in `folder`."""
        before, started = self.clock(), time.perf_counter()
        try:
            train()
        except KeyboardInterrupt:
            # Going on would be a second training with what is left of the budget.
            raise InputError(
                f"{folder}: stopped within the budget; delete it to begin anew"
            ) from None
        spent, wall_s = self.clock() - before, time.perf_counter() - started
        facts = {"budget_s": self.seconds, "spent_s": round(spent, 1), "wall_s": round(wall_s, 1)}
        facts |= {"clock": "CPU" if self.clock is cpu_seconds else "wall"}
        facts |= {k: round(v, 3) if isinstance(v, float) else v for k, v in plan.items()}
        save_json(folder / PLAN, facts | {"machine": machine()})
        print(f"{folder}: spent {spent:.0f} of {self.seconds:.0f} s ({facts['clock']})", flush=True)


def contender_folder(settings, arguments, name, scored=True):
    """Return where a contender's files go, and whether it is trained and only to be scored."""
    folder = arguments.results / name / f"seed-{settings.seed}"
    trained = (folder / PLAN).exists()
    if folder.exists() and not trained:
        raise InputError(f"{folder}: holds an unfinished training; delete it, or set another seed")
    to_score = scored and not arguments.train_only and not (folder / SCORED).exists()
    if trained and not to_score:
        raise InputError(f"{folder}: is there already; move it away, or set another seed")
    return folder, trained


def cases_of(settings, subset):
    """List the scans of a subset; refuses those that are gone or changed now."""
    from evaluation.cases import find_cases
    from scans.splits import load_split

    by = settings.split.by_of("atlas")
    split = load_split(settings.paths.prepared, "atlas", settings.fold, by)
    return find_cases(settings.paths.prepared, split, subset)


def score(folder, cases, settings):
    """Score ``<folder>/predictions``, named as the masks, by evaluate.py as another program's."""
    from evaluate import main

    # evaluate.py wants a prediction of each mask that it finds: only those of these cases.
    truth = folder / "masks"
    truth.mkdir(parents=True, exist_ok=True)
    for case in cases:
        for file in (case.image, case.masks[0]):
            (truth / file.name).unlink(missing_ok=True)
            (truth / file.name).symlink_to(file.resolve())
    layout = settings.atlas
    overrides = [
        f"seed={settings.seed}",
        f"atlas.image_suffix={quoted(layout.image_suffix)}",
        f"atlas.mask_suffix=[{', '.join(map(quoted, layout.mask_suffixes))}]",
        f"atlas.labels={layout.labels or 'null'}",
    ]
    files = {"--predictions": folder / "predictions", "--masks": truth}
    files["--output"] = folder / "evaluation"
    words = [str(word) for pair in files.items() for word in pair]
    main([*words, *as_arguments(overrides=overrides)])
