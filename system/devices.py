"""The devices that a run trains on, and the precision it computes in.

More than one device share each batch: every device has all weights and a part of the images. On
TensorFlow they are the GPUs of one machine (MirroredStrategy); on JAX also those of several
processes, as one for each GPU of several machines. The loss is that of the whole batch, so that the
number of devices does not change what is learnt, but for TensorFlow's batch normalisation, which
normalises by the images of its own device.
"""

import atexit
import contextlib
import itertools
import os
import shutil
import sys
import tempfile
from pathlib import Path

import keras

from system.files import InputError


def start_jax():
    """Start JAX, together with the other processes of this run if there are any.

    They find each other under Slurm's ``srun``, or by KERAS_DISTRIBUTION_JOB_ADDRESSES,
    _NUM_PROCESSES and _PROCESS_ID. To be called before anything is computed.

    Returns
    -------
    str
        What there is to run on.
    """
    import jax
    import tensorflow as tf

    # TensorFlow only reads the batches, and would take all memory of the GPUs.
    tf.config.set_visible_devices([], "GPU")
    # A float64 count would be float32, which stops at 2²⁴ pixels; the network stays in float32.
    jax.config.update("jax_enable_x64", True)
    started_by_srun = int(os.environ.get("SLURM_STEP_NUM_TASKS", 1)) > 1
    if started_by_srun or "KERAS_DISTRIBUTION_JOB_ADDRESSES" in os.environ:
        # Without a seed Keras has the processes agree on one, on their CPUs. The stage sets its own.
        keras.utils.set_random_seed(0)
        keras.distribution.initialize()
    if jax.process_index() > 0:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return (
        f"{jax.device_count()} {jax.default_backend().upper()} of {jax.process_count()} processes, "
        f"JAX {jax.__version__}"
    )


