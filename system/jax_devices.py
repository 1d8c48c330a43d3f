"""JAX's devices: those of all processes share each batch, as one process for each GPU."""

import atexit
import contextlib
import itertools
import os
import shutil
import sys
import tempfile
from pathlib import Path

import jax
import keras
from jax.experimental.multihost_utils import sync_global_devices

from system.files import InputError
from system.single_device import device_number as device_number
from system.single_device import feed as feed
from system.single_device import moments_over_devices as moments_over_devices
from system.single_device import sum_over_devices as sum_over_devices


def start():
    """Start JAX, together with the other processes of this run if there are any; name the devices.

    The processes find each other under Slurm's ``srun``, or by KERAS_DISTRIBUTION_JOB_ADDRESSES,
    _NUM_PROCESSES and _PROCESS_ID. To be called before anything is computed.
    """
    # A float64 count would be float32, which stops at 2²⁴ pixels; the network stays in float32.
    jax.config.update("jax_enable_x64", True)
    started_by_srun = int(os.environ.get("SLURM_STEP_NUM_TASKS", 1)) > 1
    if started_by_srun or "KERAS_DISTRIBUTION_JOB_ADDRESSES" in os.environ:
        # Without a seed Keras has the processes agree on one, on their CPUs. The stage sets its own.
        keras.utils.set_random_seed(0)
        keras.distribution.initialize()
    if jax.process_index() > 0:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    processes = f" of {jax.process_count()} processes" if jax.process_count() > 1 else ""
    return f"{jax.device_count()} {jax.default_backend().upper()}{processes}, JAX {jax.__version__}"


def devices_of_processes():
    """List the names of the devices of each process."""
    return [
        [f"{device.platform}:{device.id}" for device in devices]
        for _, devices in itertools.groupby(jax.devices(), lambda device: device.process_index)
    ]


def share_batches(names):
    """Have these devices share each batch; a single one is what JAX uses by itself."""
    keras.distribution.set_distribution(
        keras.distribution.DataParallel(devices=names, auto_shard_dataset=False)
        if len(names) > 1
        else None
    )


def shard_of_batch():
    """Return a function from the size of a batch to the range of images that this process reads.

    Numbers beyond the size stand for images that only fill the shard (`losses.NO_IMAGE`): all
    devices get equally many.
    """
    # Read here: Keras keeps it for this thread alone.
    distribution = keras.distribution.distribution()
    if distribution is None:
        return range
    count, processes = distribution.device_mesh.devices.size, jax.process_count()

    def shard(size):
        length = -(-size // count) * count // processes
        return range(length * jax.process_index(), length * (jax.process_index() + 1))

    return shard


def check_last_batches(training, validation):
    """Refuse a last training batch that the devices cannot share equally.

    Images that only fill a shard would count in batch normalisation.
    """
    distribution = keras.distribution.distribution()
    count = distribution.device_mesh.devices.size if distribution else 1
    if training % count:
        raise InputError(
            f"hardware.devices = {count}: cannot share the last batch of an epoch, {training} "
            f"slices, equally; set slices.per_epoch to a multiple of {count}"
        )


@contextlib.contextmanager
def in_turns(folder):
    """Let the first process through this block, then the others; all leave it together.

    It gets `folder` itself, the others a copy that is thrown away: the first process alone writes.
    """
    folder = Path(folder)
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


def free_memory():
    """Return how many bytes the GPU has left; 0 without one."""
    device = jax.local_devices()[0]
    if device.platform == "cpu":
        return 0
    known = device.memory_stats() or {}
    return known.get("bytes_limit", 0) - known.get("bytes_in_use", 0)


def compiled(function):
    """Compile a function of arrays for the device."""
    return jax.jit(function)


def resolve_jit(jit):
    """Always compile: JAX is slow without."""
    return True
