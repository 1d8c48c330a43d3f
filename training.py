"""One training run: its folder, the fit, and going on after a stop. Knows nothing of U-Nets.

A run folder holds

config.yaml, run.json         settings; seed, versions, command, hashes, times, best figures
best.weights.h5               of the epoch with the best validation Dice, to hand on
history.csv                   one row an epoch
learning_curves.png           redrawn every epoch
predictions.png               made at the end, with the best weights
state.json, state-N.weights.h5  what going on after epoch N needs
"""

import json
import math
import sys
import time
from datetime import datetime
from importlib.metadata import version
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf
from tqdm import tqdm

import figures
from files import InputError, load_json, save_csv, save_json
from losses import OverlapMetrics, WeightedDiceLoss
from weights import file_hash, load_weights, save_weights

PACKAGES = ("tensorflow", "keras", "numpy", "nibabel", "opencv-python-headless")


class Run:
    """The folder of one stage's run, and what it has come to.

    Parameters
    ----------
    stage : {"pre_train", "train", "transfer"}
    settings : config.Settings
    identity : dict
        Hashes of what else decides the result (`data.Parts.identity`).
    initial_weights : path-like, optional
        What the run starts from; from scratch when omitted.
    restart : bool
        Set an existing folder aside, as ``<stage>-<date>``, and start anew.

    Attributes
    ----------
    folder : pathlib.Path
    settings : config.Stage
        Of this stage.
    finished : bool
    history : list of dict
        One entry a finished epoch.

    Raises
    ------
    InputError
        If the folder holds a run made from other settings, data or weights; names them.
    """

    def __init__(self, stage, settings, identity, initial_weights=None, restart=False):
        self.stage, self.settings = stage, getattr(settings, stage)
        self.seed = settings.seed
        self.folder = Path(settings.paths.runs, stage)
        everything = settings.model_dump()
        names = ("seed", "fold", "slices", "unet", "augmentation", stage)
        self.identity = {name: everything[name] for name in names} | identity
        if initial_weights is not None:
            self.identity["initial_weights"] = file_hash(initial_weights)
        self.facts = {
            "stage": stage, "finished": False, "seed": settings.seed, "fold": settings.fold,
            "command": [Path(sys.argv[0]).name, *sys.argv[1:]],
            "started": datetime.now().isoformat(timespec="seconds"),
            "versions": {"python": sys.version.split()[0]} | {p: version(p) for p in PACKAGES},
            "initial_weights": None if initial_weights is None else str(initial_weights),
            "identity": self.identity,
        }  # fmt: skip
        self.history, self.seconds = [], 0.0
        if restart and self.folder.exists():
            aside = self.folder.with_name(f"{stage}-{datetime.now():%Y%m%d-%H%M%S}")
            self.folder.rename(aside)
            print(f"{stage}: the earlier run is kept as {aside}")
        if (self.folder / "run.json").exists():
            self._take_up()
        else:
            settings.save(self.folder / "config.yaml")
            save_json(self.folder / "run.json", self.facts)

    def _take_up(self):
        """Go on with what the folder holds, if it is the very same run."""
        earlier = load_json(self.folder / "run.json", "start anew with --restart")
        differing = _differences(earlier.get("identity", {}), json.loads(json.dumps(self.identity)))
        if differing:
            raise InputError(
                f"{self.folder}: holds a run with another {', '.join(differing)}; add --restart to "
                "start anew (the old folder is kept aside), or choose another paths.runs"
            )
        self.facts = earlier
        if (self.folder / "state.json").exists():
            state = load_json(self.folder / "state.json", "start anew with --restart")
            self.history, self.seconds = state["history"], state["seconds"]
        if self.finished:
            print(f"{self.stage}: finished already in {self.folder}; add --restart to train anew")
        elif self.history:
            print(f"{self.stage}: goes on after epoch {len(self.history)}")

    @property
    def finished(self):
        return self.facts["finished"]

    @property
    def best(self):
        """The epoch with the highest validation Dice, the first of equals."""
        return max(self.history, key=lambda epoch: epoch["val_dice"])

    @property
    def best_weights(self):
        return self.folder / "best.weights.h5"

    @property
    def state_weights(self):
        return self.folder / f"state-{len(self.history)}.weights.h5"

    def finish(self):
        """Write the best figures into run.json and print the table of all stages so far."""
        self.facts |= {"finished": True, "epochs": len(self.history), "best": self.best}
        self.facts["seconds"] = round(self.seconds, 1)
        save_json(self.folder / "run.json", self.facts)
        figures.print_results(self.folder.parent)
        print(
            f"\npictures: {self.folder / 'learning_curves.png'}, {self.folder / 'predictions.png'}"
        )


