"""What runs on a borrowed GPU: tables of speed, and the authors' experiment at its real length.

Reads   data.npz (from pack.py) beside this file
Writes  tables_jax.json, tables_torch.json, experiment.zip (weights and histories) in the output folder

Needs JAX and Keras, and PyTorch for its rows of the tables; no TensorFlow, no network.

    KERAS_BACKEND=jax python trip.py jax-tables --output out --seconds 110
    python trip.py torch-tables --output out --seconds 110
    KERAS_BACKEND=jax python trip.py experiment --output out --seconds 420
"""

import argparse
import csv
import io
import json
import platform
import threading
import time
import zipfile
from functools import partial
from pathlib import Path

import numpy as np

HERE = Path(__file__).parent
SIDE, STRENGTH, DROPOUT = 240, 1.0, 0.2
# Most valuable first: filters, batch, precision.
CELLS = [
    (8, 64, "bfloat16"),
    (32, 64, "bfloat16"),
    (8, 8, "bfloat16"),
    (8, 64, "float32"),
    (32, 8, "bfloat16"),
    (16, 64, "bfloat16"),
    (8, 8, "float32"),
    (32, 64, "float32"),
    (16, 8, "bfloat16"),
    (16, 64, "float32"),
    (32, 8, "float32"),
    (16, 8, "float32"),
]
# GFLOP of the forward pass of one slice by filters; a training step costs three times that.
FORWARD_GFLOP = {8: 1.33, 16: 5.3, 32: 21.2}
STAGES = {  # data set, epochs, learning rate, weight strength, augmented, starts from
    "pre_train": ("brats17", 100, 1e-4, 0.8, False, None),
    "train": ("atlas", 150, 1e-4, 1.0, False, None),
    "transfer": ("atlas", 150, 1e-5, 1.0, True, "pre_train"),
    "train_augmented": ("atlas", 150, 1e-4, 1.0, True, None),
    "transfer_fast": ("atlas", 150, 1e-4, 1.0, True, "pre_train"),
}
BATCH = 8
RANGES = {"rotation_degrees": 10, "shift": 0.1, "zoom": 0.2, "flip": True}


class BusyShare:
    """Sample in a thread how busy the GPU is, until the block ends; NaN without NVML."""

    def __enter__(self):
        self.samples, self.ended = [], threading.Event()
        self.thread = threading.Thread(target=self._sample, daemon=True)
        self.thread.start()
        return self

    def _sample(self):
        try:
            import pynvml

            pynvml.nvmlInit()
            handle = pynvml.nvmlDeviceGetHandleByIndex(0)
            while not self.ended.wait(0.05):
                self.samples.append(pynvml.nvmlDeviceGetUtilizationRates(handle).gpu / 100)
        except Exception:
            return

    def __exit__(self, *_):
        self.ended.set()
        self.thread.join()

    @property
    def median(self):
        return float(np.median(self.samples)) if self.samples else float("nan")


def measure(work, slices, seconds):
    """Call `work`, which waits for its result, for some seconds; return slices a second and more."""
    work()
    rates, until = [], time.perf_counter() + seconds
    with BusyShare() as busy:
        while time.perf_counter() < until or len(rates) < 3:
            started = time.perf_counter()
            work()
            rates.append(slices / (time.perf_counter() - started))
    return {
        "slices_per_s": float(np.median(rates)),
        "low": min(rates),
        "high": max(rates),
        "busy": busy.median,
        "rounds": len(rates),
    }


def make_batch(batch, side):
    rng = np.random.default_rng(0)
    images = rng.standard_normal((batch, side, side, 1), np.float32)
    return images, (images > 1.5).astype(np.float32)


def save(path, content):
    path.write_text(json.dumps(content, indent=1))


def tables(name, make_cell, arguments, about):
    """Measure cell by cell until the time is up."""
    started, rows = time.perf_counter(), []
    for filters, batch, precision in CELLS:
        cell = {"contender": name, "filters": filters, "batch": batch, "precision": precision}
        left = arguments.seconds - (time.perf_counter() - started)
        if left < 20 and not arguments.tiny:
            rows.append(cell | {"missing": "no time left"})
            save(arguments.output / f"tables_{name}.json", {"about": about, "rows": rows})
            continue
        begun = time.perf_counter()
        try:
            work, slices = make_cell(filters, batch, precision)
            work()
            compiled = time.perf_counter() - begun
            cell |= measure(work, slices, 0.2 if arguments.tiny else 3)
            cell |= {"compile_s": compiled}
        except Exception as error:
            cell |= {"missing": f"{type(error).__name__}: {error}"[:300]}
        rows.append(cell)
        print(json.dumps(cell), flush=True)
        save(arguments.output / f"tables_{name}.json", {"about": about, "rows": rows})


