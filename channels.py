"""What a network is shown of a slice: itself, its neighbours, and all of them mirrored.

Shape letters: H, W pixels of a slice, C channels.
"""

import numpy as np


def count_channels(neighbours, mirror):
    """Return C, the number of images that `as_channels` lays behind each other."""
    return (2 * neighbours + 1) * (1 + mirror)


def as_channels(images, mirror):
    """Lay a slice and its neighbours behind each other.

    Parameters
    ----------
    images : sequence of ndarray, shape (H, W)
        From below upwards; the slice itself is in the middle.
    mirror : bool
        Add all of them once more with left and right exchanged: a stroke is mostly on one side.

    Returns
    -------
    ndarray, shape (H, W, C)
    """
    channels = np.stack(images, -1)
    return np.concatenate([channels, channels[:, ::-1]], -1) if mirror else channels
