"""A picture of a scan on the template, the outline of the template's brain drawn on it."""

import cv2
import numpy as np

from scans.template import load_template

RED = (60, 60, 255)  # in OpenCV's order: blue, green, red
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
    if not cv2.imwrite(str(path), picture):
        raise OSError("the picture could not be written")


def _outlined(grey, brain):
    size = (grey.shape[1] * SCALE, grey.shape[0] * SCALE)
    picture = cv2.cvtColor(
        cv2.resize(grey, size, interpolation=cv2.INTER_LINEAR), cv2.COLOR_GRAY2BGR
    )
    large = cv2.resize(brain, size, interpolation=cv2.INTER_NEAREST)
    lines, _ = cv2.findContours(large, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    return cv2.drawContours(picture, lines, -1, RED, 1, cv2.LINE_AA)


def _centred(panel, side):
    tile = np.zeros((side, side, 3), np.uint8)
    height, width = panel.shape[:2]
    top, left = (side - height) // 2, (side - width) // 2
    tile[top : top + height, left : left + width] = panel
    return tile
