"""Carry the U-Net that knows brain tumours over to stroke lesions.

Reads   paths.prepared (from prep.py), and the weights in transfer.initial_weights, by default
        <paths.runs>/pre_train/best.weights.h5
Writes  <paths.runs>/transfer: best.weights.h5, history.csv, learning_curves.png, predictions.png

Stopped at any moment, the same command goes on after the last finished epoch.

    python transfer_learning.py --set 'transfer.trainable=[decoder, head]'
"""

from pathlib import Path

from system.console import read_settings, run, starting_keras


def main(argv=None):
    settings, arguments = read_settings(__doc__, argv, restart="set the earlier run aside")
    # Keras takes seconds to import: only now, with the settings known to be right.
    with starting_keras():
        from data import Parts
        from system.devices import use_hardware
        from training.fit import compile_model, fit, save_prediction_pictures, set_random_seed
        from training.leakage import check_unseen
        from training.run_folder import Run
        from training.weights import load_weights
        from unet import build_unet, choose_trainable

    hardware = settings.hardware
    use_hardware(hardware.devices, hardware.precision, settings.transfer.batch_size)
    set_random_seed(settings.seed)
    model = build_unet(**settings.unet.model_dump())
    pre_trained = settings.transfer.initial_weights or Path(
        settings.paths.runs, "pre_train", "best.weights.h5"
    )
    load_weights(model, pre_trained)
    # Before compiling: afterwards a change of what is trainable is silently without effect.
    rates = choose_trainable(model, settings.transfer.trainable)

    lesions = Parts("atlas", settings, settings.transfer)
    check_unseen(lesions.subjects, pre_trained)
    transfer = Run("transfer", settings, lesions, pre_trained, arguments.restart)
    if transfer.finished:
        return

    compile_model(model, settings.transfer, lesions.training.steps, hardware.jit, rates)
    fit(model, lesions, transfer)
    save_prediction_pictures(model, lesions, transfer)
    transfer.finish()


if __name__ == "__main__":
    run(main)
