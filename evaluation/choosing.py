"""The operating point of a run, chosen on its validation subjects."""

import numpy as np
from scipy.stats import rankdata

from evaluation.metric_table import METRICS
from prediction.lesions import (
    keep_predicted,
    label_lesions,
    lesion_wise,
    match_lesions,
    recognised,
)
from prediction.operating_point import point_file, read_operating_point, voxels_of
from system.files import InputError, file_hash, load_json, save_json

# What is tried.
THRESHOLDS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
SMALLEST_ML = (0.0, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0)
# The most volume of wrong lesions that is acceptable in the median subject.
WRONG_ML = 1.0
# What points are chosen for (`evaluation.choose_for`), and the metrics that are looked at. The rule is
# stored with each point: runs whose points were chosen in different ways are not to be compared.
RULES = {
    "lesions": "Dice + lesion-wise Dice, "
    f"at most {WRONG_ML:g} ml of wrong lesions in the median subject",
    "dice": "Dice",
    "isles26": "mean rank among all points by Dice, volume, lesion count and recognition quality",
}
LOOKED_AT = {
    "lesions": ("dice", "lesion_dice", "false_positive_ml"),
    "dice": ("dice",),
    "isles26": (
        "dice",
        "recognition_quality",
        "absolute_volume_difference_ml",
        "lesion_count_difference",
    ),
}


def probability_levels(probability):
    """Round a probability, float32, to one of 16,137 levels, uint16, that grow with it.

    Networks are mostly sure: a level spans 1.6 % of the probability below 0.5, and of what is missing
    to 1 above. None spans one of `THRESHOLDS`, so that each is passed at one level exactly.
    """
    # Nothing else than a probability: any other number would be a high level.
    probability = np.clip(np.nan_to_num(probability), 0, 1) + np.float32(0)
    rarer = np.minimum(probability, 1 - probability)
    # The exponent and the first six binary digits of a number.
    levels = rarer.view(np.uint32) >> 17
    levels = np.where(probability < 0.5, levels, 2 * _LEVEL_OF_HALF - levels).astype(np.uint16)
    for threshold in THRESHOLDS:
        levels += probability > threshold
    return levels


_LEVEL_OF_HALF = np.float32(0.5).view(np.uint32) >> 17


def level_of(threshold):
    """Return the level that exactly the probabilities above one of `THRESHOLDS` exceed."""
    return int(probability_levels(np.float32([threshold]))[0])


def metric_grids(levels, reference, spacing_mm, aim):
    """Compute a scan's metrics for every threshold and smallest lesion that is tried.

    Each threshold is labelled once: a lesion that is left out takes its own voxels along. `levels`
    are from `probability_levels`, `aim` is one of `RULES`.

    Returns
    -------
    ndarray, float, shape (metrics, len(THRESHOLDS), len(SMALLEST_ML))
        Those of `LOOKED_AT`, as `evaluation.metrics.subject_metrics` has them; for ``isles26`` Dice is
        0 where no lesion is recognised.
    """
    grids = np.empty((len(LOOKED_AT[aim]), len(THRESHOLDS), len(SMALLEST_ML)))
    voxel_ml = float(np.prod(spacing_mm)) / 1000
    references = label_lesions(reference)
    with_corners = label_lesions(reference, corners=True) if aim == "isles26" else None
    for i, threshold in enumerate(THRESHOLDS):
        labels, sizes = label_lesions(levels > level_of(threshold))
        lesions, count, found = match_lesions(references, (labels, sizes)), -1, {}
        for j, smallest_ml in enumerate(SMALLEST_ML):
            large = sizes >= voxels_of(smallest_ml, spacing_mm)
            # Most steps leave no more lesions out than the one before.
            if np.count_nonzero(large) != count:
                count = np.count_nonzero(large)
                found = _measure(keep_predicted(lesions, large), voxel_ml)
                if with_corners:
                    mask = np.concatenate([[False], large])[labels]
                    found |= recognised(match_lesions(with_corners, label_lesions(mask, True)))
                    # As the challenge has it, see `evaluation.comparison.rank_runs`.
                    found["dice"] *= found["recognition_quality"] > 0
            grids[:, i, j] = [found[name] for name in LOOKED_AT[aim]]
    return grids


def _measure(lesions, voxel_ml):
    """Measure two masks of which the lesions are known."""
    predicted, reference = lesions.predicted.sum(), lesions.reference.sum()
    whole = predicted + reference
    return lesion_wise(lesions, voxel_ml) | {
        "dice": 2 * lesions.pairs[2].sum() / whole if whole else 1.0,
        "absolute_volume_difference_ml": abs(predicted - reference) * voxel_ml,
    }


