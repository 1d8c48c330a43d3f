"""What a network sees of a scan: its own grid or the template's, the head or the brain alone."""

from dataclasses import dataclass, replace

import nibabel
import numpy as np

from scans.alignment import Alignment, align
from scans.resampling import coordinates, resample
from scans.template import AFFINE, SHAPE, brain_and_margin, is_on_template
from scans.volumes import Volume
from system.files import InputError


@dataclass(frozen=True)
class Seen:
    """A scan as a network sees it, and the way there and back.

    `scan` is on its own grid, `volume` on the one that axial slices are cut from. Their grids are
    one where `alignment` is None. With `brain_alone`, what is not brain or near it is 0.
    """

    scan: Volume
    volume: Volume
    alignment: Alignment | None
    brain_alone: bool = False

    def bring(self, voxels):
        """Bring voxels from the grid of the scan to that of the network."""
        if self.alignment is None:
            return voxels
        return resample(voxels, AFFINE @ self.to_seen, SHAPE, AFFINE)

    def bring_back(self, voxels):
        """Bring voxels from the grid of the network back to that of the scan."""
        if self.alignment is None:
            return voxels
        return resample(voxels, AFFINE, self.scan.voxels.shape, AFFINE @ self.to_seen)

    @property
    def to_seen(self):
        """The matrix from voxels of the scan to voxels of the network's grid."""
        return matrix_to_seen(self.scan.affine, self.alignment)


def look_at(scan, geometry, alignment=None):
    """Return what a network sees of a scan, a `Volume`, by the settings of section ``geometry``.

    Of a scan that was aligned before, its `alignment` is taken.

    Raises
    ------
    InputError
        If it cannot be aligned, or nothing of it would be seen.
    """
    if geometry.align == "none":
        return Seen(scan, scan, None)
    if is_on_template(scan.voxels.shape, scan.affine):
        seen = Seen(scan, scan, None)
    else:
        aligned = Seen(scan, scan, alignment or align(scan))
        voxels = aligned.bring(scan.voxels)
        seen = replace(aligned, volume=replace(scan, voxels=voxels, affine=AFFINE))
    if geometry.brain == "template":
        voxels = seen.volume.voxels
        brain = np.where(brain_and_margin(), voxels, voxels.dtype.type(0))
        seen = replace(seen, volume=replace(seen.volume, voxels=brain), brain_alone=True)
    if not seen.volume.voxels.any():
        raise InputError(
            "is 0 wherever the template has its brain, so nothing can be seen; repair its header"
        )
    return seen


def matrix_to_seen(affine, alignment):
    """Return the matrix from voxels of a scan, with their affine, to voxels of the network's grid."""
    if alignment is None:
        return np.eye(4)
    return np.linalg.inv(alignment.to_scan @ AFFINE) @ affine


def depth_seen(volume, alignment):
    """Return the number of axial slices that a network sees of a scan, and their distance in mm."""
    if alignment is None:
        return volume.voxels.shape[2], float(volume.spacing_mm[2])
    return SHAPE[2], 1.0


def places_seen(where, volume, alignment):
    """Say where on the network's grid the marked voxels of a scan's mask lie: float, (n, 3)."""
    marked = np.argwhere(where.T)[:, ::-1]  # in the order of memory, the quickest to walk
    return nibabel.affines.apply_affine(matrix_to_seen(volume.affine, alignment), marked)


def in_kept_slices(volume, alignment, left_out):
    """Say which voxels of a scan lie in other slices than the first and the last `left_out`.

    Returns bool, which broadcasts to (X, Y, Z).
    """
    depth, _ = depth_seen(volume, alignment)
    height = coordinates(matrix_to_seen(volume.affine, alignment)[2], volume.voxels.shape)
    return (height > left_out - 0.5) & (height <= depth - left_out - 0.5)
