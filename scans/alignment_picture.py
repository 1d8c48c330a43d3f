"""A picture of a scan on the template, the outline of the template's brain drawn on it."""

import numpy as np
from PIL import Image
from skimage.segmentation import find_boundaries

from scans.template import load_template

RED = (255, 60, 60)
SCALE = 2


def save_alignment(voxels, path):
    """Show a scan that lies on the template's grid from above, from the side and from the front."""
    brain = load_template().brain
    inside = voxels[brain]
    grey = np.clip(voxels / max(float(np.percentile(inside, 99.5)), 1e-6) * 255, 0, 255)
    panels = []
    for axis, places in ((2, (40, 70, 100, 130)), (0, (70, 98)), (1, (90, 130))):
        for place in places:
            planes = (np.take(v, place, axis).T[::-1] for v in (grey, brain))
            panels.append(_outlined(*(np.ascontiguousarray(p, np.uint8) for p in planes)))
    side = max(max(panel.shape[:2]) for panel in panels)
    tiles = [_centred(panel, side) for panel in panels]
    picture = np.vstack([np.hstack(tiles[:4]), np.hstack(tiles[4:])])
    Image.fromarray(picture).save(path, compress_level=1)


def _outlined(grey, brain):
    size = (grey.shape[1] * SCALE, grey.shape[0] * SCALE)
    large = np.asarray(Image.fromarray(grey).resize(size, Image.Resampling.BILINEAR))
    inside = np.asarray(Image.fromarray(brain).resize(size, Image.Resampling.NEAREST))
    picture = np.stack([large] * 3, axis=-1)
    picture[find_boundaries(inside, mode="inner")] = RED
    return picture


def _centred(panel, side):
    tile = np.zeros((side, side, 3), np.uint8)
    height, width = panel.shape[:2]
    top, left = (side - height) // 2, (side - width) // 2
    tile[top : top + height, left : left + width] = panel
    return tile
