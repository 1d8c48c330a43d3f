"""Tell what single settings bring: fifteen of them in sixteen short trainings.

Nine of them are those of configs/strong.yaml, five are not in it, and one is the fold, so that the
subjects of two folds judge. Each is on (at the value of the configuration, or that of FACTORS) in
eight of the trainings and off (as in config.yaml) in the other eight, and of any two settings each
combination comes four times: so the mean over eight less that of the other eight is the effect of
one, and every training counts for all of them [1]_. What two settings bring together beyond their
sum is added to the effect of a third; each has seven such pairs, and those that stand side by side in
FACTORS, as (2, 3) or (4, 5), fall on the fold. How far chance reaches is told from the effects
themselves, assuming that most settings bring next to nothing [2]_.

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
from cli import read_settings, run
from comparison import describe, signed
from config import load_settings
from files import InputError, load_json, save_json

KEPT = RESULTS / "factors"
CPU_SECONDS, EPOCHS = 600, 4
OUTCOMES = {
    "dice": "Dice", "lesion_f1": "lesion F1", "pooled_dice": "pooled Dice",
    "wrong_ml": "wrongly marked, ml",
}  # fmt: skip
# What is on or off together: at the value of the configuration where it is None here.
FACTORS = {
    "fold 1 instead of 0": {"fold": 1},
    "few empty slices": {"slices.empty_per_lesion": None},
    "as many slices of each subject": {"slices.balanced": None},
    "neighbouring slices": {"unet.neighbours": None},
    "mirrored slice": {"unet.mirror": True},
    "windows of 160²": {"augmentation.crop": 160},
    "batches of 4": {"train.batch_size": 4},
    "foreground prior 0.05": {"unet.foreground_prior": None},
    "cross-entropy": {"train.cross_entropy": None},
    "residual blocks": {"unet.residual": True},
    "cosine schedule": {"train.schedule": None},
    "grey levels of other scanners": {
        f"augmentation.{name}": None for name in ("gamma", "noise", "blur", "bias_field")
    },
    "elastic, low resolution": {"augmentation.elastic": 3.0, "augmentation.low_resolution": 1.0},
    "CarveMix": {"augmentation.carve_mix": None},
    "dropout, rotation, shift": {
        "unet.dropout": None, "augmentation.rotation_degrees": None, "augmentation.shift": None,
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
    for name, keys in FACTORS.items():
        if values_of(keys, True, settings) == values_of(keys, False, settings):
            raise InputError(f"{name}: on as off; another --config than config.yaml is needed")
    kept = partial(read_kept, settings=settings, arguments=arguments)
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


def overrides_of(number, settings):
    """Return what makes the settings of a training from those of the command."""
    return [
        f"{key}={json.dumps(value)}"
        for keys, on in zip(FACTORS.values(), design()[number], strict=True)
        for key, value in values_of(keys, on, settings).items()
    ]


def recipe(number, settings, arguments):
    """Return all that decides a training, to tell a kept one of another experiment."""
    overrides = [*arguments.overrides, *overrides_of(number, settings)]
    everything = load_settings(arguments.config, overrides).model_dump(
        exclude=dict.fromkeys(("paths", "brats17", "pre_train", "transfer", "demo"), True)
        | {"split": {"table"}}
    )
    plan = {"cpu_seconds": CPU_SECONDS, "epochs": EPOCHS}
    return json.loads(json.dumps(everything | plan))


def read_kept(number, settings, arguments):
    """Read the figures of a training that is kept, or return None."""
    path = KEPT / f"training-{number:02d}.json"
    if not path.exists():
        return None
    kept = load_json(path, "delete it and train anew")
    if kept["recipe"] != recipe(number, settings, arguments):
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
    command += ["--config", arguments.config] if arguments.config else []
    for override in (*arguments.overrides, *overrides_of(number, settings)):
        command += ["--set", override]
    if code := subprocess.run(map(str, command)).returncode:
        sys.exit(code)
    save_json(
        KEPT / f"training-{number:02d}.json",
        figures_of(folder, settings.seed) | {
            "budget": load_json(folder / "budget.json", "train anew"),
            "recipe": recipe(number, settings, arguments),
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
        "subjects": found["subjects"],
    }  # fmt: skip


def table(figures):
    """Describe what each factor brings, and in the last rows how much may be chance.

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
    # The fold is known to matter.
    reach = {outcome: chance(effects[outcome][1:]) for outcome in OUTCOMES}
    return rows + [
        {"setting": f"chance (95 %): {of}"} | {OUTCOMES[o]: f"±{reach[o][i]:.3f}" for o in OUTCOMES}
        for i, of in enumerate(("a setting looked at alone", "the largest of all"))
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