def _differences(one, other, prefix=""):
    """Name the keys in which two nested dictionaries differ."""
    names = []
    for key in sorted(one.keys() | other.keys()):
        a, b = one.get(key), other.get(key)
        if isinstance(a, dict) and isinstance(b, dict):
            names += _differences(a, b, f"{prefix}{key}.")
        elif a != b:
            names.append(prefix + key)
    return names


def set_random_seed(seed):
    """Fix what the initial weights and the dropout are drawn from."""
    keras.utils.set_random_seed(seed)


def compile_model(model, stage, steps):
    """Give a model the loss, the optimizer and the figures of a stage.

    Parameters
    ----------
    model : keras.Model
    stage : config.Stage
    steps : int
        Batches an epoch, for the schedule of the learning rate.
    """
    rate = stage.learning_rate
    if stage.schedule == "cosine":
        rate = keras.optimizers.schedules.CosineDecay(rate, stage.epochs * steps, alpha=0.01)
    model.compile(
        optimizer=keras.optimizers.Adam(rate),
        loss=WeightedDiceLoss(stage.weight_strength),
        metrics=[OverlapMetrics()],
    )


def fit(model, parts, run):
    """Train a compiled model to the last epoch of its stage, from wherever the run stands.

    Parameters
    ----------
    model : keras.Model
        Left with the weights of the best epoch.
    parts : data.Parts
    run : Run

    Raises
    ------
    InputError
        If a slice cannot be read, or the loss is no longer finite (names the slices).
    """
    model.optimizer.build(model.trainable_variables)
    if run.history:
        model.load_weights(run.state_weights)
    epochs = run.settings.epochs
    done = len(run.history)
    try:
        model.fit(
            parts.training.dataset(done, epochs),
            steps_per_epoch=parts.training.steps,
            initial_epoch=done,
            epochs=epochs,
            validation_data=parts.validation.dataset(),
            shuffle=False,
            callbacks=[
                _Reseed(run.seed),
                _StopAtNonFinite(parts),
                _Keep(run, parts.training.steps),
            ],
            verbose=0,
        )
    except tf.errors.OpError:
        raise parts.training.error or parts.validation.error or sys.exception() from None
    load_weights(model, run.best_weights)


class _Reseed(keras.callbacks.Callback):
    """Start the dropout of each epoch from (seed, epoch): its state is not in weight files."""

    def __init__(self, seed):
        super().__init__()
        self.seed = seed

    def on_epoch_begin(self, epoch, logs=None):
        for i, layer in enumerate(self.model.layers):
            if generator := getattr(layer, "seed_generator", None):
                state = np.random.SeedSequence([self.seed, epoch, i]).generate_state(2) >> 1
                generator.state.assign(state.astype(generator.state.dtype))


class _StopAtNonFinite(keras.callbacks.Callback):
    """Stop at the first batch whose loss is not finite, before any weights are saved."""

    def __init__(self, parts):
        super().__init__()
        self.parts = parts

    def on_epoch_begin(self, epoch, logs=None):
        self.epoch = epoch

    def on_train_batch_end(self, batch, logs=None):
        if not math.isfinite(logs["loss"]):
            rows = self.parts.training.rows(self.epoch * self.parts.training.steps + batch)
            raise InputError(
                f"epoch {self.epoch + 1}, step {batch + 1}: the loss is {logs['loss']}; lower the "
                f"learning rate or look at {', '.join(map(self.parts.name, rows))}"
            )


