"""Weight files: written whole, read by layer name, and refused by name where they do not fit."""

import io

import keras

from system.files import InputError, whole_file
from training.stored_weights import read_weights


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


def load_weights(model, path):
    """Give every layer of a model the arrays that a file holds under the layer's name.

    Keras' own `load_weights` goes by the order of the layers: a renamed or swapped layer loads
    silently into the wrong place, and a misfit leaves the model half loaded. Here all names and
    shapes are compared first, and nothing is loaded unless everything fits.

    Raises
    ------
    InputError
        If the file is missing or no weights file, or a layer is missing, left over, or of another
        shape; names the layer and both shapes.
    """
    stored = read_weights(path)
    wanted = {layer.name: layer for layer in model.layers if layer.weights}
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
