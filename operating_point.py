"""The threshold and the smallest lesion of a run: chosen on validation, stored with its weights."""

from pathlib import Path

import numpy as np
from scipy import ndimage

from files import InputError, file_hash, load_json, save_json

# What is tried on the validation subjects.
THRESHOLDS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
SMALLEST_ML = (0.0, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5)
# Until evaluate.py has chosen a better one.
PLAIN = {"threshold": 0.5, "smallest_ml": 0.0}


def threshold_levels(probability):
    """Count how many of `THRESHOLDS` each voxel exceeds: all that is needed of it, in one byte.

    Parameters
    ----------
    probability : ndarray, float32, shape (X, Y, Z)

    Returns
    -------
    ndarray, uint8, shape (X, Y, Z)
        From 0 to `len(THRESHOLDS)`: the probability in tenths, rounded down.
    """
    levels = np.zeros(probability.shape, np.uint8)
    for threshold in THRESHOLDS:
        levels += probability > threshold
    return levels


def voxels(volume_ml, spacing_mm):
    """How many voxels a volume has; 10 where rounding would make 10.000000000000002."""
    return round(volume_ml * 1000 / float(np.prod(spacing_mm)), 6)


def dice_grid(levels, reference, spacing_mm):
    """Compute a scan's Dice for every threshold and smallest lesion that is tried.

    Each threshold is labelled once: a lesion that is left out takes its own voxels along.

    Parameters
    ----------
    levels : ndarray, uint8, shape (X, Y, Z)
        From `threshold_levels`.
    reference : ndarray, uint8, shape (X, Y, Z)
    spacing_mm : array_like, shape (3,)

    Returns
    -------
    ndarray, float, shape (len(THRESHOLDS), len(SMALLEST_ML))
    """
    grid = np.empty((len(THRESHOLDS), len(SMALLEST_ML)))
    total = np.count_nonzero(reference)
    for i in range(len(THRESHOLDS)):
        lesions, count = ndimage.label(levels > i)
        # Of each lesion, without the background, which is number 0.
        sizes = np.bincount(lesions.ravel(), minlength=count + 1)[1:]
        right = np.bincount(lesions[reference > 0], minlength=count + 1)[1:]
        for j, smallest_ml in enumerate(SMALLEST_ML):
            kept = sizes >= voxels(smallest_ml, spacing_mm)
            whole = int(sizes[kept].sum()) + total
            grid[i, j] = 2 * int(right[kept].sum()) / whole if whole else 1.0
    return grid


def choose_operating_point(grids, subjects):
    """Choose the threshold and the smallest lesion with the highest mean Dice over subjects.

    Of equals, the threshold nearest to 0.5, then the smallest lesion.

    Parameters
    ----------
    grids : list of ndarray
        From `dice_grid`, one a scan.
    subjects : list of str
        Whose scans they are; the sessions of a subject are averaged first.

    Returns
    -------
    dict
        ``threshold``, ``smallest_ml``, ``mean_dice``, ``subjects`` (how many).
    """
    grids, subjects = np.array(grids), np.array(subjects)
    names = np.unique(subjects)
    mean = np.mean([grids[subjects == name].mean(0) for name in names], axis=0).round(9)
    i, j = min(
        np.ndindex(mean.shape), key=lambda at: (-mean[at], abs(THRESHOLDS[at[0]] - 0.5), at[1])
    )
    return {
        "threshold": THRESHOLDS[i],
        "smallest_ml": SMALLEST_ML[j],
        "mean_dice": float(mean[i, j]),
        "subjects": len(names),
    }


def save_operating_point(point, weights):
    """Store an operating point beside the weights that it was chosen for; return what is stored."""
    stored = point | {"chosen_on": "validation", "weights": file_hash(weights)}
    save_json(_file(weights), stored)
    return stored


def read_operating_point(weights):
    """Read which threshold and smallest lesion evaluate.py chose for a run, or the plain ones.

    Parameters
    ----------
    weights : path-like
        ``operating_point.json`` is looked for beside it.

    Returns
    -------
    dict
        ``threshold``: lesion is what is more probable; ``smallest_ml``: smaller lesions are left out.
    """
    path = _file(weights)
    if not path.exists():
        return dict(PLAIN)
    stored = load_json(path, "run evaluate.py again")
    try:
        return {name: float(stored[name]) for name in PLAIN}
    except (KeyError, TypeError, ValueError):
        raise InputError(
            f"{path}: must hold {' and '.join(PLAIN)}; run evaluate.py again"
        ) from None


def chosen_operating_point(weights):
    """Read the operating point of a run for its test part, or None where none was chosen yet.

    Raises
    ------
    InputError
        If it was chosen for other weights, or is none of those that are tried.
    """
    path = _file(weights)
    if not path.exists():
        return None
    point = read_operating_point(weights)
    stored = load_json(path, "run evaluate.py --part validation")
    if stored.get("weights") != file_hash(weights) or point["threshold"] not in THRESHOLDS:
        raise InputError(
            f"{path}: was not chosen for {Path(weights).name} as it is now; "
            "run evaluate.py --part validation first"
        )
    return point


def _file(weights):
    return Path(weights).with_name("operating_point.json")
