"""Find nearly identical scans, whatever their names: copies with noise, moved, cropped, resampled.

A scan's thumbnail is a cube of 16³ grey levels spanned over its head, with the coarse anatomy that
all heads share filtered out. Two scans are nearly the same if their thumbnails correlate above 0.92
(benchmarks/experiments.md, "Near duplicates", has the correlations that chose it).
"""

import base64

import cv2
import numpy as np
from scipy.ndimage import gaussian_filter
from scipy.sparse.csgraph import connected_components

SIDE = 16
SAME_SCAN = 0.92


def make_thumbnail(scaled):
    """Shrink a scan, uint8 (X, Y, Z), to what tells it apart: 16³ signed bytes, base64."""
    # Every second voxel: eight times cheaper, and a cell still averages hundreds of them.
    coarse = np.ascontiguousarray(scaled[::2, ::2, ::2])
    # Otsu's threshold tells head from air, whether the air is 0 or noise.
    level, _ = cv2.threshold(coarse.reshape(1, -1), 0, 255, cv2.THRESH_BINARY | cv2.THRESH_OTSU)
    head = np.maximum(coarse, np.uint8(level)) - np.uint8(level)
    cells = head.astype(np.float32)
    inside = head > 0
    for axis in range(3):
        others = tuple({0, 1, 2} - {axis})
        share = _cell_shares(inside.sum(others), cells.shape[axis])
        cells = np.moveaxis(np.tensordot(share, cells, (1, axis)), 0, axis)
    detail = cells - gaussian_filter(cells, 1)
    detail -= detail.mean()
    largest = np.abs(detail).max() or 1
    return base64.b64encode(np.round(detail * (127 / largest)).astype(np.int8)).decode()


def _cell_shares(profile, length):
    """Say how much each voxel along an axis counts in each of the cells that span the head.

    The head reaches two standard deviations to both sides of its centre of mass, which a cropped
    margin or another voxel size hardly moves.
    """
    place = np.arange(length)
    total = max(profile.sum(), 1)
    centre = (profile * place).sum() / total
    reach = 2 * np.sqrt((profile * (place - centre) ** 2).sum() / total) + 1e-6
    edges = np.linspace(centre - reach, centre + reach, SIDE + 1)[:, None]
    overlap = np.minimum(place + 0.5, edges[1:]) - np.maximum(place - 0.5, edges[:-1])
    return (np.clip(overlap, 0, None) * SIDE / (2 * reach)).astype(np.float32)


def find_near_duplicates(thumbnails):
    """Return for each thumbnail the place of the first of its group of near duplicates."""
    cubes = [np.frombuffer(base64.b64decode(text), np.int8) for text in thumbnails]
    cubes = np.stack(cubes).astype(np.float32)  # (scans, cells)
    cubes /= np.maximum(np.linalg.norm(cubes, axis=1, keepdims=True), 1e-6)
    _, group = connected_components(cubes @ cubes.T > SAME_SCAN, directed=False)
    _, first = np.unique(group, return_index=True)
    return first[group]
