"""A scan's voxels: read and checked, on one side and one intensity scale, as slices and back.

Arrays are in RAS orientation: X to the right, Y to the front, Z to the top of the head.
Shape letters: X, Y, Z voxels of a volume; H, W pixels of an image.
"""

from dataclasses import dataclass
from pathlib import Path

import nibabel
import numpy as np

from files import InputError
from nifti import load_as_promised, reading


@dataclass(frozen=True)
class Volume:
    """A scan's voxels in RAS orientation, and what brings them back to the file's own grid.

    Attributes
    ----------
    voxels : ndarray, shape (X, Y, Z)
    affine : ndarray, shape (4, 4)
        Voxel index of `voxels` to mm in RAS+ world space.
    original : nibabel.Nifti1Image
        The image as stored.
    """

    voxels: np.ndarray
    affine: np.ndarray
    original: nibabel.Nifti1Image

    @property
    def spacing_mm(self):
        return nibabel.affines.voxel_sizes(self.affine)


def load_volume(path):
    """Read a T1-weighted image, in RAS orientation.

    Parameters
    ----------
    path : path-like
        A NIfTI file, 3D, or 4D with a single volume.

    Returns
    -------
    Volume
        Its voxels are float32, shape (X, Y, Z).

    Raises
    ------
    InputError
        If the file is unreadable, not one 3D volume, holds NaN, infinite or absurd values, or is
        the same value everywhere.
    """
    volume = read_voxels(path)
    if not np.isfinite(volume.voxels).all():
        count = np.count_nonzero(~np.isfinite(volume.voxels))
        raise InputError(
            f"{path}: {count} voxels are NaN or infinite; repair or leave out the scan"
        )
    low, high = float(volume.voxels.min()), float(volume.voxels.max())
    if max(-low, high) > 1e30:
        # Sums and differences of such values are infinite in float32.
        raise InputError(
            f"{path}: voxels from {low:g} to {high:g} are no image; repair or leave out the scan"
        )
    if low == high:
        raise InputError(f"{path}: every voxel is {low:g}, there is no image in it; leave it out")
    return volume


def load_mask(path, labels, image):
    """Read the mask of an image, as 0 and 1 in RAS orientation.

    Parameters
    ----------
    path : path-like
    labels : list of int or None
        Values that count as lesion. None: the mask must be binary, 0/1 or 0/255 (a deviation of
        0.01 from rounding is allowed).
    image : Volume
        The image it belongs to; shape and affine must be the same (to 1 mm/1000).

    Returns
    -------
    ndarray, uint8, shape (X, Y, Z)

    Raises
    ------
    InputError
        If the file is unreadable, lies on another grid, or holds values that are not expected.
    """
    mask = read_voxels(path)
    if mask.voxels.shape != image.voxels.shape:
        shapes = " but ".join("×".join(map(str, v.voxels.shape)) for v in (mask, image))
        raise InputError(
            f"{path}: the mask is {shapes} voxels in its image; they must be the same; resample it"
        )
    if not np.allclose(mask.affine, image.affine, atol=1e-3):
        raise InputError(
            f"{path}: affine differs from its image's, the mask lies elsewhere in space; "
            "draw or resample it on the image's grid"
        )
    if labels is not None:
        values = np.unique(mask.voxels)
        odd = values[~np.isfinite(values) | (values != np.round(values))]
        if odd.size:
            raise InputError(
                f"{path}: has values that are no labels, as {odd[0]:g}; repair the mask"
            )
        return np.isin(mask.voxels, labels).astype(np.uint8)
    top = mask.voxels.max()
    scale = 255 if top > 1.01 else 1
    lesion = (mask.voxels > scale / 2).astype(np.uint8)
    pairs = zip(mask.voxels.T, lesion.T, strict=True)  # plane by plane, as in `scale_intensity`
    # Written so that NaN, which is not less than anything, is refused.
    if not all(np.abs(plane - marked * np.float32(scale)).max() <= 0.01 for plane, marked in pairs):
        values = np.unique(mask.voxels)
        shown = ", ".join(f"{value:g}" for value in values[:6])
        raise InputError(
            f"{path}: mask values are {shown}; it must be binary, 0/1 or 0/255; repair it"
        )
    return lesion


