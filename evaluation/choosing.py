"""The operating point of a run, chosen on its validation subjects."""

from pathlib import Path

import numpy as np

from prediction.lesions import keep_predicted, label_lesions, lesion_wise, match_lesions
from prediction.operating_point import point_file, read_operating_point, voxels_of
from system.files import InputError, file_hash, load_json, save_json

# What is tried.
THRESHOLDS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
SMALLEST_ML = (0.0, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0)
# The most volume of wrong lesions that is acceptable in the median subject.
WRONG_ML = 1.0
# Stored with each point: runs whose points were chosen in different ways are not to be compared.
RULE = f"Dice + lesion-wise Dice, at most {WRONG_ML:g} ml of wrong lesions in the median subject"


def threshold_levels(probability):
    """Round a probability down to tenths: count how many of `THRESHOLDS` it exceeds, uint8."""
    levels = np.zeros(probability.shape, np.uint8)
    for threshold in THRESHOLDS:
        levels += probability > threshold
    return levels


def metric_grids(levels, reference, spacing_mm):
    """Compute a scan's metrics for every threshold and smallest lesion that is tried.

    Each threshold is labelled once: a lesion that is left out takes its own voxels along. `levels`
    are from `threshold_levels`.

    Returns
    -------
    ndarray, float, shape (3, len(THRESHOLDS), len(SMALLEST_ML))
        Dice, lesion-wise Dice, ml of wrong lesions, as `evaluation.metrics.subject_metrics` has
        them.
    """
    grids = np.empty((3, len(THRESHOLDS), len(SMALLEST_ML)))
    voxel_ml = float(np.prod(spacing_mm)) / 1000
    references = label_lesions(reference)
    for i in range(len(THRESHOLDS)):
        lesions = match_lesions(references, label_lesions(levels > i))
        for j, smallest_ml in enumerate(SMALLEST_ML):
            large = lesions.predicted >= voxels_of(smallest_ml, spacing_mm)
            kept = keep_predicted(lesions, large)
            found = lesion_wise(kept, voxel_ml)
            whole = kept.predicted.sum() + kept.reference.sum()
            dice = 2 * kept.pairs[2].sum() / whole if whole else 1.0
            grids[:, i, j] = dice, found["lesion_dice"], found["false_positive_ml"]
    return grids


def choose_operating_point(grids, subjects):
    """Choose the point with the highest mean of Dice and lesion-wise Dice over subjects.

    Dice alone hardly sees a wrong lesion of a few voxels, nor that a small one is missed. Only
    points with at most `WRONG_ML` of wrong lesions in the median subject are considered, unless the
    best of them is not half as good as the best of all (one that marks nothing has no wrong lesions
    either). Of equals, the one that marks all slices, then the threshold nearest to 0.5, then the
    smallest lesion. Sessions of a subject are averaged first.

    `grids` are the `metric_grids` of each scan, with all slices and with those alone that training
    knew: (scans, 2, 3, thresholds, sizes); `subjects` names the subject of each scan.
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


def save_operating_point(point, weights):
    """Store an operating point beside the weights it was chosen for; return what is stored."""
    stored = point | {"chosen_on": "validation", "rule": RULE, "weights": file_hash(weights)}
    save_json(point_file(weights), stored)
    return stored


def chosen_operating_point(weights):
    """Read the operating point of a run for its test subset, or None where none was chosen yet.

    One chosen for other weights, by another rule, or with a threshold that is not tried raises an
    `InputError`.
    """
    path = point_file(weights)
    if not path.exists():
        return None
    point = read_operating_point(weights)
    stored = load_json(path, "run evaluate.py --subset validation")
    if stored.get("weights") != file_hash(weights):
        reason = f"was not chosen for {Path(weights).name} as it is now"
    elif stored.get("rule") != RULE:
        reason = "was chosen by an older rule"
    elif point["threshold"] not in THRESHOLDS:
        reason = f"its threshold is none of {', '.join(map(str, THRESHOLDS))}"
    else:
        return point
    raise InputError(
        f"{path}: {reason}; choose one by evaluate.py --subset validation, with the same runs and --config"
    )
