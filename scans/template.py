"""nilearn's MNI152 template at 1 mm, on the grid of ATLAS v2.0."""

import math
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import cv2
import nibabel
import numpy as np
from nibabel.affines import from_matvec

SHAPE = (197, 233, 189)
AFFINE = from_matvec(np.eye(3), (-98, -134, -72))  # from voxel indices to mm
# Beyond the template's brain this much is kept as well: no two brains have one shape.
MARGIN_MM = 6


class Template(NamedTuple):
    """The template's voxels, float32 (X, Y, Z), and where its brain is, bool."""

    voxels: np.ndarray
    brain: np.ndarray


@cache
def load_template():
    """Load the template: the head is taken off already, and all that is not 0 is brain."""
    # nilearn.datasets.load_mni152_template reads this file, but its import takes two seconds.
    nilearn = Path(find_spec("nilearn").origin).parent
    file = nilearn / "datasets" / "data" / "mni_icbm152_t1_tal_nlin_sym_09a_converted.nii.gz"
    voxels = np.asfortranarray(nibabel.load(file).dataobj).astype(np.float32)
    voxels /= voxels.max()
    return Template(voxels, voxels > 0)


@cache
def brain_and_margin():
    """Return what lies in the template's brain or within `MARGIN_MM` of it, bool (X, Y, Z)."""
    planes = load_template().brain.T.view(np.uint8)  # (Z, Y, X)
    near = np.zeros_like(planes)
    # A ball of voxels, disc by disc: several times as fast as the distance of every voxel.
    for height in range(-MARGIN_MM, MARGIN_MM + 1):
        radius = math.isqrt(MARGIN_MM**2 - height**2)
        y, x = np.ogrid[-radius : radius + 1, -radius : radius + 1]
        disc = (x**2 + y**2 + height**2 <= MARGIN_MM**2).astype(np.uint8)
        for z in range(max(0, -height), min(len(planes), len(planes) - height)):
            near[z + height] |= cv2.dilate(planes[z], disc)
    return near.T.view(bool)


def is_on_template(shape, affine):
    """Say whether a grid is the template's, as that of ATLAS v2.0 is."""
    return shape == SHAPE and np.allclose(affine, AFFINE, atol=1e-3)
