"""Fit a compiled model from wherever its run stands, and picture what it learnt."""

import math
import time

import keras
import numpy as np
from tqdm import tqdm

from system.devices import feed
from system.files import InputError
from training import pictures
from training.adam import averaged_weights, keeps_average
from training.weights import load_weights, save_weights

METRICS = ("loss", "dice", "precision", "recall")


def fit(model, data, run):
    """Train a compiled model to the last epoch of its run, and leave it with the best epoch's weights.

    `data` is a `data.StageData`, `run` a `training.run_folder.RunFolder`.

    Raises
    ------
    InputError
        If a slice cannot be read, or the loss is no longer finite (names the slices).
    """
    model.optimizer.build(model.trainable_variables)
    keep = _KeepEpochs(run, data.training.steps)
    if run.history:
        model.load_weights(run.state_weights)
        keep.save_derived_files(model)
    done = len(run.history)
    data.training.epoch, data.training.epochs = done, run.epochs
    averaging = [keras.callbacks.SwapEMAWeights()] if keeps_average(model) else []
    try:
        with run.saying_what_is_kept():
            model.fit(
                feed(data.training),
                initial_epoch=done,
                epochs=run.epochs,
                validation_data=feed(data.validation),
                shuffle=False,
                callbacks=[
                    _ChooseEpoch(data.training),
                    _ReseedDropout(run.seed),
                    _StopAtNonFinite(data),
                    *averaging,
                    keep,
                ],
                verbose=0,
            )
    except Exception as error:
        raise data.training.error or data.validation.error or error from None
    load_weights(model, run.best_weights)


class _ChooseEpoch(keras.callbacks.Callback):
    """Have the batches of an epoch be those of its number, wherever the training began."""

    def __init__(self, batches):
        super().__init__()
        self.batches = batches

    def on_epoch_begin(self, epoch, logs=None):
        self.batches.epoch = epoch


class _ReseedDropout(keras.callbacks.Callback):
    """Start the dropout of each epoch from (seed, epoch): its state is not in weight files."""

    def __init__(self, seed):
        super().__init__()
        self.seed = seed

    def on_epoch_begin(self, epoch, logs=None):
        if keras.backend.backend() == "torch":
            # Its dropout draws from PyTorch's one generator.
            (state,) = np.random.SeedSequence([self.seed, epoch]).generate_state(1)
            keras.utils.set_random_seed(int(state))
        for i, layer in enumerate(self.model.layers):
            if generator := getattr(layer, "seed_generator", None):
                state = np.random.SeedSequence([self.seed, epoch, i]).generate_state(2) >> 1
                generator.state.assign(state.astype(generator.state.dtype))


class _StopAtNonFinite(keras.callbacks.Callback):
    """Stop at the first batch whose loss is not finite, before any weights are saved.

    The loss of the last batch may be finite and its gradient not: validation and the weights
    themselves are looked at, too.
    """

    def __init__(self, data):
        super().__init__()
        self.data = data

    def on_epoch_begin(self, epoch, logs=None):
        self.epoch = epoch

    def on_train_batch_end(self, batch, logs=None):
        step = self.epoch * self.data.training.steps + batch
        self.stop_unless_finite(f"step {batch + 1}", logs["loss"], self.data.training.rows(step))

    def on_test_batch_end(self, batch, logs=None):
        rows = self.data.validation.rows(batch)
        self.stop_unless_finite(f"validation step {batch + 1}", logs["loss"], rows)

    def stop_unless_finite(self, where, loss, rows):
        if not math.isfinite(loss):
            raise InputError(
                f"epoch {self.epoch + 1}, {where}: the loss is {loss}; lower the learning rate or "
                f"look at {', '.join(map(self.data.slice_name, rows))}"
            )

    def on_epoch_end(self, epoch, logs=None):
        for layer in self.model.layers:
            if not all(np.isfinite(array).all() for array in layer.get_weights()):
                raise InputError(
                    f"epoch {epoch + 1}: layer {layer.name} has weights that are not finite; lower "
                    "the learning rate"
                )


