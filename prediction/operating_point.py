"""What turns a run's probabilities into a mask: chosen on validation, stored with its weights.

A point is a threshold, the smallest lesion that is kept, and whether lesions are also marked in the
slices at both ends that training left out: a network that never saw them may mark healthy tissue
there, or may find what others miss. With it goes whether the probabilities are averaged with those of
the mirrored head.
"""

from pathlib import Path

import numpy as np

from prediction.lesions import keep_predicted, label_lesions, lesion_wise, match_lesions
from system.files import InputError, file_hash, load_json, save_json

# What is tried on the validation subjects.
THRESHOLDS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
SMALLEST_ML = (0.0, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0)
# More of wrong lesions in the median subject is too much, for a scan without lesion as for others.
WRONG_ML = 1.0
# How a point is chosen; kept with it, for runs whose points were chosen in different ways are not to be
# compared.
RULE = f"Dice + lesion-wise Dice, at most {WRONG_ML:g} ml of wrong lesions in the median subject"
# Until evaluate.py has chosen a better one.
PLAIN = {"threshold": 0.5, "smallest_ml": 0.0, "ends_mm": 0.0, "height_mm": 0.0, "flip": False}


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


def without_ends(voxels, skip):
    """Empty the first and the last `skip` axial slices of a volume, (X, Y, Z)."""
    inside = np.zeros_like(voxels)
    kept = slice(skip, voxels.shape[2] - skip)
    inside[:, :, kept] = voxels[:, :, kept]
    return inside


def ends_of(point, shape, spacing_mm):
    """Return how many axial slices at each end of a scan an operating point leaves empty.

    None of a scan that is not about as high as those it was chosen on (a tenth more or less): what
    lies at its ends is something else.
    """
    height_mm = shape[2] * spacing_mm[2]
    if not point["ends_mm"] or abs(height_mm - point["height_mm"]) > point["height_mm"] / 10:
        return 0
    return round(point["ends_mm"] / spacing_mm[2])


def figure_grids(levels, reference, spacing_mm):
    """Compute a scan's figures for every threshold and smallest lesion that is tried.

    Each threshold is labelled once: a lesion that is left out takes its own voxels along.

    Parameters
    ----------
    levels : ndarray, uint8, shape (X, Y, Z)
        From `threshold_levels`.
    reference : ndarray, uint8, shape (X, Y, Z)
    spacing_mm : array_like, shape (3,)

    Returns
    -------
    ndarray, float, shape (3, len(THRESHOLDS), len(SMALLEST_ML))
        Dice, lesion-wise Dice, ml of wrong lesions, as `evaluation.metrics.subject_metrics` has them.
    """
    grids = np.empty((3, len(THRESHOLDS), len(SMALLEST_ML)))
    voxel_ml = float(np.prod(spacing_mm)) / 1000
    references = label_lesions(reference)
    for i in range(len(THRESHOLDS)):
        lesions = match_lesions(references, label_lesions(levels > i))
        for j, smallest_ml in enumerate(SMALLEST_ML):
            large = lesions.predicted >= voxels(smallest_ml, spacing_mm)
            kept = keep_predicted(lesions, large)
            found = lesion_wise(kept, voxel_ml)
            whole = kept.predicted.sum() + kept.reference.sum()
            dice = 2 * kept.pairs[2].sum() / whole if whole else 1.0
            grids[:, i, j] = dice, found["lesion_dice"], found["false_positive_ml"]
    return grids


