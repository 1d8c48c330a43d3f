"""From weights and a scan to the probability of lesion in each of its voxels."""

import nibabel
import numpy as np
from nibabel.processing import resample_from_to

from scans.geometry import look_at
from scans.volumes import Volume, slices_to_volume, volume_to_slices
from system.files import InputError

# Both data sets are 1 mm; closer than this the head is as large as one in training.
TOLERANCE_MM = 0.1


def predict_probability(networks, volume, flip=False, alignment=None):
    """Give each voxel of a scan its probability of lesion, the mean of all networks.

    The networks share one geometry, and see the scan as `scans.geometry` says; an `alignment` that
    is known already is taken. Every axial slice goes through the network, also those that training
    leaves out. A scan on its own grid that is not about 1 mm is brought to 1 mm along its own axes,
    and the probability back; both linearly. With `flip` the prediction of the mirrored head,
    mirrored back, is averaged with it.

    Returns
    -------
    ndarray, float32, shape (X, Y, Z)
        0 to 1, on the grid of `volume.voxels`.

    Raises
    ------
    InputError
        If by its header the scan is far smaller or larger than a head.
    """
    return predict_volume(networks, volume, flip, alignment)[1]


def predict_volume(networks, volume, flip=False, alignment=None):
    """Do what `predict_probability` does; return the `scans.geometry.Seen` that they saw as well."""
    check_extent(volume)
    geometry = shared_geometry({network.weights: network.settings for network in networks})
    seen = look_at(volume, geometry, alignment)
    return seen, seen.bring_back(predict_seen(networks, seen.volume, flip))


def shared_geometry(settings):
    """Return the section ``geometry`` that the `Settings` of several weights files share.

    Raises
    ------
    InputError
        If they differ: such networks cannot be averaged. Names two files.
    """
    first = next(iter(settings))
    for other in settings:
        if settings[other].geometry != settings[first].geometry:
            raise InputError(
                f"{first} and {other}: differ in the geometry.align or geometry.brain they were "
                "trained with, so they cannot be averaged; name weights of one geometry"
            )
    return settings[first].geometry


def check_extent(volume):
    """Refuse a scan that by its header is far smaller or larger than a head."""
    if not 10 <= extent_mm(volume).max() <= 1000:
        raise InputError(
            f"by its header the scan is {format_sizes(extent_mm(volume))} mm; repair its voxel size"
        )


def predict_seen(networks, volume, flip):
    """Give each voxel of a volume its probability of lesion, on the grid that the networks see."""
    at_1_mm = _to_1_mm(volume)
    scaled, mean, std = at_1_mm.scaled
    total = np.zeros_like(scaled, np.float32)
    for network in networks:
        own = network.settings
        side = square_size(scaled.shape, own.slices.size, own.unet.downsampling)
        images = volume_to_slices(scaled, side)
        probability = network.predict(images, mean, std)
        if flip:
            mirrored = network.predict(images[:, :, ::-1], mean, std)
            probability = (probability + mirrored[:, :, ::-1]) / 2
        total += slices_to_volume(probability, scaled.shape)
    total /= len(networks)
    if at_1_mm is volume:
        return total
    return _resample(total, at_1_mm.affine, volume.voxels.shape, volume.affine)


def square_size(shape, size, downsampling=1):
    """Return the side of the square for slices of a volume: `size`, or the next one that fits."""
    # 32 suits any number of levels; what fits is scored as it was trained.
    step = 32 * downsampling
    return size if max(shape[:2]) <= size else -(-max(shape[:2]) // step) * step


def is_about_1_mm(volume):
    return bool(np.all(np.abs(volume.spacing_mm - 1) <= TOLERANCE_MM))


def extent_mm(volume):
    """Return the extent of a volume along its three axes."""
    return np.array(volume.voxels.shape) * volume.spacing_mm


def format_sizes(numbers):
    """Write sizes along three axes, as 0.8×0.8×3."""
    return "×".join(f"{number:g}" for number in np.round(numbers, 3))


def _to_1_mm(volume):
    if is_about_1_mm(volume):
        return volume
    shape = np.maximum(np.ceil(extent_mm(volume) - 1e-3), 1).astype(int)
    axes = volume.affine[:3, :3] / volume.spacing_mm
    # Both grids share their middle, so that left and right are treated alike.
    middle = nibabel.affines.apply_affine(volume.affine, (np.array(volume.voxels.shape) - 1) / 2)
    affine = nibabel.affines.from_matvec(axes, middle - axes @ ((shape - 1) / 2))
    return Volume(_resample(volume.voxels, volume.affine, shape, affine), affine, volume.header)


def _resample(voxels, affine, new_shape, new_affine):
    """Interpolate linearly onto another grid; past its edge the outermost voxel goes on."""
    image = nibabel.Nifti1Image(voxels.astype(np.float32, copy=False), affine)
    grid = tuple(new_shape), new_affine
    return np.asarray(resample_from_to(image, grid, order=1, mode="nearest").dataobj, np.float32)