class _KeepEpochs(keras.callbacks.Callback):
    """After each epoch: keep the weights and the history, redraw the curves, print a line."""

    def __init__(self, run, steps):
        super().__init__()
        self.run, self.steps = run, steps

    def on_epoch_begin(self, epoch, logs=None):
        self.started = time.perf_counter()
        label = f"epoch {epoch + 1}/{self.run.epochs}"
        self.bar = tqdm(total=self.steps, desc=label, unit="step", leave=False, disable=None)

    def on_train_batch_end(self, batch, logs=None):
        self.bar.set_postfix_str(f"loss {logs['loss']:.3f}, Dice {logs['dice']:.3f}", refresh=False)
        self.bar.update()

    def on_epoch_end(self, epoch, logs=None):
        self.bar.close()
        run = self.run
        metrics = {key: float(logs[key]) for name in METRICS for key in (name, f"val_{name}")}
        run.history.append({"epoch": epoch + 1} | metrics)
        save_weights(self.model, run.state_weights, optimizer=True)
        seconds = time.perf_counter() - self.started
        run.seconds += seconds
        run.commit()
        self.save_derived_files(self.model)
        improved = run.best["epoch"] == epoch + 1
        print(
            f"epoch {epoch + 1:3}/{run.epochs}  loss {logs['loss']:.3f}  "
            f"Dice {logs['dice']:.3f} | validation: loss {logs['val_loss']:.3f}  "
            f"Dice {logs['val_dice']:.3f}  precision {logs['val_precision']:.3f}  "
            f"recall {logs['val_recall']:.3f}  {'*' if improved else ' '} {seconds:5.1f} s",
            flush=True,
        )

    def save_derived_files(self, model):
        """Write what follows from a committed epoch; also at a start, for a kill may be first."""
        if self.run.best["epoch"] == len(self.run.history):
            with averaged_weights(model):
                save_weights(model, self.run.best_weights)
        self.run.save_derived_files()


def save_prediction_pictures(model, data, run):
    """Picture validation slices with the model's present weights, in ``predictions.png``.

    Four slices are the same in every run on this split, from small lesions to large; the two that
    follow are this model's worst (of equals the largest lesion), of two subjects if there are two.
    """
    with run.saying_what_is_kept():
        examples = _choose_examples(model, data)
        pictures.save_predictions(examples, run.stage, run.folder / "predictions.png")


def _choose_examples(model, data):
    """Return name, image, mask, prediction and Dice of the slices to picture."""
    rows = np.sort(data.validation.order(0))
    rows = rows[data.has_lesion[rows]]
    pixels = data.rows.lesion_pixels.to_numpy()[rows]
    by_size = rows[np.argsort(pixels, kind="stable")]
    fixed = list(dict.fromkeys(by_size[(len(by_size) - 1) * np.array([20, 40, 60, 80]) // 100]))
    size = data.validation.batch_size
    batches = [rows[start : start + size] for start in range(0, len(rows), size)]
    dice = np.array([example[-1] for batch in batches for example in _predict(model, data, batch)])
    by_dice = [row for row in rows[np.lexsort((-pixels, dice))] if row not in fixed]
    worst_of = {}
    for row in by_dice:
        worst_of.setdefault(data.rows.subject[row], row)
    worst = list(dict.fromkeys([*worst_of.values(), *by_dice]))[:2]
    return [
        (data.slice_name(row) + (" (worst)" if row in worst else ""), *example)
        for row, example in zip(fixed + worst, _predict(model, data, fixed + worst), strict=True)
    ]


def _predict(model, data, rows):
    """Return image, mask, prediction, each (H, W), and Dice of some slices that bear a lesion."""
    images, masks = zip(*map(data.reader.read_channels, rows), strict=True)
    images = np.stack([data.reader.standardise(*pair) for pair in zip(rows, images, strict=True)])
    predictions = keras.ops.convert_to_numpy(model(images, training=False))[..., 0] > 0.5
    masks = np.stack(masks) > 0
    both, either = (masks & predictions).sum((1, 2)), masks.sum((1, 2)) + predictions.sum((1, 2))
    middle = images[..., data.reader.neighbours]
    return list(zip(middle, masks, predictions, 2 * both / either, strict=True))
