"""Train a stage on every fold in turn, and score each subject by the network that never saw it.

Reads   paths.prepared (from prep.py); for transfer also transfer.initial_weights, by default
        <paths.runs>/pre_train/best.weights.h5, from which every fold starts
Writes  <paths.runs>/fold_0/train, fold_1/train and so on, <paths.runs>/evaluation/cross_validation

Stopped at any moment, the same command goes on after the last finished epoch.

    python cross_validate.py --stages train transfer --config configs/demo.yaml
"""

import subprocess
import sys
from pathlib import Path

from config import as_arguments, parse_arguments
from system.console import run_script

SCRIPTS = {"train": "train_model.py", "transfer": "transfer_learning.py"}


def add_arguments(parser):
    parser.add_argument(
        "--stages", nargs="+", choices=SCRIPTS, default=["train"], help="default: train"
    )


def main(argv=None):
    settings, arguments = parse_arguments(__doc__, argv, add_arguments)
    options = as_arguments(arguments.config, arguments.overrides)
    stages, runs = arguments.stages, Path(settings.paths.runs)
    weights = settings.transfer.initial_weights or runs / "pre_train" / "best.weights.h5"
    folders = [runs / f"fold_{fold}" for fold in range(settings.split.folds)]
    for fold, folder in enumerate(folders):
        own = f"fold={fold}", f"paths.runs={folder}", f"transfer.initial_weights={weights}"
        for stage in stages:
            run_other(f"fold {fold}", SCRIPTS[stage], *options, *as_arguments(overrides=own))
    trained = [str(folder / stage) for stage in stages for folder in folders]
    output = str(runs / "evaluation" / "cross_validation")
    run_other("all folds", "evaluate.py", *trained, *options, "--output", output)


def run_other(title, script, *words):
    """Run a script in a process of its own; end with its exit code if it fails."""
    print(f"\n== {title}: {script}", flush=True)
    code = subprocess.run([sys.executable, Path(__file__).with_name(script), *words]).returncode
    if code:
        sys.exit(code)


if __name__ == "__main__":
    run_script(main)
