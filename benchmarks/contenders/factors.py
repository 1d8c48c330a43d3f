"""Tell what single settings bring: fifteen of them in sixteen short trainings.

One of them is the fold, so that the subjects of two folds judge. Each is on (at the value of FACTORS)
in eight of the trainings and off (as in config.yaml) in the other eight, whatever the configuration
says, and of any two settings each combination comes four times (a saturated two-level fractional
factorial [1]_): so the mean over eight less that of the other eight is the main effect of one, and every
training counts for all of them. What two settings bring together beyond their sum is added to the
effect of a third (aliased); each has seven such pairs, and those that stand side by side in FACTORS, as
(2, 3) or (4, 5), fall on the fold. How far chance reaches is told from the effects themselves, assuming
that most settings bring next to nothing [2]_.

Keeps   the figures of each training in benchmarks/results/factors, so that they may be made a few at
        a time; nothing is scored on held-back subjects

.. [1] Plackett and Burman, "The design of optimum multifactorial experiments", Biometrika 33 (1946);
       here by Hadamard's matrix of 16
.. [2] Lenth, "Quick and easy analysis of unreplicated factorials", Technometrics 31 (1989)

    python -m benchmarks.contenders.factors contenders --config configs/strong.yaml
"""

import json
import subprocess
import sys
from datetime import datetime
from functools import partial
from pathlib import Path

import numpy as np
import pandas
from scipy.linalg import hadamard
from scipy.stats import t

from benchmarks.bench import RESULTS, markdown
from cli import as_arguments, read_settings, run
from comparison import describe, signed
from config import load_settings
from files import InputError, load_json, save_json

KEPT = RESULTS / "factors"
CPU_SECONDS, EPOCHS = 600, 4
OUTCOMES = {
    "dice": "Dice", "lesion_f1": "lesion F1", "mean": "mean of Dice and F1",
    "pooled_dice": "best pooled Dice", "wrong_ml": "false-positive volume, ml",
}  # fmt: skip
# What is on or off together, and the values where it is on.
FACTORS = {
    "fold 1 instead of 0": {"fold": 1},
    "few empty slices": {"slices.empty_per_lesion": 0.3},
    "as many slices of each subject": {"slices.balanced": True},
    "neighbouring slices": {"unet.neighbours": 1},
    "mirrored slice": {"unet.mirror": True},
    "windows of 160²": {"augmentation.crop": 160},
    "batches of 4": {"train.batch_size": 4},
    "foreground prior 0.05": {"unet.foreground_prior": 0.05},
    "cross-entropy": {"train.cross_entropy": 0.5},
    "residual blocks": {"unet.residual": True},
    "cosine schedule": {"train.schedule": "cosine"},
    "grey levels of other scanners": {
        "augmentation.gamma": 0.2, "augmentation.noise": 0.03, "augmentation.blur": 0.7,
        "augmentation.bias_field": 0.2,
    },
    "elastic, low resolution": {"augmentation.elastic": 3.0, "augmentation.low_resolution": 1.0},
    "CarveMix": {"augmentation.carve_mix": 0.5},
    "dropout, rotation, shift": {
        "unet.dropout": 0.1, "augmentation.rotation_degrees": 15.0, "augmentation.shift": 0.05,
    },
}  # fmt: skip


def add_arguments(parser):
    parser.add_argument("results", type=Path, metavar="FOLDER", help="gets factors-<number>")
    parser.add_argument(
        "--trainings", type=int, nargs="*", choices=range(len(design())), metavar="NUMBER",
        help="of 0 to 15, those to be made if they are not kept yet; default: all",
    )  # fmt: skip


def main(argv=None):
    settings, arguments = read_settings(__doc__, argv, add_arguments)
    everyone = range(len(design()))
    kept = partial(read_kept, arguments=arguments)
    figures = list(map(kept, everyone))
    for number in everyone if arguments.trainings is None else arguments.trainings:
        if figures[number] is None:
            train(number, settings, arguments)
    figures = list(map(kept, everyone))
    if missing := [number for number in everyone if figures[number] is None]:
        print(f"still to be made: {', '.join(map(str, missing))}")
    else:
        print(markdown(table(pandas.DataFrame(figures))))


def design():
    """Return which factors are on, (trainings, factors); in the first training all."""
    return hadamard(len(FACTORS) + 1)[:, 1:] > 0


def overrides_of(number):
    """Return what makes the settings of a training from those of the command."""
    plain = load_settings()
    return [
        f"{key}={json.dumps(value if on else look_up(plain, key))}"
        for keys, on in zip(FACTORS.values(), design()[number], strict=True)
        for key, value in keys.items()
    ]


def look_up(settings, key):
    for name in key.split("."):
        settings = getattr(settings, name)
    return settings


