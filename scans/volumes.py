"""A scan's voxels: read and checked, cut into slices, and brought back to the file's own grid.

Arrays are in RAS orientation: X to the right, Y to the front, Z to the top of the head.
Shape letters: X, Y, Z voxels of a volume; H, W pixels of an image.
"""

from dataclasses import dataclass, replace
from functools import cached_property, reduce
from pathlib import Path

import nibabel
import numpy as np
from nibabel.orientations import (
    apply_orientation,
    axcodes2ornt,
    inv_ornt_aff,
    io_orientation,
    ornt_transform,
)
from scipy.ndimage import binary_fill_holes

from scans.intensity import scale_intensity
from scans.nifti import is_scaled, open_nifti, reading
from system.files import InputError

NO_ORIENTATION = (
    "no orientation in its header (qform_code and sform_code are 0): left and right cannot be told"
)
TWO_ORIENTATIONS = "qform and sform differ by more than 1 mm; the sform was taken"


@dataclass(frozen=True)
class Volume:
    """A scan's voxels in RAS orientation, and what brings them back to the file's own grid.

    Attributes
    ----------
    voxels : ndarray, shape (X, Y, Z)
        Integers of 8 or 16 bit as the file has them, unless it scales them; else float32.
    affine : ndarray, shape (4, 4)
        Voxel index of `voxels` to mm in RAS+ world space.
    header : nibabel.Nifti1Header
        That of the file, as stored.
    warnings : tuple of str
        What its header or its voxels leave in doubt.
    """

    voxels: np.ndarray
    affine: np.ndarray
    header: nibabel.Nifti1Header
    warnings: tuple[str, ...] = ()

    @property
    def spacing_mm(self):
        return nibabel.affines.voxel_sizes(self.affine)

    @cached_property
    def scaled(self):
        """What `scans.intensity.scale_intensity` gives: the 8-bit image, its mean and its SD."""
        return scale_intensity(self.voxels)


def load_volume(path):
    """Read a T1-weighted image, 3D or 4D with a single volume, in RAS orientation.

    Raises
    ------
    InputError
        If the file is unreadable, not one 3D volume, holds NaN in the head, infinite or absurd
        values, or is the same value everywhere.
    """
    volume = _without_nan_background(read_voxels(path))
    low, high = float(volume.voxels.min()), float(volume.voxels.max())
    # One NaN among the voxels makes the minimum and the maximum NaN.
    if not np.isfinite([low, high]).all():
        count = np.count_nonzero(~np.isfinite(volume.voxels))
        raise InputError(
            f"{path}: {count} voxels are NaN or infinite; repair or leave out the scan"
        )
    if max(-low, high) > 1e30:
        # In float32 the sums of such values are infinite.
        raise InputError(
            f"{path}: voxels from {low:g} to {high:g} are no image; repair or leave out the scan"
        )
    if low == high:
        raise InputError(f"{path}: every voxel is {low:g}, there is no image in it; leave it out")
    return volume


def _without_nan_background(volume):
    """Set to 0 the NaN that SPM and others write outside the head; NaN in the head stays."""
    if volume.voxels.dtype.kind != "f" or not (nan := np.isnan(volume.voxels)).any():
        return volume
    head = np.count_nonzero(~nan)
    inside = np.count_nonzero(nan & binary_fill_holes(~nan))
    # Gaps between the folds at the edge of a brain may be closed off from the outside.
    if inside > 1e-3 * min(head, np.count_nonzero(nan)):
        return volume
    warnings = (*volume.warnings, "NaN outside the head was taken as background")
    return replace(volume, voxels=np.where(nan, np.float32(0), volume.voxels), warnings=warnings)


