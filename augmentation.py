"""How training slices are moved, cropped and altered: image and mask as one, grey levels alone.

Shape letters: H, W pixels of a slice, C channels of its image.
"""

import cv2
import numpy as np

# tf.data runs the threads; more of them inside OpenCV would only get in their way.
cv2.setNumThreads(1)


def augment(
    image, mask, rng, *, rotation_degrees, shift, zoom, flip, crop, gamma, noise, blur,
    low_resolution, bias_field,
):  # fmt: skip
    """Distort a slice at random, take a window of it, and alter the grey levels of its image.

    Parameters
    ----------
    image : ndarray, uint8, shape (H, W, C)
    mask : ndarray, uint8, shape (H, W)
    rng : numpy.random.Generator
    rotation_degrees, shift, zoom, flip
        See `draw_distortions`.
    crop : int or None
        Side of the window, in pixels; None takes all of the slice. See `draw_window`.
    gamma, noise, blur, low_resolution, bias_field : float
        See `alter`.

    Returns
    -------
    image : ndarray, uint8, shape (H, W, C), or (crop, crop, C)
    mask : ndarray, uint8, shape (H, W), or (crop, crop)
    """
    matrix = draw_distortions(rng, 1, mask.shape, rotation_degrees, shift, zoom, flip)[0]
    shape = mask.shape
    if crop:
        matrix, shape = draw_window(rng, image, mask, matrix, crop), (crop, crop)
    image, mask = distort(image, mask, matrix, shape)
    return alter(image, rng, gamma, noise, blur, low_resolution, bias_field), mask


def draw_distortions(rng, count, shape, rotation_degrees, shift, zoom, flip):
    """Draw one random similarity transform an image.

    Parameters
    ----------
    rng : numpy.random.Generator
    count : int
    shape : (int, int)
        H, W in pixels.
    rotation_degrees, shift, zoom : float
        Largest deviation either way: degrees, share of the side, share of the size.
    flip : bool
        Mirror left and right with probability 1/2.

    Returns
    -------
    ndarray, float64, shape (count, 2, 3)
        Pixel (x, y) of the result to pixel (x, y) of the source.
    """
    height, width = shape
    angle = np.deg2rad(rng.uniform(-rotation_degrees, rotation_degrees, count))
    scale = rng.uniform(1 - zoom, 1 + zoom, count)
    offset = rng.uniform(-shift, shift, (count, 2)) * (width, height)
    mirror = np.where(rng.random(count) < 0.5, -1, 1) if flip else np.ones(count)
    cosine, sine = np.cos(angle) / scale, np.sin(angle) / scale
    matrices = np.empty((count, 2, 3))
    matrices[:, 0, :2] = np.stack([cosine * mirror, -sine], 1)
    matrices[:, 1, :2] = np.stack([sine * mirror, cosine], 1)
    centre = np.array([(width - 1) / 2, (height - 1) / 2])
    matrices[:, :, 2] = centre - matrices[:, :, :2] @ centre + offset
    return matrices


def draw_window(rng, image, mask, matrix, side):
    """Draw which part of a distorted slice training sees: a window around a pixel of its lesion.

    The pixel is any of the lesion, or where the slice has none any that is not 0, and lies anywhere in
    the window. The window stays within the frame, so it may miss a pixel that was moved out of it.

    Parameters
    ----------
    rng : numpy.random.Generator
    image : ndarray, uint8, shape (H, W, C)
    mask : ndarray, uint8, shape (H, W)
    matrix : ndarray, shape (2, 3)
        From `draw_distortions`.
    side : int
        Of the window, in pixels.

    Returns
    -------
    ndarray, float64, shape (2, 3)
        Pixel (x, y) of the window to pixel (x, y) of the source.
    """
    inside = np.flatnonzero(mask if mask.any() else image.any(-1))
    y, x = divmod(rng.choice(inside if inside.size else mask.size), mask.shape[1])
    moved = np.linalg.solve(matrix[:, :2], (x, y) - matrix[:, 2])
    furthest = np.maximum(np.array(mask.shape[::-1]) - side, 0)
    corner = np.clip(np.rint(moved - rng.integers(0, side, 2)), 0, furthest)
    matrix = matrix.copy()
    matrix[:, 2] += matrix[:, :2] @ corner
    return matrix


