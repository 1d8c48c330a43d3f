"""Voxels brought from one grid to another."""

import nibabel
import numpy as np
from scipy.ndimage import affine_transform
from skimage.measure import block_reduce


def resample(voxels, affine, shape, new_affine):
    """Bring voxels to another grid: float32, linear, averaged where the new voxels are larger.

    `affine` and `new_affine` lead from voxel indices to mm of one space. What lies outside the old
    voxels is 0.
    """
    old_mm, new_mm = (nibabel.affines.voxel_sizes(a) for a in (affine, new_affine))
    voxels, affine = coarsen(voxels, affine, new_mm.min())
    # A thick slice is the mean of what lies in it.
    parts = np.maximum(np.round(new_mm / max(old_mm.max(), 1)).astype(int), 1)
    fine_affine = new_affine @ nibabel.affines.from_matvec(np.diag(1 / parts), (1 / parts - 1) / 2)
    fine = interpolate(voxels, np.linalg.inv(affine) @ fine_affine, np.array(shape) * parts)
    return _block_means(fine, parts)


def coarsen(voxels, affine, mm):
    """Average whole blocks of voxels where they are at most half of `mm`; the affine fits."""
    # Real grids have 0.4998 mm.
    factors = np.maximum((mm / nibabel.affines.voxel_sizes(affine) + 0.01).astype(int), 1)
    factors = np.minimum(factors, voxels.shape)
    kept = tuple(slice(n - n % f) for n, f in zip(voxels.shape, factors, strict=True))
    grid = affine @ nibabel.affines.from_matvec(np.diag(factors.astype(float)), (factors - 1) / 2)
    return _block_means(voxels[kept], factors), grid


def interpolate(voxels, to_voxel, shape):
    """Interpolate linearly at the voxels of a new grid; `to_voxel` leads from new to old indices."""
    sampled = np.empty(tuple(shape), np.float32, order="F")
    # Turned about, both are in the order in which scipy walks.
    planes, turned = sampled.T, to_voxel[2::-1, 2::-1]
    affine_transform(voxels.T, turned, to_voxel[2::-1, 3], planes.shape, planes, 1, "nearest")
    # The outer half of the outermost voxels counts, too: 3 mm of a thick slice.
    for row, size in zip(to_voxel, voxels.shape, strict=False):
        place = coordinates(row, shape)
        sampled *= (place >= -0.5) & (place <= size - 0.5)
    return sampled


def coordinates(row, shape):
    """Apply one row of a 4×4 matrix to all voxel indices of a grid: float32, broadcast to (X, Y, Z)."""
    place = np.full((1, 1, 1), row[3], np.float32)
    # A coefficient of 0 leaves its axis out: grids that are parallel need one number a plane.
    for axis in np.flatnonzero(row[:3]):
        index = np.arange(shape[axis], dtype=np.float32)
        place = place + np.float32(row[axis]) * index.reshape(np.roll((-1, 1, 1), axis))
    return place


def _block_means(voxels, factors):
    if (factors == 1).all():
        return voxels
    return block_reduce(voxels, tuple(factors), np.mean, func_kwargs={"dtype": np.float32})
