"""Tell what single settings bring: fifteen of them in sixteen short trainings, or seven in eight.

One of them is the fold, so that the subjects of two folds judge. Each is on (at the value in
SCREENINGS) in half of the trainings and off (as in config.yaml) in the other half, whatever the
configuration says, and of any two settings each combination comes in a quarter (a saturated two-level
fractional factorial [1]_): so the mean over one half less that over the other is the main effect of one,
and every training counts for all of them. What two settings bring together beyond their sum is added
to the effect of a third (aliased); of fifteen each has seven such pairs, of seven three, and those that
stand side by side, as (2, 3) or (4, 5), fall on the fold. How far chance reaches is told from the effects
themselves, assuming that most settings bring next to nothing [2]_.

Keeps   the figures of each training in benchmarks/results/factors, so that they may be made a few at
        a time; nothing is scored on held-back subjects

.. [1] Plackett and Burman, "The design of optimum multifactorial experiments", Biometrika 33 (1946);
       here by Hadamard's matrices of 16 and 8
.. [2] Lenth, "Quick and easy analysis of unreplicated factorials", Technometrics 31 (1989)

    python -m benchmarks.contenders.factors first contenders --config configs/strong.yaml
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
CPU_SECONDS, EPOCHS = {"first": 600, "second": 900}, 4
OUTCOMES = {
    "dice": "Dice", "lesion_f1": "lesion F1", "mean": "mean of Dice and F1",
    "pooled_dice": "best pooled Dice", "wrong_ml": "false-positive volume, ml",
}  # fmt: skip
# What is on or off together, and the values where it is on.
FIRST = {
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
SECOND = {
    "fold 1 instead of 0": {"fold": 1},
    "focal Tversky": {"train.false_negative_weight": 0.7, "train.focal_power": 0.75},
    "warm-up, clipping": {"train.warm_up": 0.1, "train.clip_norm": 1.0},
    "running mean of the weights": {"train.weight_average": 0.99},
    "instance normalisation": {"unet.instance_normalisation": True},
    "attention gates": {"unet.attention": True},
    "deep supervision": {"unet.deep_supervision": True},
}
SCREENINGS = {"first": FIRST, "second": SECOND}


def add_arguments(parser):
    parser.add_argument("screening", choices=SCREENINGS, help="the fifteen settings, or the seven")
    parser.add_argument("results", type=Path, metavar="FOLDER", help="gets <screening>-<number>")
    parser.add_argument(
        "--trainings", type=int, nargs="*", metavar="NUMBER",
        help="from 0 on, those to be made if they are not kept yet; default: all",
    )  # fmt: skip


def main(argv=None):
    settings, arguments = read_settings(__doc__, argv, add_arguments)
    factors = SCREENINGS[arguments.screening]
    everyone = range(len(design(factors)))
    if unknown := set(arguments.trainings or ()) - set(everyone):
        raise InputError(f"--trainings: {unknown.pop()} is not one of 0 to {everyone[-1]}")
    kept = partial(read_kept, arguments=arguments)
    figures = list(map(kept, everyone))
    for number in everyone if arguments.trainings is None else arguments.trainings:
        if figures[number] is None:
            train(number, settings, arguments)
    figures = list(map(kept, everyone))
    if missing := [number for number in everyone if figures[number] is None]:
        print(f"still to be made: {', '.join(map(str, missing))}")
    else:
        print(markdown(table(pandas.DataFrame(figures), factors)))


def design(factors):
    """Return which factors are on, (trainings, factors); in the first training all."""
    return hadamard(len(factors) + 1)[:, 1:] > 0


def overrides_of(number, arguments):
    """Return the overrides of the command and those of a training, which win."""
    plain, factors = load_settings(), SCREENINGS[arguments.screening]
    return [*arguments.overrides] + [
        f"{key}={json.dumps(value if on else look_up(plain, key))}"
        for keys, on in zip(factors.values(), design(factors)[number], strict=True)
        for key, value in keys.items()
    ]


def look_up(settings, key):
    for name in key.split("."):
        settings = getattr(settings, name)
    return settings


def recipe(number, arguments):
    """Return all that decides a training, to tell a kept one of another experiment."""
    overrides = overrides_of(number, arguments)
    plan = {"cpu_seconds": CPU_SECONDS[arguments.screening], "epochs": EPOCHS}
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


def kept_path(number, arguments):
    return KEPT / arguments.screening / f"training-{number:02d}.json"


def read_kept(number, arguments):
    """Read the figures of a training that is kept, or return None."""
    path = kept_path(number, arguments)
    if not path.exists():
        return None
    kept = load_json(path, "delete it and train anew")
    if with_settings_since(kept["recipe"]) != recipe(number, arguments):
        raise InputError(
            f"{path}: is of other settings than those of this command and SCREENINGS; move the folder "
            "away to begin another experiment"
        )
    return kept


def train(number, settings, arguments):
    """Make a training in a process of its own, and keep its figures."""
    name = f"{arguments.screening}-{number:02d}"
    folder = arguments.results / name / f"seed-{settings.seed}"
    if folder.exists():  # stopped before its figures were kept
        folder.rename(folder.with_name(f"{folder.name}-{datetime.now():%Y%m%d-%H%M%S}"))
    command = [
        sys.executable, "-m", "benchmarks.contenders.ours", "--validation-only", "--name", name,
        "--results", arguments.results, "--cpu-seconds", CPU_SECONDS[arguments.screening],
        "--epochs", EPOCHS,
    ]  # fmt: skip
    command += as_arguments(arguments.config, overrides_of(number, arguments))
    if code := subprocess.run(map(str, command)).returncode:
        sys.exit(code)
    save_json(
        kept_path(number, arguments),
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


def table(figures, factors):
    """Describe what each factor brings, and in the last rows how much may be chance.

    Parameters
    ----------
    figures : pandas.DataFrame
        The outcomes, one row a training, in the order of the design.
    factors : dict
        Of the screening.
    """
    figures = figures.assign(mean=figures[["dice", "lesion_f1"]].mean(axis=1))
    on = design(factors)
    effects = {outcome: effect(figures[outcome].to_numpy(float), on) for outcome in OUTCOMES}
    rows = [
        {"setting": name} | {OUTCOMES[o]: signed(effects[o][i], 3) for o in OUTCOMES}
        for i, name in enumerate(factors)
    ]
    # The fold is known to matter.
    reach = {outcome: chance(effects[outcome][1:]) for outcome in OUTCOMES}
    return rows + [
        {"setting": f"chance (95 %): {of}"} | {OUTCOMES[o]: f"±{reach[o][i]:.3f}" for o in OUTCOMES}
        for i, of in enumerate(("a setting looked at alone", f"the largest of {len(rows) - 1}"))
    ]


def effect(outcome, on):
    """Return the mean where a factor is on less the mean where it is off, for each."""
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