class _Keep(keras.callbacks.Callback):
    """After each epoch: keep the weights and the history, redraw the curves, print a line."""

    def __init__(self, run, steps):
        super().__init__()
        self.run, self.steps = run, steps

    def on_epoch_begin(self, epoch, logs=None):
        self.started = time.perf_counter()
        label = f"epoch {epoch + 1}/{self.run.settings.epochs}"
        self.bar = tqdm(total=self.steps, desc=label, unit="step", leave=False, disable=None)

    def on_train_batch_end(self, batch, logs=None):
        self.bar.set_postfix_str(f"loss {logs['loss']:.3f}, Dice {logs['dice']:.3f}", refresh=False)
        self.bar.update()

    def on_epoch_end(self, epoch, logs=None):
        self.bar.close()
        run = self.run
        names = ("loss", "dice", "precision", "recall")
        figures_ = {key: float(logs[key]) for n in names for key in (n, f"val_{n}")}
        previous = run.state_weights
        run.history.append({"epoch": epoch + 1} | figures_)
        improved = run.best["epoch"] == epoch + 1
        if improved:
            save_weights(self.model, run.best_weights)
        save_weights(self.model, run.state_weights, optimizer=True)
        seconds = time.perf_counter() - self.started
        run.seconds += seconds
        # Replacing state.json is the commit: before it a second start repeats this epoch.
        save_json(run.folder / "state.json", {"history": run.history, "seconds": run.seconds})
        previous.unlink(missing_ok=True)
        save_csv(run.folder / "history.csv", run.history)
        figures.save_learning_curves(run.history, run.stage, run.folder / "learning_curves.png")
        print(
            f"epoch {epoch + 1:3}/{run.settings.epochs}  loss {logs['loss']:.3f}  "
            f"Dice {logs['dice']:.3f} | validation: loss {logs['val_loss']:.3f}  "
            f"Dice {logs['val_dice']:.3f}  precision {logs['val_precision']:.3f}  "
            f"recall {logs['val_recall']:.3f}  {'*' if improved else ' '} {seconds:5.1f} s",
            flush=True,
        )


def save_prediction_pictures(model, parts, run):
    """Picture validation slices with the model's present weights, in ``predictions.png``.

    Four slices are the same in every run on this split, from small lesions to large; the two that
    follow are this model's worst.

    Parameters
    ----------
    model : keras.Model
    parts : data.Parts
    run : Run
    """
    rows = np.sort(parts.validation.order(0))
    rows = rows[parts.has_lesion[rows]]
    by_size = rows[np.argsort(parts.rows.lesion_pixels.to_numpy()[rows], kind="stable")]
    fixed = list(dict.fromkeys(by_size[(len(by_size) - 1) * np.array([20, 40, 60, 80]) // 100]))
    size = run.settings.batch_size
    dice = np.concatenate([
        [example[-1] for example in _predict(model, parts, rows[start : start + size])]
        for start in range(0, len(rows), size)
    ])  # fmt: skip
    worst = [row for row in rows[np.argsort(dice, kind="stable")] if row not in fixed][:2]
    examples = [
        (parts.name(row) + (" (worst)" if row in worst else ""), *example)
        for row, example in zip(fixed + worst, _predict(model, parts, fixed + worst), strict=True)
    ]
    figures.save_predictions(examples, run.stage, run.folder / "predictions.png")


def _predict(model, parts, rows):
    """Return image, mask, prediction, each (H, W), and Dice of some slices that bear a lesion."""
    images, masks = zip(*map(parts.reader.read, rows), strict=True)
    images = np.stack([parts.reader.standardise(*pair) for pair in zip(rows, images, strict=True)])
    predictions = np.asarray(model(images[..., None], training=False))[..., 0] > 0.5
    masks = np.stack(masks) > 0
    both, either = (masks & predictions).sum((1, 2)), masks.sum((1, 2)) + predictions.sum((1, 2))
    return list(zip(images, masks, predictions, 2 * both / either, strict=True))
