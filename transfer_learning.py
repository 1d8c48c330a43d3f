"""Fine-tune the U-Net that was trained on brain tumours for stroke lesions.

Reads   paths.prepared (from prep.py), and the weights in transfer.initial_weights, by default
        <paths.runs>/pre_train/best.weights.h5
Writes  <paths.runs>/transfer: best.weights.h5, history.csv, learning_curves.png, predictions.png

Stopped at any moment, the same command goes on after the last finished epoch.

    python transfer_learning.py --set 'transfer.trainable=[decoder, head]'
"""

from pathlib import Path

from config import parse_arguments
from system.console import run_script, starting_keras
from training.before_start import check_before_start


def main(argv=None):
    settings, arguments = parse_arguments(__doc__, argv, restart="set the earlier run aside")
    transfer, runs = settings.transfer, settings.paths.runs
    pre_trained = transfer.initial_weights or Path(runs, "pre_train", "best.weights.h5")
    check_before_start("transfer", settings, pre_trained)
    # Keras takes seconds to import: only now, with the settings known to be right.
    with starting_keras():
        from stage import run_stage
    run_stage("transfer", "atlas", settings, arguments.restart, pre_trained, transfer.trainable)


if __name__ == "__main__":
    run_script(main)