def load_mask(path, labels, image):
    """Read a lesion mask, uint8 (X, Y, Z), on the grid of its image, a `Volume`.

    With `labels` the lesion is where the mask has one of these values; without, the mask must be
    binary, 0/1 or 0/255 (a deviation of 0.01 from rounding is allowed).

    Raises
    ------
    InputError
        If the file is unreadable, lies on another grid (by more than mm/1000), or holds other
        values.
    """
    mask = read_voxels(path)
    if mask.voxels.shape != image.voxels.shape:
        own, wanted = ("×".join(map(str, v.voxels.shape)) for v in (mask, image))
        raise InputError(
            f"{path}: the mask has {own} voxels and its image {wanted} (to the right, front and top); "
            "resample the mask to the image's grid"
        )
    if not np.allclose(mask.affine, image.affine, atol=1e-3):
        if NO_ORIENTATION in (*mask.warnings, *image.warnings):
            raise InputError(
                f"{path}: only one of mask and image has an orientation in its header, so left and "
                "right cannot be told; copy the right header to both"
            )
        raise InputError(
            f"{path}: affine differs from its image's, the mask lies elsewhere in space; "
            "draw or resample it on the image's grid"
        )
    planes = mask.voxels.T  # (Z, Y, X): in the order of memory, the quickest to walk
    lesion = planes != 0
    # Little of a mask is not 0: only that is looked at.
    marked = planes[lesion].astype(np.float32)
    if labels is not None:
        values = np.unique(marked)
        odd = values[~np.isfinite(values) | (values != np.round(values))]
        if odd.size:
            raise InputError(
                f"{path}: has values that are no labels, as {odd[0]:g}; repair the mask"
            )
        lesion[lesion] = np.isin(marked, labels)
    else:
        scale = 255 if marked.max(initial=0) > 1.01 else 1
        inside = marked > scale / 2
        finite = np.isfinite(marked).all()
        if not finite or np.abs(marked - inside * np.float32(scale)).max(initial=0) > 0.01:
            shown = ", ".join(f"{value:g}" for value in np.unique(planes)[:6])
            raise InputError(
                f"{path}: mask values are {shown}; it must be binary, 0/1 or 0/255; repair it"
            )
        lesion[lesion] = inside
    return lesion.T.view(np.uint8)


def load_lesion(masks, labels, image):
    """Read the masks of an image, a `Volume`; the lesion is their union (see `load_mask`)."""
    return reduce(np.bitwise_or, (load_mask(mask, labels, image) for mask in masks))