def use_hardware(devices, precision, batch_size):
    """Choose devices and precision of all networks that this process builds from now on.

    Parameters
    ----------
    devices : int or "all"
        GPUs, of all processes together, as many of each. "all": as many as can share a batch. Where
        there is none, the CPU is the one device of a process.
    precision : {"float32", "mixed_float16", "mixed_bfloat16"}
        Mixed: convolutions in 16 bits, while weights, loss and figures stay in 32.
    batch_size : int
        Images that the devices share; they need equal parts, but for the last batch of an epoch.

    Raises
    ------
    InputError
        If there are fewer devices, or they cannot share a batch.
    """
    keras.config.set_dtype_policy(precision)
    there = _devices_of_processes()
    processes, each = len(there), min(map(len, there))
    count = devices
    if devices == "all":
        possible = range(processes, processes * each + 1, processes)
        count = max((n for n in possible if batch_size % n == 0), default=processes)
    if count > processes * each:
        raise InputError(
            f"hardware.devices = {count}: this machine has {processes * each} to train on"
            if processes == 1
            else f"hardware.devices = {count}: {processes} processes have {processes * each}"
        )
    if count % processes:
        raise InputError(
            f"hardware.devices = {count}: {processes} processes cannot have as many each; choose a "
            "multiple, or all"
        )
    if batch_size % count:
        raise InputError(
            f"hardware.devices = {count}: cannot share a batch of {batch_size} equally; choose a "
            "batch_size that they divide, or fewer devices"
        )
    _share_batches([name for names in there for name in names[: count // processes]])
    if count > 1:
        print(f"each batch is shared by {count} devices")


def _on_jax():
    return keras.backend.backend() == "jax"


def _devices_of_processes():
    """List the names of the devices of each process."""
    if _on_jax():
        import jax

        return [
            [f"{device.platform}:{device.id}" for device in devices]
            for _, devices in itertools.groupby(jax.devices(), lambda device: device.process_index)
        ]
    import tensorflow as tf

    devices = tf.config.list_logical_devices("GPU") or tf.config.list_logical_devices("CPU")
    return [[device.name for device in devices]]


def _share_batches(names):
    """Have these devices share each batch; one alone is what the backend uses by itself."""
    if _on_jax():
        keras.distribution.set_distribution(
            keras.distribution.DataParallel(devices=names, auto_shard_dataset=False)
            if len(names) > 1
            else None
        )
        return
    import tensorflow as tf

    tf.distribute.experimental_set_strategy(
        tf.distribute.MirroredStrategy(names) if len(names) > 1 else None
    )


def part_of_batches():
    """Say which images of a batch this process has to read.

    Returns
    -------
    callable
        Of the size of a batch; returns a range. Numbers beyond the size stand for images that only
        fill the part (`losses.NO_IMAGE`): on JAX all devices get equally many.
    """
    # Read here: Keras keeps it for this thread alone.
    distribution = keras.distribution.distribution()
    if distribution is None:
        return range
    import jax

    count, processes = distribution.device_mesh.devices.size, jax.process_count()

    def part(size):
        length = -(-size // count) * count // processes
        return range(length * jax.process_index(), length * (jax.process_index() + 1))

    return part


def check_parts(training, validation):
    """Refuse batches that the devices cannot share.

    Parameters
    ----------
    training, validation : int
        Images in the last batch, of all devices together.

    Raises
    ------
    InputError
        If a part would be empty, on which TensorFlow's layers fail, or, in training on JAX, smaller
        than another: images that only fill it would be normalised by.
    """
    if distribution := keras.distribution.distribution():
        count = distribution.device_mesh.devices.size
        if training % count:
            raise InputError(
                f"hardware.devices = {count}: cannot share the last batch of an epoch, {training} "
                f"slices, equally; set slices.per_epoch to a multiple of {count}"
            )
        return
    import tensorflow as tf

    count = tf.distribute.get_strategy().num_replicas_in_sync
    for size in (training, validation):
        largest_part = -(-size // count)
        if -(-size // largest_part) < count:
            raise InputError(
                f"hardware.devices = {count}: the last batch of an epoch has {size} slices, too "
                "few for each device; choose another batch_size or slices.per_epoch, or fewer "
                "devices"
            )


@contextlib.contextmanager
def in_turns(folder):
    """Let the first process through this block, then the others; all leave it together.

    Parameters
    ----------
    folder : path-like
        That only the first process may write into.

    Yields
    ------
    pathlib.Path
        `folder` itself in the first process, in another one a copy that is thrown away.
    """
    folder = Path(folder)
    if not _on_jax():
        yield folder
        return
    import jax
    from jax.experimental.multihost_utils import sync_global_devices

    if jax.process_index() > 0:
        sync_global_devices("the first is through")
        scratch = tempfile.mkdtemp()
        atexit.register(shutil.rmtree, scratch, ignore_errors=True)
        folder = shutil.copytree(
            folder, Path(scratch, folder.name), ignore=shutil.ignore_patterns("predictions")
        )
    yield folder
    if jax.process_index() == 0:
        sync_global_devices("the first is through")
    sync_global_devices("all are through")


def device_number():
    """Return the number, from 0, of the device that computes the part of the step called from."""
    if not _shared():
        return 0
    import tensorflow as tf

    return tf.distribute.get_replica_context().replica_id_in_sync_group


def sum_over_devices(values):
    """Add up what each device found on its part of a batch.

    Parameters
    ----------
    values : list of tensor
        Sums over the images of this device.

    Returns
    -------
    list of tensor
        Sums over the images of all devices, the same on each.
    """
    if not _shared():
        return values
    import tensorflow as tf

    return tf.distribute.get_replica_context().all_reduce(tf.distribute.ReduceOp.SUM, values)


def figures_of_all_devices(mean, variance, count):
    """Join mean and variance of the values on each device to those of all values.

    Parameters
    ----------
    mean, variance : tensor, shape (channels,)
    count : tensor, scalar
        Values on this device.

    Returns
    -------
    mean, variance : tensor, shape (channels,)
    """
    if not _shared():
        return mean, variance
    count, total, squares = sum_over_devices([count, mean * count, (variance + mean**2) * count])
    mean = total / count
    return mean, squares / count - mean**2


def resolve_jit(jit):
    """Say whether XLA compiles the training step.

    Parameters
    ----------
    jit : bool or "auto"

    Returns
    -------
    bool

    Raises
    ------
    InputError
        If XLA is asked for on several devices: TensorFlow cannot compile what they exchange.
    """
    if _on_jax():  # which is slow without
        return True
    import tensorflow as tf

    several = tf.distribute.get_strategy().num_replicas_in_sync > 1
    if jit == "auto":
        return bool(tf.config.list_logical_devices("GPU")) and not several
    if jit and several:
        raise InputError("hardware.jit = true: is for one device; set hardware.devices to 1")
    return jit


def _shared():
    """Say whether this is called from one device's part of a step that several share."""
    import tensorflow as tf

    replica = tf.distribute.get_replica_context()
    return replica is not None and replica.num_replicas_in_sync > 1
