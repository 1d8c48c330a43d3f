"""Fit the same U-Net from scratch on chronic stroke lesions (ATLAS v2.0).

Reads   paths.prepared (from prep.py)
Writes  <paths.runs>/train: best.weights.h5, history.csv, learning_curves.png, predictions.png

Stopped at any moment, the same command goes on after the last finished epoch.

    python train_model.py --set fold=0
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
    use_hardware(hardware.devices, hardware.precision, settings.train.batch_size)
    lesions = Parts("atlas", settings, settings.train)
    training = Run("train", settings, lesions, restart=arguments.restart)
    if training.finished:
        return

    set_random_seed(settings.seed)
    model = build_unet(**settings.unet.model_dump())
    compile_model(model, settings.train, lesions.training.steps, hardware.jit)
    fit(model, lesions, training)
    save_prediction_pictures(model, lesions, training)
    training.finish()


if __name__ == "__main__":
    run(main)
