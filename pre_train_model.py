"""Fit the U-Net from scratch on brain tumours (BraTS17).

Reads   paths.prepared (from prep.py)
Writes  <paths.runs>/pre_train: best.weights.h5, history.csv, learning_curves.png, predictions.png

Stopped at any moment, the same command goes on after the last finished epoch.

    python pre_train_model.py --set pre_train.epochs=100
"""

from system.console import read_settings, run, starting_keras


def main(argv=None):
    settings, arguments = read_settings(__doc__, argv, restart="set the earlier run aside")
    # Keras takes seconds to import: only now, with the settings known to be right.
    with starting_keras():
        from data import Parts
        from system.devices import use_hardware
        from training.fit import compile_model, fit, save_prediction_pictures, set_random_seed
        from training.run_folder import Run
        from unet import build_unet

    hardware = settings.hardware
    use_hardware(hardware.devices, hardware.precision, settings.pre_train.batch_size)
    tumours = Parts("brats17", settings, settings.pre_train)
    pre_training = Run("pre_train", settings, tumours, restart=arguments.restart)
    if pre_training.finished:
        return

    set_random_seed(settings.seed)
    model = build_unet(**settings.unet.model_dump())
    compile_model(model, settings.pre_train, tumours.training.steps, hardware.jit)
    fit(model, tumours, pre_training)
    save_prediction_pictures(model, tumours, pre_training)
    pre_training.finish()


if __name__ == "__main__":
    run(main)