def scale_intensity(voxels):
    """Bring an image of any scanner to 8 bit, the one scale of every data set and of prediction.

    Non-zero voxels are clipped to their 0.5 and 99.5 percentile, which map to 1 and 255; voxels
    that are exactly 0 (outside a skull-stripped head) stay 0.

    Parameters
    ----------
    voxels : ndarray, float32, shape (X, Y, Z)

    Returns
    -------
    scaled : ndarray, uint8, shape (X, Y, Z)
    mean, std : float
        Of the non-zero voxels of `scaled`, for `standardise`.
    """
    flat = voxels.ravel("K")  # in the order of memory, the quickest to walk
    low, high = np.percentile(flat[flat != 0], (0.5, 99.5), overwrite_input=True)
    span = float(high - low) or 1.0
    # A span of nothing but rounding, 1e-40, would make the factor infinite.
    gain = np.float32(min(254 / span, 1e30))
    scaled, counts = np.empty_like(voxels, np.uint8), np.zeros(256, np.int64)
    # A plane at a time, so that what lies between the steps stays in the processor's cache.
    for plane, result in zip(voxels.T, scaled.T, strict=True):
        grey = np.round((np.clip(plane, low, high) - low) * gain + 1)
        result[:] = np.where(plane != 0, grey, 0)
        counts += np.bincount(result.ravel(), minlength=256)
    values, counts = np.arange(1, 256), counts[1:]
    mean = np.average(values, weights=counts)
    std = np.sqrt(np.average((values - mean) ** 2, weights=counts))
    return scaled, float(mean), float(max(std, 1.0))


def standardise(image, mean, std):
    """Give an 8-bit image its volume's zero mean and unit standard deviation, as float32."""
    return (image.astype(np.float32) - np.float32(mean)) * np.float32(1 / std)


def volume_to_slices(voxels, size):
    """Cut a volume into axial slices, each in the middle of a square.

    The front of the head is at the top of the picture and its left is on the left (neurological
    convention), so that a left-right flip of the head is a flip along W.

    Parameters
    ----------
    voxels : ndarray, shape (X, Y, Z)
    size : int
        Side of the square, H = W, in pixels.

    Returns
    -------
    ndarray, shape (Z, H, W)
        Filled with 0 around the slice.

    Raises
    ------
    InputError
        If a slice is larger than the square.
    """
    width, height, depth = voxels.shape
    if max(width, height) > size:
        fitting = -(-max(width, height) // 16) * 16
        raise InputError(
            f"axial slices are {width}×{height} voxels, larger than slices.size = {size}; "
            f"set slices.size to {fitting}"
        )
    top, left = (size - height) // 2, (size - width) // 2
    stack = np.zeros((depth, size, size), voxels.dtype)
    stack[:, top : top + height, left : left + width] = voxels.transpose(2, 1, 0)[:, ::-1]
    return stack


def slices_to_volume(stack, shape):
    """Undo `volume_to_slices`.

    Parameters
    ----------
    stack : ndarray, shape (Z, H, W)
    shape : tuple of int
        (X, Y, Z) of the volume.

    Returns
    -------
    ndarray, shape (X, Y, Z)
    """
    width, height, _ = shape
    top, left = (stack.shape[1] - height) // 2, (stack.shape[2] - width) // 2
    inside = stack[:, top : top + height, left : left + width]
    return np.ascontiguousarray(inside[:, ::-1].transpose(2, 1, 0))


def to_original_grid(voxels, volume):
    """Turn RAS voxels back into the file's own axis order, with its affine and header.

    Parameters
    ----------
    voxels : ndarray, shape (X, Y, Z)
        On the grid of `volume.voxels`.
    volume : Volume

    Returns
    -------
    nibabel.Nifti1Image
        Same shape and affine as `volume.original`, in the type of `voxels`.
    """
    stored = nibabel.orientations.io_orientation(volume.original.affine)
    back = nibabel.orientations.ornt_transform(nibabel.orientations.axcodes2ornt("RAS"), stored)
    data = nibabel.orientations.apply_orientation(voxels, back)
    header = volume.original.header.copy()
    header.set_data_dtype(voxels.dtype)
    header.set_slope_inter(1, 0)
    # NIfTI-1 or NIfTI-2, as the file is.
    kind = type(volume.original)
    image = kind(data.reshape(volume.original.shape), volume.original.affine, header)
    image.header["cal_max"] = 0
    image.header["cal_min"] = 0
    return image


def read_voxels(path):
    """Read any NIfTI file, image or mask, as it is, in RAS orientation.

    Parameters
    ----------
    path : path-like

    Returns
    -------
    Volume
        Its voxels are float32, shape (X, Y, Z).

    Raises
    ------
    InputError
        For every way in which a file can be broken, or be no 3D volume.
    """
    path = Path(path)
    with reading(path):
        original = load_as_promised(path)
        shape = original.shape[:3]
        stored = np.asarray(original.dataobj, dtype=np.float32).reshape(shape)
        affine = original.affine
        sides_mm = nibabel.affines.voxel_sizes(affine)
        in_range = (sides_mm > 1e-3) & (sides_mm < 1e3)
        # Of a brick it is 1; where its sides nearly fall together there is no telling them apart.
        openness = abs(np.linalg.det(affine)) / sides_mm.prod()
        if not (in_range.all() and openness > 0.1):
            raise InputError(f"{path}: its affine is not usable; repair the header")
        canonical = nibabel.as_closest_canonical(nibabel.Nifti1Image(stored, affine))
        return Volume(np.asarray(canonical.dataobj), canonical.affine, original)
