"""Weight files: written whole, read by layer name, and refused by name where they do not fit."""

import io
from pathlib import Path

import h5py
import keras
import numpy as np

from system.files import InputError, whole_file


def save_weights(model, path, optimizer=False):
    """Write a model's weights, whole or not at all, to a file that ends in ``.weights.h5``.

    With `optimizer` its state is kept too, to go on training; a file to start from has none.
    """
    if not optimizer:
        # A new model around the same layers has no optimizer.
        model = keras.Model(model.inputs, model.outputs)
    content = _Memory()
    model.save_weights(content)
    with whole_file(path) as temporary:
        temporary.write_bytes(content.getbuffer())


class _Memory(io.BytesIO):
    """Where HDF5 writes to: a failed write to a full disk would crash the whole process."""

    def __str__(self):  # Keras insists on the ending
        return "memory.weights.h5"


def load_weights(model, path, skip=()):
    """Give every layer of a model the arrays that a file holds under the layer's name.

    Keras' own `load_weights` goes by the order of the layers: a renamed or swapped layer loads
    silently into the wrong place, and a misfit leaves the model half loaded. Here all names and
    shapes are compared first, and nothing is loaded unless everything fits. Layers named in `skip`
    keep their present weights.

    Raises
    ------
    InputError
        If the file is missing or no weights file, or a layer is missing, left over, or of another
        shape; names the layer and both shapes.
    """
    stored = read_weights(path)
    wanted = {layer.name: layer for layer in model.layers if layer.weights}
    for name in skip:
        stored.pop(name, None)
        wanted.pop(name, None)
    for name, layer in wanted.items():
        shapes = [tuple(weight.shape) for weight in layer.weights]
        if name not in stored:
            raise InputError(f"{path}: has no layer {name}; it belongs to another network")
        found = [array.shape for array in stored[name]]
        if found != shapes:
            raise InputError(
                f"{path}: layer {name} has shapes {found}, the network of these settings {shapes}; "
                "use the `unet` settings that the weights were trained with"
            )
    if left_over := sorted(stored.keys() - wanted.keys()):
        raise InputError(f"{path}: layer {left_over[0]} is not in the network of these settings")
    for name, layer in wanted.items():
        layer.set_weights(stored[name])


def read_weights(path):
    """Read the arrays of each layer, by its name, from a ``.weights.h5`` file of Keras 3."""
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}: not found; run the stage that writes it first, or name another")
    try:
        with h5py.File(path) as file:
            groups = [group["vars"] for group in file["layers"].values()]
            arrays = {
                group.attrs["name"]: [_read(group[str(i)], path) for i in range(len(group))]
                for group in groups
                if len(group)
            }
    except (OSError, KeyError, ValueError, RuntimeError, AttributeError, TypeError) as error:
        reason = " ".join(str(error).split())
        raise InputError(
            f"{path}: not a whole Keras 3 .weights.h5 file ({reason}); copy it anew, or train anew"
        ) from None
    for name, layer in arrays.items():
        if not all(np.isfinite(array).all() for array in layer):
            raise InputError(f"{path}: layer {name} holds NaN or infinite weights; train anew")
    return arrays


def _read(dataset, path):
    """Read an array as Keras writes it: whole, not packed, and in the file itself."""
    if dataset.dtype.kind not in "fiu":
        raise ValueError(f"{dataset.name} is {dataset.dtype}, no numbers")
    # HDF5 lets a file show the content of any other file as its own.
    if dataset.external or dataset.is_virtual or Path(dataset.file.filename) != path:
        raise ValueError(f"{dataset.name} lies in another file")
    if dataset.nbytes > path.stat().st_size:
        raise ValueError(f"{dataset.name} promises {dataset.nbytes} bytes, more than the file has")
    return np.asarray(dataset)