# JAX


def jax_model(filters, policy):
    import keras

    from unet import build_unet

    keras.config.set_dtype_policy(policy)
    return build_unet(
        filters=filters,
        levels=4,
        dropout=DROPOUT,
        batch_normalisation=True,
        instance_normalisation=False,
        deep_supervision=False,
        foreground_prior=0.5,
        neighbours=0,
        downsampling=1,
    )


def make_train_step(model, optimizer, loss):
    """Return a pure function from (state, images, masks) to (state, loss)."""
    import jax

    def loss_of(trainable, other, images, masks):
        probability, other = model.stateless_call(trainable, other, images, training=True)
        return loss(masks, probability), other

    gradient = jax.value_and_grad(loss_of, has_aux=True)

    def step(state, images, masks):
        trainable, other, slots = state
        (value, other), gradients = gradient(trainable, other, images, masks)
        trainable, slots = optimizer.stateless_apply(slots, gradients, trainable)
        return (trainable, other, slots), value

    return step


def first_state(model, optimizer):
    import jax.numpy as jnp

    optimizer.build(model.trainable_variables)
    groups = (model.trainable_variables, model.non_trainable_variables, optimizer.variables)
    # Copies: the buffers are given away to the compiled step.
    return tuple([jnp.array(variable.value, copy=True) for variable in group] for group in groups)