def distort(image, mask, matrix, shape=None):
    """Apply one transform to an image (bilinear) and its mask (nearest, so it stays binary).

    Parameters
    ----------
    image : ndarray, uint8, shape (H, W, C)
    mask : ndarray, uint8, shape (H, W)
    matrix : ndarray, shape (2, 3)
        From `draw_distortions` or `draw_window`.
    shape : (int, int), optional
        H, W of the result, if not those of the mask.

    Returns
    -------
    image : ndarray, uint8, shape (H, W, C)
    mask : ndarray, uint8, shape (H, W)
        Of the given shape. What comes in from outside the frame is 0.
    """
    height, width = shape or mask.shape

    def move(pixels, interpolation):
        flags = interpolation | cv2.WARP_INVERSE_MAP
        return cv2.warpAffine(pixels, matrix, (width, height), flags=flags)

    # OpenCV drops an axis of one channel.
    moved = move(image, cv2.INTER_LINEAR).reshape(height, width, *image.shape[2:])
    return moved, move(mask, cv2.INTER_NEAREST)


def alter(image, rng, gamma, noise, blur, low_resolution, bias_field):
    """Make an image look as if another scanner had taken it.

    Each range is the largest deviation, from which every image gets its own share; 0 is none. What
    is exactly 0 (outside a skull-stripped head) stays 0.

    Parameters
    ----------
    image : ndarray, uint8, shape (H, W, C)
    rng : numpy.random.Generator
    gamma : float
        Grey levels, as a share of 255, are raised to the power exp(±gamma).
    noise : float
        Standard deviation of Gaussian noise, as a share of 255.
    blur : float
        Standard deviation of a Gaussian blur, in pixels.
    low_resolution : float
        The image is brought to pixels larger by this share, at most twice as large, and back.
    bias_field : float
        Standard deviation of the logarithm of a smooth field by which the image is multiplied.

    Returns
    -------
    ndarray, uint8, shape (H, W, C)
    """
    if not any((gamma, noise, blur, low_resolution, bias_field)):
        return image
    shape, inside = image.shape, image > 0
    if blur and (sigma := rng.uniform(0, blur)) > 0.3:  # less is nothing in whole grey levels
        image = cv2.GaussianBlur(image, (0, 0), sigma).reshape(shape)
    if low_resolution:
        share = 1 / (1 + rng.uniform(0, low_resolution))
        # By sizes: by factors the image would be shifted against its mask.
        size = [max(1, round(side * share)) for side in shape[1::-1]]
        coarse = cv2.resize(image, size, interpolation=cv2.INTER_LINEAR)
        image = cv2.resize(coarse, shape[1::-1], interpolation=cv2.INTER_LINEAR).reshape(shape)
    if gamma:
        levels = 255 * np.linspace(0, 1, 256) ** np.exp(rng.uniform(-gamma, gamma))
        image = cv2.LUT(image, np.rint(levels).astype(np.uint8)).reshape(shape)
    if bias_field or noise:
        altered = image.astype(np.float32)
        if bias_field:
            field = rng.normal(0, bias_field, (4, 4)).astype(np.float32)
            field = np.exp(cv2.resize(field, shape[1::-1], interpolation=cv2.INTER_CUBIC))
            altered *= field[..., None]
        if noise:
            level = np.float32(rng.uniform(0, noise) * 255)
            altered += level * rng.standard_normal(shape, np.float32)
        image = np.clip(np.rint(altered), 1, 255).astype(np.uint8)
    return image * inside
