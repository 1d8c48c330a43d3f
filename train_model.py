"""Fit the same U-Net from scratch on chronic stroke lesions (ATLAS v2.0).

Reads   paths.prepared (from prep.py)
Writes  <paths.runs>/train: best.weights.h5, history.csv, learning_curves.png, predictions.png

Stopped at any moment, the same command goes on after the last finished epoch.

    python train_model.py --set fold=0
"""

from config import parse_arguments
from system.console import run_script, starting_keras
from training.before_start import check_before_start


def main(argv=None):
    settings, arguments = parse_arguments(__doc__, argv, restart="set the earlier run aside")
    check_before_start("train", settings)
    # Keras takes seconds to import: only now, with the settings known to be right.
    with starting_keras():
        from stage import run_stage
    run_stage("train", "atlas", settings, arguments.restart)


if __name__ == "__main__":
    run_script(main)
