"""CarveMix: the lesion of one training slice, with what is around it, set into another.

Shape letters: H, W pixels of a slice, C channels of its image.
"""

import cv2
import numpy as np

# Lesions come from at most so many slices above or below: the anatomy around them is alike.
REACH = 8


class CarveMix:
    """Set lesions of other training subjects into slices at random.

    A lesion comes from about the same height of the head and goes to the same place in the square,
    with its grey levels brought to the scale of the other scan. Each subject gives as often as any
    other, however many slices its lesion reaches over.

    Parameters
    ----------
    reader : slices.SliceReader
    donors : ndarray of int
        Row numbers of training slices with lesion.
    subjects, heights : ndarray
        Of every row of the reader: whose it is, and which axial slice of the scan.
    probability : float
        That a slice gets a lesion.

    References
    ----------
    Zhang et al. (2023), CarveMix: A simple data augmentation method for brain lesion segmentation,
    NeuroImage 271.
    """

    def __init__(self, reader, donors, subjects, heights, probability):
        self.reader, self.probability = reader, probability
        self.heights = heights
        self.donors = donors[np.argsort(heights[donors], kind="stable")]
        self.subjects = np.unique(subjects, return_inverse=True)[1]

    def __call__(self, row, image, mask, rng):
        """Mix a lesion into a slice, or leave it as it is.

        Parameters
        ----------
        row : int
            Of the slice, for its height and the scale of its grey levels.
        image : ndarray, uint8, shape (H, W, C)
        mask : ndarray, uint8, shape (H, W)
        rng : numpy.random.Generator

        Returns
        -------
        image, mask
        """
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
        """Draw another subject's lesion slice near the height of a row, or None if there is none."""
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
    """Draw the region around a lesion that is carved out, by its distance from the lesion's edge.

    One time in two it is smaller than the lesion, by up to half of its depth, else it is larger, by
    up to its whole depth.

    Parameters
    ----------
    mask : ndarray, uint8, shape (H, W)
        0 or 1, not 0 everywhere.
    rng : numpy.random.Generator

    Returns
    -------
    ndarray, bool, shape (H, W)
    """
    inside = cv2.distanceTransform(mask, cv2.DIST_L2, 5)
    outside = cv2.distanceTransform(1 - mask, cv2.DIST_L2, 5)
    depth = inside.max()
    edge = rng.uniform(-depth / 2, 0) if rng.random() < 0.5 else rng.uniform(0, depth)
    return outside - inside <= edge
