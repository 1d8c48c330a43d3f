"""What a file of weights holds, read by layer name. Needs no Keras."""

from pathlib import Path

import h5py
import numpy as np

from system.files import InputError


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
