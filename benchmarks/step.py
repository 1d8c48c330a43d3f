"""A training step: ours, stock Keras layers, PyTorch, the convolutions alone, the matmul peak.

./run bench step
.venv/bin/python -m benchmarks.step --filters 8 16 32 --compile
.venv/bin/python -m benchmarks.step --bfloat16
"""

import numpy as np

from benchmarks.bench import (
    Contestant,
    arguments,
    brief,
    compare,
    quickest,
    report,
    spread,
    times_ours,
)

BATCH, SIZE = 8, 240
DROPOUT, STRENGTH, RATE = 0.2, 1.0, 0.0001
MATMUL = 2048
TORCH = ("PyTorch NCHW", "PyTorch channels last", "PyTorch compiled")


def make_batch(batch=BATCH, seed=0):
    """Return images of noise with a disc in them, and the disc: float32, (B, H, W, 1)."""
    rng = np.random.default_rng(seed)
    y, x = np.indices((SIZE, SIZE)) - SIZE / 2
    mask = np.broadcast_to(np.hypot(x, y) < SIZE / 8, (batch, SIZE, SIZE))[..., None]
    images = rng.standard_normal((batch, SIZE, SIZE, 1)) + mask
    return images.astype(np.float32), mask.astype(np.float32)


def build_keras(filters, dropout=DROPOUT, batch_normalisation=True):
    from config import load_settings
    from unet import build_unet

    changes = {"filters": filters, "dropout": dropout, "batch_normalisation": batch_normalisation}
    changes["levels"] = 4  # as torch_unet.py has
    return build_unet(**load_settings().unet.model_dump() | changes)


def make_keras_step(model, batch=BATCH):
    """Compile a model as the stages do; return a callable that does one step of `fit`."""
    import tensorflow as tf

    from config import load_settings
    from stage import compile_model

    changes = [f"train.learning_rate={RATE}", f"train.weight_strength={STRENGTH}"]
    compile_model(model, load_settings(overrides=changes).train, 1, jit=False)
    model.optimizer.build(model.trainable_variables)
    batches = iter(tf.data.Dataset.from_tensors(make_batch(batch)).repeat())
    model.make_train_function()
    return lambda: model.train_function(batches)["loss"].numpy()


def repeat(step, times):
    def work():
        for _ in range(times):
            step()
        return {"steps": times}

    return work


def ours(filters, steps):
    return repeat(make_keras_step(build_keras(filters)), steps)


def stock(filters, steps):
    """The same network, with Keras' own batch normalisation and dropout."""
    import keras

    import unet

    unet.FusedBatchNormalization = keras.layers.BatchNormalization
    unet.ByteDropout = keras.layers.Dropout
    return ours(filters, steps)


def in_bfloat16(filters, steps):
    """The same network with ``hardware.precision: mixed_bfloat16``."""
    import keras

    keras.mixed_precision.set_global_policy("mixed_bfloat16")
    return ours(filters, steps)


def bare(filters, steps):
    """The same network without batch normalisation and dropout."""
    return repeat(make_keras_step(build_keras(filters, 0.0, False)), steps)


def pytorch(filters, steps, way):
    import torch

    from benchmarks.torch_unet import TorchUNet, make_step

    model = TorchUNet(filters, DROPOUT)
    images, mask = (torch.from_numpy(a.transpose(0, 3, 1, 2).copy()) for a in make_batch())
    if way != TORCH[0]:
        model = model.to(memory_format=torch.channels_last)
        images = images.contiguous(memory_format=torch.channels_last)
    optimizer = torch.optim.Adam(model.parameters(), lr=RATE, eps=1e-7)
    called = torch.compile(model) if way == TORCH[2] else model
    step = make_step(called, optimizer, images, mask, STRENGTH)
    return repeat(lambda: step().item(), steps)


def convolution_shapes(model, size=SIZE):
    """List the convolutions of a network: (layer, output height and width on a size × size image)."""
    import keras

    layers = [layer for layer in model.layers if "Conv2D" in type(layer).__name__]
    shapes = keras.Model(model.input, [layer.output for layer in layers]).compute_output_shape(
        (1, size, size, model.input.shape[-1])
    )
    return [(layer, shape[1:3]) for layer, shape in zip(layers, shapes, strict=True)]


def forward_flop(model, size=SIZE):
    """Count the multiplications and additions of all convolutions on one size × size image.

    A kernel is laid on each output pixel of a convolution, and on each input pixel of a transposed
    one: ``2 · kernel height · kernel width · channels in · channels out`` each time. A training step
    costs three times that: forward, gradient of the input, gradient of the kernel.
    """
    total = 0
    for layer, (height, width) in convolution_shapes(model, size):
        places = height * width
        if "Transpose" in type(layer).__name__:
            places //= layer.strides[0] * layer.strides[1]
        total += 2 * places * int(np.prod(layer.kernel.shape))
    return total