def recipe(number, arguments):
    """Return all that decides a training, to tell a kept one of another experiment."""
    overrides = [*arguments.overrides, *overrides_of(number)]
    plan = {"cpu_seconds": CPU_SECONDS, "epochs": EPOCHS}
    return what_decides(load_settings(arguments.config, overrides)) | plan


def what_decides(settings):
    """Return the settings that change what a training comes to, as they are kept."""
    return settings.model_dump(
        mode="json",
        exclude=dict.fromkeys(("paths", "brats17", "pre_train", "transfer", "demo"), True)
        # What ours.py plans.
        | {"split": {"table"}, "slices": {"per_epoch"}, "train": {"epochs"}},
    )


def with_settings_since(kept):
    """Add to the recipe of a kept training what was no setting yet: config.yaml has it off."""
    return kept | {
        name: section | kept[name]
        for name, section in what_decides(load_settings()).items()
        if isinstance(section, dict)
    }


def read_kept(number, arguments):
    """Read the figures of a training that is kept, or return None."""
    path = KEPT / f"training-{number:02d}.json"
    if not path.exists():
        return None
    kept = load_json(path, "delete it and train anew")
    if with_settings_since(kept["recipe"]) != recipe(number, arguments):
        raise InputError(
            f"{path}: is of other settings than those of this command and FACTORS; move the folder "
            "away to begin another experiment"
        )
    return kept


def train(number, settings, arguments):
    """Make a training in a process of its own, and keep its figures."""
    name = f"factors-{number:02d}"
    folder = arguments.results / name / f"seed-{settings.seed}"
    if folder.exists():  # stopped before its figures were kept
        folder.rename(folder.with_name(f"{folder.name}-{datetime.now():%Y%m%d-%H%M%S}"))
    command = [
        sys.executable, "-m", "benchmarks.contenders.ours", "--validation-only", "--name", name,
        "--results", arguments.results, "--cpu-seconds", CPU_SECONDS, "--epochs", EPOCHS,
    ]  # fmt: skip
    overrides = (*arguments.overrides, *overrides_of(number))
    command += as_arguments(arguments.config, overrides)
    if code := subprocess.run(map(str, command)).returncode:
        sys.exit(code)
    save_json(
        KEPT / f"training-{number:02d}.json",
        figures_of(folder, settings.seed) | {
            "budget": load_json(folder / "budget.json", "train anew"),
            "recipe": recipe(number, arguments),
        },
    )  # fmt: skip


def figures_of(folder, seed):
    """Return the outcomes of a training, means over the subjects that validate."""
    scores = pandas.read_csv(folder / "evaluation" / "validation" / "metrics.csv")
    history = pandas.read_csv(folder / "train" / "history.csv")
    found = describe(scores, seed)
    marked_ml = scores.lesion_volume_ml + scores.volume_difference_ml
    wrong_ml = (marked_ml * (1 - scores.precision)).groupby(scores.subject).mean()
    return {
        "dice": found["figures"]["dice"]["mean"], "lesion_f1": found["figures"]["lesion_f1"]["mean"],
        "pooled_dice": history.val_dice.max(), "wrong_ml": wrong_ml.mean(),
        "subjects": found["subjects"], "pooled_dice_by_epoch": history.val_dice.tolist(),
    }  # fmt: skip


def table(figures):
    """Describe what each factor brings, and in the last rows how much may be chance.

    Parameters
    ----------
    figures : pandas.DataFrame
        The outcomes, one row a training, in the order of the design.
    """
    figures = figures.assign(mean=figures[["dice", "lesion_f1"]].mean(axis=1))
    effects = {outcome: effect(figures[outcome].to_numpy(float)) for outcome in OUTCOMES}
    rows = [
        {"setting": name} | {OUTCOMES[o]: signed(effects[o][i], 3) for o in OUTCOMES}
        for i, name in enumerate(FACTORS)
    ]
    # The fold is known to matter.
    reach = {outcome: chance(effects[outcome][1:]) for outcome in OUTCOMES}
    return rows + [
        {"setting": f"chance (95 %): {of}"} | {OUTCOMES[o]: f"±{reach[o][i]:.3f}" for o in OUTCOMES}
        for i, of in enumerate(("a setting looked at alone", f"the largest of {len(rows) - 1}"))
    ]


def effect(outcome):
    """Return the mean where a factor is on less the mean where it is off, for each."""
    on = design()
    return np.array([outcome[column].mean() - outcome[~column].mean() for column in on.T])


def chance(effects):
    """Return Lenth's margins of error: that of one effect, and that of all at once."""
    count, sizes = len(effects), np.abs(effects)
    rough = 1.5 * np.median(sizes)
    pseudo_error = 1.5 * np.median(sizes[sizes <= 2.5 * rough])
    return [
        pseudo_error * t.ppf(level, count / 3) for level in (0.975, (1 + 0.95 ** (1 / count)) / 2)
    ]


if __name__ == "__main__":
    run(main)
