"""Tell what single settings bring to configs/strong.yaml: fifteen of them in sixteen short trainings.

Each setting is on (as FACTORS and the configuration have it) in eight of the trainings and off (as
config.yaml has it) in the other eight, and of any two settings each combination comes four times: so
the mean over eight less that of the other eight is the effect of one, and every training counts for
all of them [1]_. The fold is one of them, so that the subjects of two folds judge. How far chance
reaches is told from the effects themselves, most of which are none [2]_. Two settings that only work
together show up as the effect of a third.

Keeps   the figures of each training in benchmarks/results/factors, so that they may be made a few at
        a time; nothing is scored on held-back subjects

.. [1] Plackett and Burman, "The design of optimum multifactorial experiments", Biometrika 33 (1946)
       (here by Hadamard's matrix of 16)
.. [2] Lenth, "Quick and easy analysis of unreplicated factorials", Technometrics 31 (1989)

    python -m benchmarks.contenders.factors contenders --config configs/strong.yaml
"""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas
from scipy.linalg import hadamard
from scipy.stats import t

from benchmarks.bench import RESULTS, markdown
from cli import read_settings, run
from comparison import signed
from config import load_settings
from files import InputError, save_json

KEPT = RESULTS / "factors"
CPU_SECONDS, EPOCHS = 600, 4
OUTCOMES = {"dice": "Dice", "lesion_f1": "lesion F1", "pooled_dice": "pooled Dice"}
# What is on or off together: at the value of the configuration where it is None here.
FACTORS = {
    "few empty slices": {"slices.empty_per_lesion": None},
    "as many slices of each subject": {"slices.balanced": None},
    "foreground prior 0.05": {"unet.foreground_prior": None},
    "neighbouring slices": {"unet.neighbours": None},
    "mirrored slice": {"unet.mirror": True},
    "residual blocks": {"unet.residual": True},
    "windows of 160²": {"augmentation.crop": 160},
    "dropout, rotation, shift": {
        "unet.dropout": None, "augmentation.rotation_degrees": None, "augmentation.shift": None,
    },
    "grey levels of other scanners": {
        f"augmentation.{name}": None for name in ("gamma", "noise", "blur", "bias_field")
    },
    "elastic, low resolution": {"augmentation.elastic": 3.0, "augmentation.low_resolution": 1.0},
    "CarveMix": {"augmentation.carve_mix": None},
    "cross-entropy": {"train.cross_entropy": None},
    "cosine schedule": {"train.schedule": None},
    "batches of 4": {"train.batch_size": 4},
    "fold 1 instead of 0": {"fold": 1},
}  # fmt: skip


def add_arguments(parser):
    parser.add_argument("results", type=Path, metavar="FOLDER", help="gets factors-<number>")
    parser.add_argument(
        "--trainings", type=int, nargs="*", choices=range(len(design())), metavar="NUMBER",
        help="of 0 to 15, those to be made if they are not kept yet; default: all",
    )  # fmt: skip


def main(argv=None):
    settings, arguments = read_settings(__doc__, argv, add_arguments)
    numbers = range(len(design())) if arguments.trainings is None else arguments.trainings
    for name, keys in FACTORS.items():
        if values_of(keys, True, settings) == values_of(keys, False, settings):
            raise InputError(
                f"{name}: config.yaml has the same; --config configs/strong.yaml differs"
            )
    for number in numbers:
        if not kept_file(number).exists():
            train(number, settings, arguments)
    missing = [number for number in range(len(design())) if not kept_file(number).exists()]
    if missing:
        print(f"still to be made: {', '.join(map(str, missing))}")
    else:
        figures = [json.loads(kept_file(i).read_text()) for i in range(len(design()))]
        print(markdown(table(pandas.DataFrame(figures))))


def kept_file(number):
    return KEPT / f"training-{number:02d}.json"


def design():
    """Return which factors are on, (trainings, factors); in the first training all."""
    return hadamard(len(FACTORS) + 1)[:, 1:] > 0


def values_of(keys, on, settings):
    """Return the settings of a factor, key to value, where it is on or off."""
    plain = load_settings()
    return {
        key: look_up(settings if on else plain, key) if value is None or not on else value
        for key, value in keys.items()
    }


def look_up(settings, key):
    for name in key.split("."):
        settings = getattr(settings, name)
    return settings


def train(number, settings, arguments):
    """Make a training in a process of its own, and keep its figures."""
    name = f"factors-{number:02d}"
    command = [
        sys.executable, "-m", "benchmarks.contenders.ours", "--validation-only", "--name", name,
        "--results", arguments.results, "--cpu-seconds", CPU_SECONDS, "--epochs", EPOCHS,
    ]  # fmt: skip
    command += ["--config", arguments.config] if arguments.config else []
    own = [
        f"{key}={json.dumps(value)}"
        for keys, on in zip(FACTORS.values(), design()[number], strict=True)
        for key, value in values_of(keys, on, settings).items()
    ]
    for override in (*arguments.overrides, *own):
        command += ["--set", override]
    if code := subprocess.run(map(str, command)).returncode:
        sys.exit(code)
    folder = arguments.results / name / f"seed-{settings.seed}"
    scores = pandas.read_csv(folder / "evaluation" / "validation" / "metrics.csv")
    history = pandas.read_csv(folder / "train" / "history.csv")
    save_json(kept_file(number), {
        "dice": scores.dice.mean(), "lesion_f1": scores.lesion_f1.mean(),
        "pooled_dice": history.val_dice.max(), "subjects": len(scores), "settings": own,
        "budget": json.loads((folder / "budget.json").read_text()),
    })  # fmt: skip


def table(figures):
    """Describe what each factor brings, and in the last row how much may be chance.

    Parameters
    ----------
    figures : pandas.DataFrame
        The outcomes, one row a training, in the order of the design.
    """
    effects = {outcome: effect(figures[outcome].to_numpy(float)) for outcome in OUTCOMES}
    rows = [
        {"setting": name} | {OUTCOMES[o]: signed(effects[o][i], 3) for o in OUTCOMES}
        for i, name in enumerate(FACTORS)
    ]
    reach = {OUTCOMES[o]: f"±{chance(effects[o]):.3f}" for o in OUTCOMES}
    return [*rows, {"setting": "chance alone (95 %)"} | reach]


def effect(outcome):
    """Return the mean where a factor is on less the mean where it is off, for each."""
    on = design()
    return np.array([outcome[column].mean() - outcome[~column].mean() for column in on.T])


def chance(effects):
    """Return Lenth's margin of error of effects."""
    sizes = np.abs(effects)
    rough = 1.5 * np.median(sizes)
    return t.ppf(0.975, len(sizes) / 3) * 1.5 * np.median(sizes[sizes <= 2.5 * rough])


if __name__ == "__main__":
    run(main)