def volume_to_slices(voxels, size):
    """Cut a volume, (X, Y, Z), into axial slices, (Z, size, size), each in the middle of a square.

    The front of the head is at the top of the picture and its left is on the left (neurological
    convention), so that a left-right flip of the head is a flip along W.

    Raises
    ------
    InputError
        If a slice is larger than the square.
    """
    width, height, depth = voxels.shape
    if max(width, height) > size:
        fitting = -(-max(width, height) // 128) * 128  # for any network
        raise InputError(
            f"axial slices are {width}×{height} voxels, larger than slices.size = {size}; "
            f"set slices.size to {fitting}"
        )
    top, left = (size - height) // 2, (size - width) // 2
    stack = np.zeros((depth, size, size), voxels.dtype)
    stack[:, top : top + height, left : left + width] = voxels.transpose(2, 1, 0)[:, ::-1]
    return stack


def slices_to_volume(stack, shape):
    """Undo `volume_to_slices`: from (Z, H, W) to a volume of shape (X, Y, Z)."""
    width, height, _ = shape
    top, left = (stack.shape[1] - height) // 2, (stack.shape[2] - width) // 2
    inside = stack[:, top : top + height, left : left + width]
    # In the order of memory of the slices: turning it as well takes ten times as long.
    return np.asfortranarray(inside[:, ::-1].transpose(2, 1, 0))


def to_original_grid(voxels, volume):
    """Turn voxels on the grid of `volume.voxels` into an image on the file's own grid.

    It has the shape, the affine and the header of the file, and the type of `voxels`.
    """
    header = volume.header.copy()
    affine = header.get_best_affine()
    data = _in_stored_order(voxels, affine).reshape(header.get_data_shape())
    header.set_data_dtype(voxels.dtype)
    header.set_slope_inter(1, 0)
    # NIfTI-1 or NIfTI-2, as the file is.
    is_nifti2 = isinstance(header, nibabel.Nifti2Header)
    image = (nibabel.Nifti2Image if is_nifti2 else nibabel.Nifti1Image)(data, affine, header)
    image.header["cal_max"] = 0
    image.header["cal_min"] = 0
    return image


def read_voxels(path):
    """Read any NIfTI file, image or mask, in RAS orientation, or raise an `InputError`."""
    path = Path(path)
    with reading(path):
        voxels, header, largest = _read(path, np.float32)
        # Too small for float32: there its values would run together.
        if 0 < largest < 1e-30:
            voxels, header, _ = _read(path, np.float64)
        affine, shape = header.get_best_affine(), header.get_data_shape()[:3]
        affine = affine @ inv_ornt_aff(io_orientation(affine), shape)
        return Volume(voxels, affine, header, _doubts_of_orientation(path, header))


def _read(path, kind):
    """Return voxels in RAS orientation, the header, and the largest of floats of 64 bit or more.

    Unscaled integers of 8 or 16 bit stay such; all else becomes `kind`.
    """
    largest = 0.0
    with open_nifti(path) as (header, planes):
        affine, dtype = header.get_best_affine(), header.get_data_dtype()
        _check_affine(path, affine)
        small = dtype.kind in "iu" and dtype.itemsize <= 2 and not is_scaled(header)
        shape = np.array(header.get_data_shape()[:3])
        shape = shape[np.argsort(io_orientation(affine)[:, 0])]
        # In one order of memory, however the file is turned: axial planes that lie whole.
        voxels = np.empty(shape, dtype.newbyteorder("=") if small else kind, order="F")
        stored, place = _in_stored_order(voxels, affine), 0
        for chunk in planes:
            stored[:, :, place : place + chunk.shape[2]] = chunk
            place += chunk.shape[2]
            if chunk.dtype.kind == "f" and chunk.dtype.itemsize > 4:
                largest = max(largest, np.fmax.reduce(np.abs(chunk), axis=None))
    return voxels, header, largest


def _in_stored_order(voxels, affine):
    """Return a view of RAS voxels with the axes of a file with this affine."""
    return apply_orientation(voxels, ornt_transform(axcodes2ornt("RAS"), io_orientation(affine)))


def _check_affine(path, affine):
    sides_mm = nibabel.affines.voxel_sizes(affine)
    in_range = (sides_mm > 1e-3) & (sides_mm < 1e3)
    # 1 for a box, near 0 where two of its axes nearly coincide.
    openness = abs(np.linalg.det(affine)) / sides_mm.prod()
    if not (in_range.all() and openness > 0.1):
        raise InputError(f"{path}: its affine is not usable; repair the header")


def _doubts_of_orientation(path, header):
    """Say what its two orientations leave in doubt; refuse what exchanges left and right."""
    coded = [int(header[code]) > 0 for code in ("qform_code", "sform_code")]
    if not any(coded):
        return (NO_ORIENTATION,)
    if not all(coded):
        return ()
    try:
        qform, sform = header.get_qform(), header.get_sform()
    except (nibabel.spatialimages.HeaderDataError, ValueError):
        # The qform is no rotation: only the sform can be meant.
        return ()
    turn = qform[:3, :3] @ np.linalg.inv(sform[:3, :3])
    if np.linalg.det(turn) < 0 or turn[0, 0] < 0:
        raise InputError(
            f"{path}: qform and sform of its header exchange left and right, so they cannot be "
            "told; find out which is right, and write it as both"
        )
    corners = np.array(list(np.ndindex(2, 2, 2))) * (np.array(header.get_data_shape()[:3]) - 1)
    by_both = (nibabel.affines.apply_affine(affine, corners) for affine in (qform, sform))
    apart_mm = np.linalg.norm(np.subtract(*by_both), axis=1).max()
    return (TWO_ORIENTATIONS,) if apart_mm > 1 else ()
