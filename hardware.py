"""The devices that a run trains on, and the precision it computes in.

More than one GPU of a machine share each batch (TensorFlow's MirroredStrategy): every device has
all weights and a part of the images. The loss is that of the whole batch, so that the number of
devices does not change what is learnt, but for batch normalisation, which normalises by the images
of its own device.
"""

import keras

from files import InputError


def use_hardware(devices, precision, batch_size):
    """Choose devices and precision of all networks that this process builds from now on.

    Parameters
    ----------
    devices : int or "all"
        GPUs, "all": as many as can share a batch; where there is none, the CPU is the one device.
    precision : {"float32", "mixed_float16", "mixed_bfloat16"}
        Mixed: convolutions in 16 bits, while weights, loss and figures stay in 32.
    batch_size : int
        Images that the devices share; they need equal parts, but for the last batch of an epoch.

    Raises
    ------
    InputError
        If the machine has fewer devices, they cannot share a batch, or Keras does not run on
        TensorFlow.
    """
    if keras.backend.backend() != "tensorflow":
        # On JAX pixels are counted in float32, which stops at 2²⁴.
        raise InputError(
            f"KERAS_BACKEND = {keras.backend.backend()}: the stages train on tensorflow; unset it"
        )
    keras.config.set_dtype_policy(precision)
    import tensorflow as tf

    names = [
        device.name
        for device in tf.config.list_logical_devices("GPU") or tf.config.list_logical_devices("CPU")
    ]
    if devices == "all":
        count = max(n for n in range(1, len(names) + 1) if batch_size % n == 0)
    else:
        count = devices
    if count > len(names):
        raise InputError(f"hardware.devices = {count}: this machine has {len(names)} to train on")
    if batch_size % count:
        raise InputError(
            f"hardware.devices = {count}: cannot share a batch of {batch_size} equally; choose a "
            "batch_size that they divide, or fewer devices"
        )
    # None: back to the one device that TensorFlow uses by itself.
    tf.distribute.experimental_set_strategy(
        tf.distribute.MirroredStrategy(names[:count]) if count > 1 else None
    )
    if count > 1:
        print(f"each batch is shared by {count} devices")


def check_parts(sizes):
    """Refuse batches of which a device would get no image: TensorFlow's layers fail on nothing.

    Parameters
    ----------
    sizes : iterable of int
        Images in each batch, of all devices together.

    Raises
    ------
    InputError
        If a batch is too small; names it.
    """
    import tensorflow as tf

    count = tf.distribute.get_strategy().num_replicas_in_sync
    for size in sizes:
        largest_part = -(-size // count)
        if -(-size // largest_part) < count:
            raise InputError(
                f"hardware.devices = {count}: the last batch of an epoch has {size} slices, too "
                "few for each device; choose another batch_size or slices.per_epoch, or fewer "
                "devices"
            )


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
