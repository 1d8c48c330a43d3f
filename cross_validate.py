"""Train a stage on every fold in turn, and score each subject by the network that never saw it.

Reads   paths.prepared (from prep.py); for transfer also transfer.initial_weights, by default
        <paths.runs>/pre_train/best.weights.h5, from which every fold starts
Writes  <paths.runs>/fold_0/train, fold_1/train and so on; those of further seeds below seed_1,
        seed_2, of folds by site below by_site; <paths.runs>/evaluation/cross_validation, or
        cross_validation_by_site

With --by site each site is scored by networks that never saw it. Where the folds by subject are
finished with the same settings, the report tells the cost of an unseen site. Stopped at any moment,
the same command goes on after the last finished epoch.

    python cross_validate.py --stages train transfer --config configs/demo.yaml
    python cross_validate.py --seeds 3
    python cross_validate.py --seeds 3 --by site
"""

import subprocess
import sys
from pathlib import Path

from config import as_arguments, parse_arguments
from system.console import run_script
from system.files import InputError
from system.yaml_files import quoted

SCRIPTS = {"train": "train_model.py", "transfer": "transfer_learning.py"}


def add_arguments(parser):
    parser.add_argument(
        "--stages", nargs="+", choices=SCRIPTS, default=["train"], help="default: train"
    )
    parser.add_argument(
        "--by", choices=("subject", "site"), help="what a fold is made of; default: split.by"
    )
    parser.add_argument(
        "--seeds",
        type=int,
        default=1,
        metavar="N",
        help="train N times, with the seed of the settings and the next ones; default: 1",
    )
    parser.add_argument(
        "--folds",
        type=int,
        nargs="+",
        metavar="FOLD",
        help="train only these, as one of several machines; score nothing",
    )


def main(argv=None):
    settings, arguments = parse_arguments(__doc__, argv, add_arguments)
    from evaluation.layout import fold_folder
    from scans.splits import check_folds, count_folds
    from training.provenance import is_finished

    by, runs = arguments.by or settings.split.by, Path(settings.paths.runs)
    prepared = settings.paths.prepared
    number = count_folds(prepared, "atlas", by)
    check_folds(prepared, "atlas", settings.split.folds)
    if arguments.seeds < 1:
        raise InputError(f"--seeds {arguments.seeds}: must be 1 or more")
    if strangers := set(arguments.folds or ()) - set(range(number)):
        raise InputError(f"--folds {min(strangers)}: folds by {by} are 0 to {number - 1}")
    options = as_arguments(arguments.config, arguments.overrides)
    weights = settings.transfer.initial_weights or runs / "pre_train" / "best.weights.h5"
    seeds = range(settings.seed, settings.seed + arguments.seeds)
    for seed in seeds:
        for fold in arguments.folds or range(number):
            folder = fold_folder(runs, by, seed, settings.seed, fold)
            own = {"seed": seed, "fold": fold, "split.by": by}
            own |= {"paths.runs": quoted(folder), "transfer.initial_weights": quoted(weights)}
            own = as_arguments(overrides=[f"{key}={own[key]}" for key in own])
            for stage in arguments.stages:
                run_other(f"fold {fold} by {by}, seed {seed}", SCRIPTS[stage], *options, *own)
    if arguments.folds:
        print("\nwithout --folds all folds are trained and scored")
        return

    def trained(by, seeds):
        folds = range(count_folds(prepared, "atlas", by))
        places = [fold_folder(runs, by, s, settings.seed, fold) for s in seeds for fold in folds]
        return [place / stage for stage in arguments.stages for place in places]

    scored, name = trained(by, seeds), "cross_validation"
    if by == "site":
        name += "_by_site"
        # What is scored beside them tells the cost of an unseen site.
        finished = [seed for seed in seeds if all(map(is_finished, trained("subject", [seed])))]
        scored = those_that_fit(trained("subject", finished), prepared) + scored
    output = str(runs / "evaluation" / name)
    run_other("all folds", "evaluate.py", *map(str, scored), *options, "--output", output)


def those_that_fit(folders, prepared):
    """Return the folders of finished folds, or none of them, and why, if they cannot be scored."""
    from evaluation.runs import find_runs

    try:
        if not folders:
            raise InputError(
                "the folds by subject are not finished: cross_validate.py --by subject"
            )
        find_runs(folders, prepared, "validation")
    except InputError as error:
        print(f"\nthe cost of an unseen site stays unknown: {error}")
        return []
    return folders


def run_other(title, script, *words):
    """Run a script in a process of its own; end with its exit code if it fails."""
    print(f"\n== {title}: {script}", flush=True)
    code = subprocess.run([sys.executable, Path(__file__).with_name(script), *words]).returncode
    if code:
        sys.exit(code)


if __name__ == "__main__":
    run_script(main)
