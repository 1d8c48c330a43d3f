"""Real lesion shapes, from masks of strokes in MNI space, set into heads that had none."""

import numpy as np
from scipy.ndimage import affine_transform, distance_transform_edt, gaussian_filter
from scipy.spatial.transform import Rotation

from scans.resampling import interpolate
from scans.template import AFFINE, SHAPE
from scans.volumes import read_voxels
from synthetic.heads import smooth_noise
from synthetic.lesions import Tissue
from system.files import InputError

BLACK = (0.7, 0.3)  # shares of the cavities that are as dark as CSF, and of the others
SHRUNK = 0.6  # share of the shapes that are made smaller: small lesions are the hard ones
KINDS = (0.34, 0.33, 0.33)  # shares of gliosis alone, of a cavity within it, of a cavity alone


def load_shape(path):
    """Load a mask in MNI space, of any grid, on the template's: bool (X, Y, Z).

    Raises
    ------
    InputError
        If it is unreadable, or marks nothing on the template.
    """
    mask = read_voxels(path)
    to_voxel = np.linalg.inv(mask.affine) @ AFFINE
    shape = interpolate((mask.voxels > 0).astype(np.float32), to_voxel, SHAPE) >= 0.5
    if not shape.any():
        raise InputError(f"{path}: marks nothing in MNI space; leave it out")
    return shape


def vary_shape(rng, shape):
    """Turn, stretch, shift and roughen a lesion's shape; return the box it is in now, and the shape."""
    if rng.random() < 0.5:
        shape = shape[::-1]
    marked = np.argwhere(shape)
    low, high = marked.min(axis=0), marked.max(axis=0) + 1
    margin = 6 + (high - low) // 4
    low, high = low - margin, high + margin
    shift = rng.normal(0, 3, 3).round().astype(int)
    stretch = np.exp(rng.normal(0, 0.15, 3) + rng.normal(-0.1, 0.2))
    if rng.random() < SHRUNK:
        stretch *= rng.uniform(0.3, 0.8)
    turn = Rotation.from_euler("xyz", rng.normal(0, 8, 3), degrees=True).as_matrix()
    matrix = turn / stretch
    middle = (high - low - 1) / 2
    inside = [slice(max(0, a), min(n, b)) for a, b, n in zip(low, high, shape.shape, strict=True)]
    padding = [(max(0, -a), max(0, b - n)) for a, b, n in zip(low, high, shape.shape, strict=True)]
    cut = np.pad(shape[tuple(inside)], padding).astype(np.float32)
    moved = affine_transform(cut, matrix, middle - matrix @ middle, order=1)
    rough = gaussian_filter(moved, 0.8) + 0.12 * smooth_noise(rng, moved.shape, 4)
    varied = rough * (moved > 0.02) > 0.5
    return low + shift, varied


def fit_into(low, shape, allowed):
    """Cut a shape, whose box begins at voxel `low`, to where a lesion is allowed.

    Returns the box, a tuple of slices within the volume, and what is left of the shape in it.
    """
    start = np.clip(low, 0, allowed.shape)
    stop = np.clip(low + shape.shape, start, allowed.shape)
    box = tuple(slice(a, b) for a, b in zip(start, stop, strict=True))
    within = tuple(slice(a, b) for a, b in zip(start - low, stop - low, strict=True))
    return box, shape[within] & allowed[box]


def level_of(shape):
    """Say how deep in a shape each voxel lies: 0 at its core, 1 at its edge, above 1 outside."""
    depth = distance_transform_edt(np.pad(shape, 1))[1:-1, 1:-1, 1:-1].astype(np.float32)
    return np.where(shape, 0.999 - np.minimum(depth / max(depth.max(), 1), 0.999), 3)


def draw_tissue(rng):
    """Draw what a stroke left: gliosis, from dark to faint, a cavity, most often black, or both.

    One in fifty is bright throughout.
    """
    bright = rng.random() < 0.02
    hollow = rng.choice([-1, rng.uniform(0.3, 0.9), 2], p=KINDS)
    gliosis = rng.uniform(0.3, 0.65)
    return Tissue(
        cavity=rng.choice([0, rng.uniform(0, gliosis)], p=BLACK),
        gliosis=gliosis,
        hollow=2.0 if bright else hollow,
        bright=bright,
    )
