"""How training slices are moved, cropped and altered: image and mask as one, grey levels alone.

Shape letters: H, W pixels of a slice, C channels of its image.
"""

import cv2
import numpy as np

# Batches are made by threads already (`data.Batches`); more of them inside OpenCV would get in their way.
cv2.setNumThreads(1)
# Settings that the host alone can do, not a device (`data.DeviceBatches`).
HOST_ALONE = ("crop", "noise", "blur", "low_resolution", "bias_field", "carve_mix")
# Lesions come from at most so many slices above or below: the anatomy around them is alike.
REACH = 8


def augment(
    image,
    mask,
    rng,
    *,
    rotation_degrees,
    shift,
    zoom,
    flip,
    crop,
    gamma,
    noise,
    blur,
    low_resolution,
    bias_field,
):
    """Distort a slice at random, take a window of it, and alter the grey levels of its image.

    `image` is uint8 (H, W, C), `mask` uint8 (H, W); the ranges are those of section
    ``augmentation``.
    """
    matrix = draw_distortions(rng, 1, mask.shape, rotation_degrees, shift, zoom, flip)[0]
    shape = mask.shape
    if crop:
        matrix, shape = draw_window(rng, image, mask, matrix, crop), (crop, crop)
    image, mask = distort(image, mask, matrix, shape)
    return alter(image, rng, gamma, noise, blur, low_resolution, bias_field), mask


def draw_for_device(
    rng, shape, *, rotation_degrees, shift, zoom, flip, gamma, **_done_by_the_host_alone
):
    """Draw what `augment` draws without the settings of `HOST_ALONE`; the two must draw alike.

    Returns
    -------
    matrix : ndarray, float64, shape (2, 3)
        As from `draw_distortions`.
    power : float
        To which grey levels, as shares of 255, are raised.
    """
    (matrix,) = draw_distortions(rng, 1, shape, rotation_degrees, shift, zoom, flip)
    return matrix, np.exp(rng.uniform(-gamma, gamma)) if gamma else 1.0


def draw_distortions(rng, count, shape, rotation_degrees, shift, zoom, flip):
    """Draw one random similarity transform an image: rotation, shift, zoom and mirror image.

    Returns
    -------
    ndarray, float64, shape (count, 2, 3)
        From pixel (x, y) of the result to pixel (x, y) of the source.
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
    """Draw which window of a distorted slice training sees: one around a pixel of its lesion.

    The pixel is any of the lesion, or where the slice has none any that is not 0, and lies anywhere
    in the window. The window stays within the frame, so it may miss a pixel that was moved out of
    it.

    Returns
    -------
    ndarray, float64, shape (2, 3)
        From pixel (x, y) of the window to pixel (x, y) of the source.
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

    `shape` is that of the result, if not the mask's. What comes in from outside the frame is 0.
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

    Each range is the largest deviation, from which every image draws its own. Voxels that are
    exactly 0 (outside a skull-stripped head) stay 0.
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


class CarveMix:
    """Set lesions of other training subjects into slices at random [1]_.

    A lesion comes from about the same height of the head and goes to the same place in the square, with
    its grey levels brought to the scale of the other scan. Each subject gives as often as any other.
    `donors` are the row numbers of training slices with lesion.

    References
    ----------
    .. [1] Zhang et al. (2023), CarveMix: A simple data augmentation method for brain lesion
       segmentation, NeuroImage 271.
    """

    def __init__(self, reader, rows, donors, probability):
        self.reader, self.probability = reader, probability
        self.heights = rows.z.to_numpy()
        self.donors = donors[np.argsort(self.heights[donors], kind="stable")]
        self.subjects = np.unique(rows.subject.to_numpy(), return_inverse=True)[1]

    def __call__(self, row, image, mask, rng):
        """Mix a lesion into the slice of a row, or leave image and mask as they are."""
        if rng.random() >= self.probability:
            return image, mask
        donor = self.draw(row, rng)
        if donor is None:
            return image, mask
        lesion, lesion_mask = self.reader.read_channels(donor)
        region = carve(lesion_mask, rng)
        lesion = cv2.LUT(lesion, self.levels(donor, row)).reshape(lesion.shape)
        return np.where(region[..., None], lesion, image), np.where(region, lesion_mask, mask)

    def draw(self, row, rng):
        """Draw another subject's lesion slice near the height of a row; None if there is none."""
        height = self.heights[row]
        first, last = np.searchsorted(
            self.heights[self.donors], (height - REACH, height + REACH + 1)
        )
        near = self.donors[first:last]
        near = near[self.subjects[near] != self.subjects[row]]
        if not near.size:
            return None
        whose = self.subjects[near]
        return rng.choice(near[whose == rng.choice(np.unique(whose))])

    def levels(self, donor, row):
        """Return a table, uint8 (256,), from the grey levels of one row's scan to another's.

        What is exactly 0, outside a skull-stripped head, stays 0, and nothing else becomes it.
        """
        (mean, factor), (own_mean, own_factor) = map(self.reader.scale, (donor, row))
        levels = (np.arange(256) - mean) * factor / own_factor + own_mean
        levels = np.clip(np.rint(levels), 1, 255).astype(np.uint8)
        levels[0] = 0
        return levels


def carve(mask, rng):
    """Draw the region, bool (H, W), that is carved out around a lesion, uint8 (H, W), not empty.

    Half of the time it is smaller than the lesion, by up to half of its depth, else larger, by up
    to its depth.
    """
    inside = cv2.distanceTransform(mask, cv2.DIST_L2, 5)
    outside = cv2.distanceTransform(1 - mask, cv2.DIST_L2, 5)
    depth = inside.max()
    edge = rng.uniform(-depth / 2, 0) if rng.random() < 0.5 else rng.uniform(0, depth)
    return outside - inside <= edge