def choose_operating_point(grids, subjects, aim):
    """Choose the point that serves an aim, one of `RULES`, best.

    For ``lesions`` it is the one with the highest mean of Dice and lesion-wise Dice over subjects:
    Dice alone hardly sees a wrong lesion of a few voxels, nor that a small one is missed. Only
    points with at most `WRONG_ML` of wrong lesions in the median subject are considered, unless the
    best of them is not half as good as the best of all (one that marks nothing has no wrong lesions
    either). For ``isles26`` each metric ranks the points on each scan, and the lowest mean rank is
    best. Of equals, the one that marks all slices, then the threshold nearest to 0.5, then the
    smallest lesion. Sessions of a subject are averaged first.

    `grids` are the `metric_grids` of each scan, with all slices and with those alone that training
    knew: (scans, 2, metrics, thresholds, sizes); `subjects` names the subject of each scan.
    """
    grids, subjects = np.array(grids), np.array(subjects)
    names = np.unique(subjects)

    def by_subject(values):
        return np.array([values[subjects == name].mean(0) for name in names])

    measured = by_subject(grids)
    means = dict(zip(LOOKED_AT[aim], measured.mean(0).swapaxes(0, 1), strict=True))
    about = {f"mean_{name}": mean for name, mean in means.items()}
    goodness = means["dice"].round(9)
    if aim == "lesions":
        wrong_ml = np.median(measured[:, :, 2], axis=0)
        about = about | {"median_false_positive_ml": wrong_ml}
        del about["mean_false_positive_ml"]
        goodness = (means["dice"] + means["lesion_dice"]).round(9)
        quiet = goodness * (wrong_ml <= WRONG_ML)
        if quiet.max() >= goodness.max() / 2:
            goodness = quiet
    elif aim == "isles26":
        better = [METRICS[name].larger_is_better for name in LOOKED_AT[aim]]
        signs = np.where(better, -1, 1)[:, None, None]
        by_metric = (grids * signs).round(9).swapaxes(1, 2).reshape(len(grids), len(signs), -1)
        ranks = rankdata(by_metric, axis=-1).mean(1).reshape(len(grids), *goodness.shape)
        goodness = -by_subject(ranks).mean(0).round(9)
    best = min(
        np.ndindex(goodness.shape),
        key=lambda at: (-goodness[at], at[0], abs(THRESHOLDS[at[1]] - 0.5), at[2]),
    )
    ends, i, j = best
    return {
        "threshold": THRESHOLDS[i],
        "smallest_ml": SMALLEST_ML[j],
        "trained_slices_only": bool(ends),
        **{name: float(values[best]) for name, values in about.items()},
        "subjects": len(names),
    }


def check_own_point(weights):
    """Refuse to replace an operating point that a person wrote: it names no weights."""
    path = point_file(weights)
    stored = load_json(path, "move it away") if path.exists() else {"weights": None}
    if not isinstance(stored, dict) or "weights" not in stored:
        raise InputError(f"{path}: evaluate.py did not choose it, so it stays; move it away")


def save_operating_point(point, weights, aim):
    """Store an operating point beside the weights it was chosen for; return what is stored."""
    stored = point | {"chosen_on": "validation", "rule": RULES[aim], "weights": file_hash(weights)}
    save_json(point_file(weights), stored)
    return stored


def chosen_operating_point(weights, aim):
    """Read the operating point of a run for its test subset, or None where none was chosen yet.

    One chosen for other weights, for another aim, or with a threshold that is not tried raises an
    `InputError`.
    """
    path = point_file(weights)
    if not path.exists():
        return None
    point = read_operating_point(weights)
    stored = load_json(path, "run evaluate.py --subset validation")
    if "weights" not in stored:
        reason = "does not say for which weights it was chosen; move it away, and"
    elif (rule := stored.get("rule")) != RULES[aim]:
        other = next((name for name in RULES if RULES[name] == rule), "another rule")
        reason = f"was chosen for {other}, not for evaluation.choose_for = {aim}; set that, or"
    elif point["threshold"] not in THRESHOLDS:
        reason = f"its threshold is none of {', '.join(map(str, THRESHOLDS))};"
    else:
        return point
    raise InputError(
        f"{path}: {reason} choose one by evaluate.py --subset validation, with the same runs and --config"
    )