def convolutions(filters, steps):
    """Every convolution of a step, forward and back, on noise, and nothing else."""
    import tensorflow as tf

    tasks = []
    for layer, (height, width) in convolution_shapes(build_keras(filters)):
        kernel, transposed = layer.kernel.value, "Transpose" in type(layer).__name__
        if transposed:  # is the gradient of a convolution from the large image to the small one
            large, small = (height, width), (height // 2, width // 2)
        else:
            large = small = (height, width)
        *_, channels_large, channels_small = kernel.shape
        tensors = [
            tf.random.normal((BATCH, *side, channels))
            for side, channels in ((large, channels_large), (small, channels_small))
        ]
        tasks.append((kernel, *tensors, 2 if transposed else 1, channels_large == 1))

    def run(kernel, large, small, stride, first):
        options = {"strides": [1, stride, stride, 1], "padding": "SAME"}
        yield tf.nn.conv2d(large, kernel, **options)
        if not first:  # no gradient of the image itself is needed
            yield tf.raw_ops.Conv2DBackpropInput(
                input_sizes=tf.shape(large), filter=kernel, out_backprop=small, **options
            )
        yield tf.raw_ops.Conv2DBackpropFilter(
            input=large, filter_sizes=tf.shape(kernel), out_backprop=small, **options
        )

    @tf.function
    def all_of_them():
        # One number of each keeps it from being left out as unused, and its memory from staying.
        return [tf.reshape(result, [-1])[0] for task in tasks for result in run(*task)]

    return repeat(all_of_them, steps)


def matmul(repeats=8):
    """The processor's peak: a large float32 matrix product."""
    import tensorflow as tf

    a, b = (tf.random.normal((MATMUL, MATMUL)) for _ in range(2))
    product = tf.function(lambda: tf.reduce_sum(tf.matmul(a, b)))
    work = repeat(lambda: product().numpy(), repeats)
    return lambda: work() | {"gflop": repeats * 2 * MATMUL**3 / 1e9}


def count_gflop(filters):
    work = 3 * BATCH * forward_flop(build_keras(filters)) / 1e9
    return lambda: {"gflop": work}


def rate(sample, gflop, quantity):
    """GFLOP in a second of CPU or wall time."""
    return gflop * sample["steps"] / sample[quantity]


def contestants(filters, steps, options):
    """Return ours and what it is measured against, by the script's options."""
    width = filters, steps
    others = [Contestant("ours in bfloat16", in_bfloat16, width)]
    if not options.bfloat16:
        ways = TORCH if options.compile else TORCH[:2]
        others = [
            Contestant("stock Keras layers", stock, width),
            *(Contestant(way, pytorch, (*width, way), optional=True) for way in ways),
            Contestant("without norm and dropout", bare, width),
            Contestant("convolutions alone", convolutions, width),
        ]
    return [Contestant("ours", ours, width), *others, Contestant("matmul peak", matmul)]


def compare_width(filters, options):
    """Measure all contestants at one width; return the rows of the table and the samples."""
    gflop = compare([Contestant("count", count_gflop, (filters,))], 1)["count"][0]["gflop"]
    steps = max(1, 32 // filters)
    samples = compare(contestants(filters, steps, options), options.rounds)
    best_torch = quickest(samples, TORCH) if samples.keys() & set(TORCH) else None
    peak = samples["matmul peak"]
    rows = []
    for name, turns in samples.items():
        if name == "matmul peak":
            speed = [s["gflop"] / s["wall_s"] for s in turns]
            share = [1.0]
            step_ms = {"CPU ms": "", "wall ms": "", "CPU, times ours": "", "wall, times ours": ""}
        else:
            speed = [rate(s, gflop, "wall_s") for s in turns]
            share = [
                rate(s, gflop, "cpu_s") / (p["gflop"] / p["cpu_s"])
                for s, p in zip(turns, peak, strict=True)
            ]
            step_ms = {
                "CPU ms": spread(1000 * s["cpu_s"] / s["steps"] for s in turns),
                "wall ms": spread(1000 * s["wall_s"] / s["steps"] for s in turns),
                "CPU, times ours": times_ours(samples["ours"], turns),
                "wall, times ours": times_ours(samples["ours"], turns, "wall_s"),
            }
        rows.append(
            {"n": filters, "step": name + (" (best of PyTorch)" if name == best_torch else "")}
            | step_ms
            | {
                "GFLOP/s": brief(spread(speed).median),
                "share of peak": f"{spread(share).median:.0%}",
                "peak MB": brief(max(s["peak_mb"] for s in turns)),
            }
        )
    return rows, {f"n={filters}, {name}": turns for name, turns in samples.items()}


def main():
    options = arguments(
        __doc__,
        5,
        filters={"type": int, "nargs": "+", "default": [8, 16, 32]},
        compile={"action": "store_true", "help": "torch.compile too, which takes minutes"},
        bfloat16={"action": "store_true", "help": "ours in float32 and in bfloat16, nothing else"},
    )
    rows, samples = [], {}
    for filters in options.filters:
        new_rows, new_samples = compare_width(filters, options)
        rows, samples = rows + new_rows, samples | new_samples
    name = "step_bfloat16" if options.bfloat16 else "step"
    report(name, rows, samples, filters=options.filters, batch=BATCH, size=SIZE)


if __name__ == "__main__":
    main()