def jax_cell(filters, batch, precision, tiny=False):
    """Return work of several training steps in one dispatch, and how many slices they have."""
    import jax
    import jax.numpy as jnp
    import keras

    from losses import WeightedDiceLoss

    side, steps = (32, 2) if tiny else (SIDE, max(4, 640 // batch))
    model = jax_model(filters, "mixed_bfloat16" if precision == "bfloat16" else "float32")
    optimizer = keras.optimizers.Adam(1e-4)
    step = make_train_step(model, optimizer, WeightedDiceLoss(STRENGTH, 0.0))
    images, masks = map(jnp.asarray, make_batch(batch, side))

    @partial(jax.jit, donate_argnums=0)
    def several(state):
        return jax.lax.scan(lambda s, _: step(s, images, masks), state, None, length=steps)

    held = [first_state(model, optimizer)]

    def work():
        held[0], losses = several(held[0])
        losses.block_until_ready()

    return work, batch * steps


def jax_tables(arguments):
    import jax

    device = jax.devices()[0]
    about = {"device": device.device_kind, "platform": device.platform, "jax": jax.__version__}
    make_cell = partial(jax_cell, tiny=arguments.tiny)
    tables("jax", make_cell, arguments, about | {"python": platform.python_version()})


# PyTorch


def torch_cell(filters, batch, precision, tiny=False):
    import torch
    from torch_unet import TorchUNet, make_step

    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.manual_seed(0)
    torch.backends.cudnn.benchmark = True
    side, steps = (32, 2) if tiny else (SIDE, max(4, 640 // batch))
    model = TorchUNet(filters, DROPOUT).to(device, memory_format=torch.channels_last).train()
    options = {"fused": True} if device == "cuda" else {}
    optimizer = torch.optim.Adam(model.parameters(), 1e-4, **options)
    images, masks = (
        torch.from_numpy(v.transpose(0, 3, 1, 2).copy()).to(
            device, memory_format=torch.channels_last
        )
        for v in make_batch(batch, side)
    )
    compiled = model if tiny else torch.compile(model)
    autocast = torch.bfloat16 if precision == "bfloat16" else None
    step = make_step(compiled, optimizer, images, masks, STRENGTH, autocast)

    def work():
        for _ in range(steps):
            loss = step()
        loss.item()

    return work, batch * steps


def torch_tables(arguments):
    import torch

    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    name = torch.cuda.get_device_name(0) if torch.cuda.is_available() else "CPU"
    make_cell = partial(torch_cell, tiny=arguments.tiny)
    tables("torch", make_cell, arguments, {"device": name, "torch": torch.__version__})


# The experiment


def load_data(dataset):
    """Put all slices of a data set on the device; return them with order and standardisation."""
    import jax.numpy as jnp

    with np.load(HERE / "data.npz") as file:
        get = {name.split("/")[1]: file[name] for name in file.files if name.startswith(dataset)}
    return {
        "images": jnp.asarray(get["images"]),  # (N, H, W) uint8
        "masks": jnp.asarray(get["masks"]),
        "mean": jnp.asarray(get["mean"], jnp.float32),
        "factor": jnp.asarray(get["factor"], jnp.float32),
    } | {name: get[name] for name in ("validation", "lesion", "empty")}


def warp(pixels, matrix, order):
    """Move (H, W) by a (2, 3) matrix from pixel (x, y) of the result to (x, y) of the source."""
    import jax.numpy as jnp
    from jax.scipy.ndimage import map_coordinates

    height, width = pixels.shape
    y, x = jnp.mgrid[:height, :width]
    source_x = matrix[0, 0] * x + matrix[0, 1] * y + matrix[0, 2]
    source_y = matrix[1, 0] * x + matrix[1, 1] * y + matrix[1, 2]
    return map_coordinates(pixels, [source_y, source_x], order=order, mode="constant", cval=0.0)


def train_stage(name, seed, weights, arguments, deadline):
    """Train one stage on the device; return model with best weights, history, and whether it ended."""
    import jax
    import jax.numpy as jnp
    import keras

    from augmentation import draw_distortions
    from losses import WeightedDiceLoss

    dataset, epochs, rate, strength, augmented, _ = STAGES[name]
    epochs = 2 if arguments.tiny else epochs
    data = load_data(dataset)
    keras.utils.set_random_seed(seed)
    model = jax_model(8, arguments.policy)
    if weights is not None:
        model.set_weights(weights)
    optimizer = keras.optimizers.Adam(rate)
    step = make_train_step(model, optimizer, WeightedDiceLoss(strength, 0.0))
    lesion, empty, validation = data["lesion"], data["empty"], data["validation"]
    if arguments.tiny:
        lesion, empty, validation = lesion[:8], empty[:16], validation[:32]
    count = min(len(empty), len(lesion))
    steps = (len(lesion) + count) // BATCH  # the last, smaller batch of an epoch is left out
    side = data["images"].shape[1]
    moved = jax.vmap(warp, (0, 0, None)) if augmented else None

    def gather(rows, matrices):
        images = data["images"][rows].astype(jnp.float32)  # (B, H, W)
        masks = data["masks"][rows].astype(jnp.float32)
        if augmented:
            images, masks = jnp.rint(moved(images, matrices, 1)), moved(masks, matrices, 0)
        mean, factor = (data[key][rows][:, None, None] for key in ("mean", "factor"))
        return ((images - mean) * factor)[..., None], masks[..., None]

    @partial(jax.jit, donate_argnums=0)
    def epoch_of(state, rows, matrices):
        def body(state, drawn):
            return step(state, *gather(*drawn))

        return jax.lax.scan(body, state, (rows, matrices))

    chunk = 16 if arguments.tiny else 89
    # The last chunk is filled up with slices that do not count.
    filled = np.pad(validation, (0, -len(validation) % chunk), mode="edge")
    counted = np.arange(len(filled)) < len(validation)
    chunks = tuple(jnp.asarray(values.reshape(-1, chunk)) for values in (filled, counted))

    @jax.jit
    def validate(trainable, other):
        def counts(drawn):
            rows, counted = drawn
            images = data["images"][rows].astype(jnp.float32)
            mean, factor = (data[key][rows][:, None, None] for key in ("mean", "factor"))
            images = ((images - mean) * factor)[..., None]
            found, _ = model.stateless_call(trainable, other, images, training=False)
            counted = counted[:, None, None]
            found, masks = (found[..., 0] > 0.5) & counted, (data["masks"][rows] > 0) & counted
            return jnp.stack([(found & masks).sum(), found.sum(), masks.sum()])

        return jax.lax.map(counts, chunks)

    state = first_state(model, optimizer)
    identity = np.tile(np.float32([[1, 0, 0], [0, 1, 0]]), (steps, BATCH, 1, 1))
    history, best, best_dice, started = [], None, -1.0, time.perf_counter()
    for epoch in range(epochs):
        rng = np.random.default_rng([seed, epoch])
        rows = np.concatenate([lesion, rng.choice(empty, count, replace=False)])
        rows = rng.permutation(rows)[: steps * BATCH].reshape(steps, BATCH)
        matrices = identity
        if augmented:
            drawn = draw_distortions(rng, steps * BATCH, (side, side), **RANGES)
            matrices = drawn.reshape(steps, BATCH, 2, 3).astype(np.float32)
        state, losses = epoch_of(state, jnp.asarray(rows), jnp.asarray(matrices))
        both, predicted, reference = np.asarray(validate(*state[:2]), np.float64).sum(0)
        dice = 2 * both / max(predicted + reference, 1)
        loss = float(losses.mean())
        if not np.isfinite(loss):
            raise RuntimeError(f"{name}: the loss of epoch {epoch + 1} is {loss}")
        history.append(
            {
                "epoch": epoch + 1,
                "loss": loss,
                "val_dice": dice,
                "val_precision": both / max(predicted, 1),
                "val_recall": both / max(reference, 1),
            }
        )
        if dice > best_dice:
            best_dice, best = dice, jax.tree.map(jnp.copy, state[:2])
        if epoch in (0, 1, 9, 49, 99, 149):
            seconds = time.perf_counter() - started
            print(
                f"{name} seed {seed} epoch {epoch + 1} loss {loss:.3f} val dice {dice:.3f} "
                f"{seconds:.1f} s, {steps} steps",
                flush=True,
            )
        if time.perf_counter() > deadline:
            print(f"{name}: stopped after epoch {epoch + 1}", flush=True)
            break
    for variable, value in zip(model.trainable_variables, best[0], strict=True):
        variable.assign(value)
    for variable, value in zip(model.non_trainable_variables, best[1], strict=True):
        variable.assign(value)
    return model, history, len(history) == epochs


def experiment(arguments):
    """Train the stages, seed after seed, and keep each as soon as it is finished."""
    import jax

    from training.weights import save_weights

    deadline = time.perf_counter() + arguments.seconds
    kept, durations = {}, {}
    about = {
        "device": jax.devices()[0].device_kind,
        "jax": jax.__version__,
        "policy": arguments.policy,
    }
    order = [(name, seed) for seed in arguments.seeds for name in arguments.stages]
    started_from = {}
    for name, seed in order:
        _, _, _, _, _, source = STAGES[name]
        weights = None
        if source:
            if (source, seed) not in started_from:
                continue
            weights = started_from[source, seed]
        begun = time.perf_counter()
        if begun + 0.7 * durations.get(name, 0) > deadline:
            print(f"{name} seed {seed}: no time left", flush=True)
            continue
        model, history, whole = train_stage(name, seed, weights, arguments, deadline)
        durations[name] = time.perf_counter() - begun
        started_from[name, seed] = model.get_weights()
        place = arguments.output / "best.weights.h5"
        save_weights(model, place)
        text = io.StringIO()
        table = csv.DictWriter(text, list(history[0]))
        table.writeheader()
        table.writerows(history)
        kept[f"{name}-{seed}/best.weights.h5"] = place.read_bytes()
        kept[f"{name}-{seed}/history.csv"] = text.getvalue().encode()
        facts = {"seconds": durations[name], "epochs": len(history), "whole": whole} | about
        kept[f"{name}-{seed}/facts.json"] = json.dumps(facts).encode()
        partial_file = arguments.output / "partial"
        with zipfile.ZipFile(partial_file, "w", zipfile.ZIP_DEFLATED) as archive:
            for file, content in kept.items():
                archive.writestr(file, content)
        partial_file.replace(arguments.output / "experiment.zip")
        place.unlink()
        best = max(history, key=lambda row: row["val_dice"])
        print(
            f"kept {name} seed {seed}: best val dice {best['val_dice']:.3f} "
            f"at {best['epoch']}, {durations[name]:.1f} s",
            flush=True,
        )


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=("jax-tables", "torch-tables", "experiment"))
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--seconds", type=float, default=100)
    parser.add_argument("--policy", default="float32")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--stages", nargs="+", choices=STAGES, default=list(STAGES))
    parser.add_argument("--tiny", action="store_true", help="a rehearsal on a CPU")
    arguments = parser.parse_args()
    arguments.output.mkdir(parents=True, exist_ok=True)
    {"jax-tables": jax_tables, "torch-tables": torch_tables, "experiment": experiment}[
        arguments.what
    ](arguments)


if __name__ == "__main__":
    main()
