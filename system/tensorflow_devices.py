"""TensorFlow's devices: the GPUs of one machine share each batch (MirroredStrategy)."""

import tensorflow as tf

from system.cores import CORES
from system.files import InputError
from system.single_device import in_turns as in_turns
from system.single_device import shard_of_batch as shard_of_batch


def start():
    """Start TensorFlow; name the devices."""
    gpus = tf.config.list_logical_devices("GPU")
    return f"{f'{len(gpus)} GPU' if gpus else f'{CORES} CPU cores'}, TensorFlow {tf.__version__}"


def devices_of_processes():
    """List the names of the devices of each process."""
    devices = tf.config.list_logical_devices("GPU") or tf.config.list_logical_devices("CPU")
    return [[device.name for device in devices]]


def share_batches(names):
    """Have these devices share each batch; a single one is what TensorFlow uses by itself."""
    tf.distribute.experimental_set_strategy(
        tf.distribute.MirroredStrategy(names) if len(names) > 1 else None
    )


def check_last_batches(training, validation):
    """Refuse a last batch of which a device would get no image: its layers would fail."""
    count = tf.distribute.get_strategy().num_replicas_in_sync
    for size in (training, validation):
        largest = -(-size // count)
        if -(-size // largest) < count:
            raise InputError(
                f"hardware.devices = {count}: the last batch of an epoch has {size} slices, too "
                "few for each device; choose another batch_size or slices.per_epoch, or fewer "
                "devices"
            )


def feed(batches):
    """Hand a `data.Batches` to Keras by `tf.data`, which reads several at once.

    From a `PyDataset` Keras' generator takes them one by one, at two thirds of the pace or less
    (benchmarks/loader.py), and in 32 bits a pixel instead of 8.
    """
    options = tf.data.Options()
    # The autotuner can hold up the end of an epoch by seconds.
    options.autotune.enabled = False

    def read(step):
        types = (tf.uint8, tf.uint8, tf.float32, tf.float32)
        images, masks, mean, factor = tf.numpy_function(batches.stored, [step], types)
        images = tf.ensure_shape(images, (None, None, None, batches.reader.channels))
        masks = tf.ensure_shape(masks, (None, None, None, 1))
        mean, factor = (tf.ensure_shape(v, (None, 1, 1, 1)) for v in (mean, factor))
        return (tf.cast(images, tf.float32) - mean) * factor, tf.cast(masks, tf.float32)

    return (
        tf.data.Dataset.range(batches.steps)
        .map(read, num_parallel_calls=CORES, deterministic=True)
        .prefetch(2)
        .with_options(options)
    )


def device_number():
    """Return the number, from 0, of the device that computes the step this is called from."""
    if not _in_shared_step():
        return 0
    return tf.distribute.get_replica_context().replica_id_in_sync_group


def sum_over_devices(values):
    """Add up a list of tensors over the devices, each of its own images; all get the same sums."""
    if not _in_shared_step():
        return values
    return tf.distribute.get_replica_context().all_reduce(tf.distribute.ReduceOp.SUM, values)


def moments_over_devices(mean, variance, count):
    """Join the moments, (channels,), of `count` values on each device to those of all values."""
    if not _in_shared_step():
        return mean, variance
    count, total, squares = sum_over_devices([count, mean * count, (variance + mean**2) * count])
    mean = total / count
    return mean, squares / count - mean**2


def free_memory():
    """Return 0: `tf.data` hands its batches over from the host."""
    return 0


def compiled(function):
    raise InputError(
        "hardware.data = device: is for JAX and PyTorch; set it to host, or KERAS_BACKEND=jax"
    )


def resolve_jit(jit):
    """Say whether XLA compiles the training step: True, False, or "auto", on one GPU.

    TensorFlow cannot compile what several devices exchange.
    """
    several = tf.distribute.get_strategy().num_replicas_in_sync > 1
    if jit == "auto":
        return bool(tf.config.list_logical_devices("GPU")) and not several
    if jit and several:
        raise InputError("hardware.jit = true: is for one device; set hardware.devices to 1")
    return jit


def _in_shared_step():
    """Say whether this is called from one device's share of a step."""
    replica = tf.distribute.get_replica_context()
    return replica is not None and replica.num_replicas_in_sync > 1
