"""The devices that a run trains on, and the precision it computes in.

Several devices share each batch: each has all weights and a share of the images. On TensorFlow they
are the GPUs of one machine, on JAX also those of several processes on several machines; PyTorch has
one. The loss is that of the whole batch, so the number of devices does not change what is learnt;
only TensorFlow's batch normalisation takes the images of each device by themselves.
"""

from importlib import import_module

import keras

from system.files import InputError

backend = import_module(f"system.{keras.backend.backend()}_devices")
# What depends on the backend; `system.tensorflow_devices` describes each.
check_last_batches = backend.check_last_batches
compiled = backend.compiled
device_number = backend.device_number
feed = backend.feed
free_memory = backend.free_memory
in_turns = backend.in_turns
moments_over_devices = backend.moments_over_devices
resolve_jit = backend.resolve_jit
shard_of_batch = backend.shard_of_batch
sum_over_devices = backend.sum_over_devices


def use_hardware(devices, precision, batch_size):
    """Choose devices and precision of all networks that this process builds from now on.

    `devices` counts the GPUs of all processes together, equally many of each; "all" are as many as
    can share a batch equally. Where there is none, the CPU is the one device of a process.

    Raises
    ------
    InputError
        If there are fewer devices, or they cannot share a batch.
    """
    keras.config.set_dtype_policy(precision)
    available = backend.devices_of_processes()
    processes, each = len(available), min(map(len, available))
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
            f"hardware.devices = {count}: {processes} processes cannot have equally many; choose a "
            "multiple, or all"
        )
    if batch_size % count:
        raise InputError(
            f"hardware.devices = {count}: cannot share a batch of {batch_size} equally; choose a "
            "batch_size that they divide, or fewer devices"
        )
    backend.share_batches([name for names in available for name in names[: count // processes]])
    if count > 1:
        print(f"each batch is shared by {count} devices")
