"""One intensity scale for every scanner and data set: 8 bit, then mean 0 and SD 1."""

import math

import numpy as np


def scale_intensity(voxels):
    """Bring an image of any scanner to 8 bit, the one scale of every data set and of prediction.

    Non-zero voxels are clipped to their 0.5 and 99.5 percentile, which map to 1 and 255; voxels
    that are exactly 0 (outside a skull-stripped head) stay 0.

    Returns
    -------
    scaled : ndarray, uint8, shape (X, Y, Z)
    mean, std : float
        Of the non-zero voxels of `scaled`, for `standardise`.
    """
    scaled, counts = (_scale_floats if voxels.dtype.kind == "f" else _scale_integers)(voxels)
    values, counts = np.arange(1, 256), counts[1:]
    mean = np.average(values, weights=counts)
    std = np.sqrt(np.average((values - mean) ** 2, weights=counts))
    return scaled, float(mean), float(max(std, 1.0))


def _scale_floats(voxels):
    """Scale voxel by voxel; return the 8-bit image and the count of each of its values."""
    flat = voxels.ravel("K")  # in the order of memory, the quickest to walk
    low, high = np.percentile(flat[flat != 0], (0.5, 99.5), overwrite_input=True)
    scaled = np.empty_like(voxels, np.uint8)
    # A plane at a time, so that intermediate results stay in the processor's cache.
    for plane, result in zip(voxels.T, scaled.T, strict=True):
        result[:] = _to_8_bit(plane, low, high)
    return scaled, _count(scaled)


def _scale_integers(voxels):
    """Do the same for integers of 8 or 16 bit: compute each value once and look it up."""
    codes = voxels.view(f"u{voxels.itemsize}")
    values = np.arange(256**voxels.itemsize, dtype=codes.dtype).view(voxels.dtype)
    counts = np.where(values != 0, _count(codes), 0)
    low, high = (_percentile(values, counts, percent) for percent in (0.5, 99.5))
    table = _to_8_bit(values, low, high)
    scaled = np.empty_like(voxels, np.uint8)
    for plane, result in zip(codes.T, scaled.T, strict=True):
        # Without a mode numpy would check each index and copy the result.
        table.take(plane, out=result, mode="clip")
    return scaled, np.bincount(table, counts, 256)


def _to_8_bit(values, low, high):
    # By the power of two apart, so that one factor 2**n in all voxels changes no bit.
    mantissa, exponent = math.frexp(float(high) - float(low) or 1.0)
    gain = math.ldexp(float(np.float32(254 / mantissa)), min(-exponent, 1000))
    grey = np.clip(values, low, high, dtype=np.float64)
    grey -= low
    grey *= gain
    grey += 1
    return np.where(values != 0, np.rint(grey, out=grey), 0).astype(np.uint8)


def _count(voxels):
    """Count each value of an unsigned type, in 3D: int64, one count a value."""
    size = 256**voxels.itemsize
    # Plane by plane, for which numpy makes 64 bit of each voxel.
    return sum(np.bincount(plane.ravel("K"), minlength=size) for plane in voxels.T)


def _percentile(values, counts, percent):
    """Compute what `numpy.percentile` gives for values with these counts, to the last bit."""
    order = np.argsort(values)
    behind = np.cumsum(counts[order])
    rank, fraction = divmod(percent / 100 * (behind[-1] - 1), 1)
    # The value at a rank, from 0, is the first that more than so many voxels do not exceed.
    neighbours = np.searchsorted(behind, (rank, min(rank + 1, behind[-1] - 1)), side="right")
    return np.quantile(values[order][neighbours].astype(np.float64), fraction)


def standardise(image, mean, std):
    """Give an 8-bit image its volume's zero mean and unit standard deviation, as float32."""
    return (image.astype(np.float32) - np.float32(mean)) * np.float32(1 / std)
