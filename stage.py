"""One stage of the experiment: the U-Net fitted to the slices of a data set. Imports Keras."""

import keras

from data import load_stage_data
from losses import OverlapMetrics, WeightedDiceLoss
from system.devices import resolve_jit, use_hardware
from training.adam import make_adam
from training.fit import fit, save_prediction_pictures
from training.provenance import check_unseen
from training.run_folder import RunFolder
from training.weights import load_weights
from unet import build_unet, choose_trainable


def run_stage(name, dataset, settings, restart, initial_weights=None, trainable="all"):
    """Fit the U-Net by the settings of a stage, from scratch or from weights, in its run folder.

    `name` is ``"pre_train"``, ``"train"`` or ``"transfer"``, `dataset` ``"brats17"`` or ``"atlas"``;
    `trainable` says which layers of loaded weights learn (see `unet.choose_trainable`).
    """
    stage, hardware = getattr(settings, name), settings.hardware
    use_hardware(hardware.devices, hardware.precision, stage.batch_size)
    data = load_stage_data(dataset, settings, stage.batch_size, stage.augmentation)

    keras.utils.set_random_seed(settings.seed)
    model = build_unet(**settings.unet.model_dump())
    if initial_weights is not None:
        load_weights(model, initial_weights)
        check_unseen(data.subjects, initial_weights)
    # Before compiling: after the first step a change of what is trainable has no effect.
    rate_factors = choose_trainable(model, trainable)

    with RunFolder(name, settings, data, initial_weights, restart) as run:
        if run.finished:
            return
        compile_model(model, stage, data.training.steps, hardware.jit, rate_factors)
        fit(model, data, run)
        save_prediction_pictures(model, data, run)
        run.finish()


def compile_model(model, stage, steps_per_epoch, jit, rate_factors=None):
    """Give a model the optimizer, the loss and the metrics of a stage, a `config.Stage`."""
    model.compile(
        optimizer=make_adam(steps_per_epoch, rate_factors=rate_factors, **stage.optimizer_options),
        loss=WeightedDiceLoss(**stage.loss_options),
        metrics=[OverlapMetrics()],
        jit_compile=resolve_jit(jit),
    )