def choose_operating_point(grids, subjects):
    """Choose the point with the highest mean of Dice and lesion-wise Dice over subjects.

    Dice alone hardly sees a wrong lesion of a few voxels, nor that a small one is missed. Only points
    with at most `WRONG_ML` of wrong lesions in the median subject are considered, unless the best of
    them is not half as good as the best of all (one that marks nothing has no wrong lesions either).
    Of equals, the one that marks all slices, then the threshold nearest to 0.5, then the smallest
    lesion.

    Parameters
    ----------
    grids : array_like, shape (scans, 2, 3, len(THRESHOLDS), len(SMALLEST_ML))
        From `figure_grids`: of each scan with all slices, then with those alone that training knew.
    subjects : list of str
        Whose scans they are; the sessions of a subject are averaged first.

    Returns
    -------
    dict
        ``threshold``, ``smallest_ml``, ``trained_slices_only``, ``mean_dice``, ``mean_lesion_dice``,
        ``median_false_positive_ml``, ``subjects`` (how many).
    """
    grids, subjects = np.array(grids), np.array(subjects)
    names = np.unique(subjects)
    by_subject = np.array([grids[subjects == name].mean(0) for name in names])
    dice, lesion_dice, _ = by_subject.mean(0).swapaxes(0, 1)
    wrong_ml = np.median(by_subject[:, :, 2], axis=0)
    goodness = (dice + lesion_dice).round(9)
    quiet = goodness * (wrong_ml <= WRONG_ML)
    if quiet.max() >= goodness.max() / 2:
        goodness = quiet
    best = min(
        np.ndindex(goodness.shape),
        key=lambda at: (-goodness[at], at[0], abs(THRESHOLDS[at[1]] - 0.5), at[2]),
    )
    ends, i, j = best
    return {
        "threshold": THRESHOLDS[i],
        "smallest_ml": SMALLEST_ML[j],
        "trained_slices_only": bool(ends),
        "mean_dice": float(dice[best]),
        "mean_lesion_dice": float(lesion_dice[best]),
        "median_false_positive_ml": float(wrong_ml[best]),
        "subjects": len(names),
    }


def written(point):
    """Describe an operating point in words."""
    where = "the slices that training knew" if point["ends_mm"] else "all slices"
    flip = ", averaged with the mirrored head" if point["flip"] else ""
    return f"threshold {point['threshold']:g}, lesions from {point['smallest_ml']:g} ml, in {where}{flip}"


def save_operating_point(point, weights):
    """Store an operating point beside the weights that it was chosen for; return what is stored."""
    stored = point | {"chosen_on": "validation", "rule": RULE, "weights": file_hash(weights)}
    save_json(_file(weights), stored)
    return stored


def read_operating_point(weights):
    """Read which threshold and smallest lesion evaluate.py chose for a run, or the plain ones.

    Parameters
    ----------
    weights : path-like
        ``prediction.operating_point.json`` is looked for beside it.

    Returns
    -------
    dict
        ``threshold``: lesion is what is more probable; ``smallest_ml``: smaller lesions are left
        out; ``ends_mm``: so much is left empty at both ends of a scan that is ``height_mm`` high;
        ``flip``: probabilities are averaged with those of the mirrored head.
    """
    path = _file(weights)
    if not path.exists():
        return dict(PLAIN)
    stored = load_json(path, "run evaluate.py again")
    try:
        return {name: type(plain)(stored[name]) for name, plain in PLAIN.items()}
    except (KeyError, TypeError, ValueError):
        raise InputError(
            f"{path}: must hold {' and '.join(PLAIN)}; run evaluate.py again"
        ) from None


def chosen_operating_point(weights):
    """Read the operating point of a run for its test part, or None where none was chosen yet.

    Raises
    ------
    InputError
        If it was chosen for other weights or by another rule, or if its threshold is none of those
        that are tried.
    """
    path = _file(weights)
    if not path.exists():
        return None
    point = read_operating_point(weights)
    stored = load_json(path, "run evaluate.py --part validation")
    if stored.get("weights") != file_hash(weights):
        reason = f"was not chosen for {Path(weights).name} as it is now"
    elif stored.get("rule") != RULE:
        reason = "was chosen by an older rule"
    elif point["threshold"] not in THRESHOLDS:
        reason = f"its threshold is none of {', '.join(map(str, THRESHOLDS))}"
    else:
        return point
    raise InputError(
        f"{path}: {reason}; choose one by evaluate.py --part validation, with the same runs and --config"
    )


def _file(weights):
    return Path(weights).with_name("operating_point.json")
