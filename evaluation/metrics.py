"""Metrics of one scan in 3D.

A mask is (X, Y, Z), and each voxel of it that is not 0 is lesion: 0/255 counts the same as 0/1.

References
----------
.. [1] Taha, Hanbury: Metrics for evaluating 3D medical image segmentation: analysis, selection, and
   tool. BMC Medical Imaging 15:29, 2015.
.. [2] Liew et al.: A large, curated, open-source stroke neuroimaging dataset to improve lesion
   segmentation algorithms. Scientific Data 9:320, 2022 (ATLAS v2.0). The challenge's metrics are
   defined by its code, github.com/npnl/atlas2_grand_challenge, isles/scoring.py at 55b9524.
.. [3] ISLES'26, by its organisers' code: github.com/ezequieldlrosa/isles26, utils/eval_utils.py at
   91965d0. docs/evaluation.md says how closely it agrees.
.. [4] Maier-Hein, Reinke et al.: Metrics reloaded: recommendations for image analysis validation.
   Nature Methods 21:195, 2024.
"""

import math

import numpy as np
from scipy import spatial
from sklearn.metrics import auc, precision_recall_curve

from prediction.lesions import box_of, label_lesions, lesion_wise, match_lesions, recognised
from system.files import InputError


def subject_metrics(reference, prediction, spacing_mm, levels=None):
    """Measure how well one scan's predicted mask agrees with its reference, both (X, Y, Z).

    The keys are the columns of metrics.csv. ``volume_difference_ml`` is prediction minus reference,
    negative where lesion was missed. Its size, Dice, ``lesion_count_difference``,
    ``recognition_quality`` and ``pr_auc`` are the five of ISLES'26 [3]_; ``voxel_difference``,
    ``|Σp − Σt|``, Dice, ``lesion_f1`` and ``atlas_lesion_count_difference`` the ATLAS challenge's
    four [2]_. Without `levels` (see `pr_auc`) that one is NaN. ``lesion_count`` is that of the
    reference, as ISLES'26 counts.
    """
    reference, prediction = np.asarray(reference) != 0, np.asarray(prediction) != 0
    if reference.shape != prediction.shape or reference.ndim != 3:
        shapes = " but ".join("×".join(map(str, mask.shape)) for mask in (prediction, reference))
        raise InputError(
            f"the prediction is {shapes} voxels in its reference; they must be on one 3D grid"
        )
    soft = math.nan if levels is None else pr_auc(reference, levels)
    box = box_of(reference | prediction)
    reference, prediction = reference[box], prediction[box]

    sizes = [int(mask.sum()) for mask in (reference, prediction)]
    voxel_ml = math.prod(map(float, spacing_mm)) / 1000
    pairs = [
        match_lesions(*(label_lesions(mask, corners) for mask in (reference, prediction)))
        for corners in (False, True)
    ]
    return {
        "lesion_volume_ml": sizes[0] * voxel_ml,
        "lesion_count": pairs[1].reference.size,
        "longest_voxel_side_mm": max(map(float, spacing_mm)),
        **overlap(reference, prediction),
        **surface_distances(reference, prediction, spacing_mm),
        "volume_difference_ml": (sizes[1] - sizes[0]) * voxel_ml,
        **lesion_wise(pairs[0], voxel_ml),
        "voxel_difference": abs(sizes[1] - sizes[0]),
        "absolute_volume_difference_ml": abs(sizes[1] - sizes[0]) * voxel_ml,
        **recognised(pairs[1]),
        "pr_auc": soft,
    }


def pr_auc(reference, levels):
    """Measure the area under the curve of precision against recall over all thresholds, voxel by voxel.

    By the trapezoidal rule, as ISLES'26 does [3]_. `reference` is bool, and `levels`, uint8 or uint16,
    grow with the probability; both (X, Y, Z). Without lesion it is 1 if the levels are all the same,
    else 0.
    """
    count = int(levels.max()) + 1
    # Plane by plane: counting makes numbers of 64 bits of its input.
    everywhere = sum(np.bincount(plane.ravel(), minlength=count) for plane in levels.T)
    lesion = np.bincount(levels[reference], minlength=count)
    if not lesion.any():
        return float(np.count_nonzero(everywhere) == 1)
    weights = np.concatenate([everywhere - lesion, lesion])
    is_lesion, level = np.divmod(np.flatnonzero(weights), count)
    precision, recall, _ = precision_recall_curve(
        is_lesion, level, sample_weight=weights[weights > 0]
    )
    return float(auc(recall, precision))


def overlap(reference, prediction):
    """Compare two masks, bool, voxel by voxel.

    ``dice = 2 TP / (P + R)``, ``precision = TP / P`` and ``recall = TP / R``, with P the predicted,
    R the reference voxels and TP those in both [1]_. A ratio of nothing is 1 if both masks are
    empty and 0 if one is, as in `losses.OverlapMetrics`.
    """
    both, p, r = (int(mask.sum()) for mask in (reference & prediction, prediction, reference))
    ratios = {"dice": (2 * both, p + r), "precision": (both, p), "recall": (both, r)}
    return {name: a / b if b else float(p + r == 0) for name, (a, b) in ratios.items()}


def surface_distances(reference, prediction, spacing_mm):
    """Measure how far the surfaces of two masks, bool, lie apart.

    A surface is a mask minus its erosion: the voxels with a face to the background or to the
    outside of the volume. With ``d(a, B)`` the distance from the middle of voxel `a` to the nearest
    of surface `B`, in mm [4]_::

        hd95_mm = max(P95 of d(a, B) over a ∈ A, P95 of d(b, A) over b ∈ B)
        assd_mm = (Σ d(a, B) + Σ d(b, A)) / (|A| + |B|)

    with P95 the 95th percentile, linear between neighbours. Programs that take one percentile of
    both directions together mostly find less. Both are 0 if both masks are empty, and NaN if one
    is: there is no distance to nothing.
    """
    masks = (reference, prediction)
    if not all(mask.any() for mask in masks):
        distance_mm = math.nan if any(mask.any() for mask in masks) else 0.0
        return {"hd95_mm": distance_mm, "assd_mm": distance_mm}
    surfaces = [_surface(mask) * spacing_mm for mask in masks]
    directed = [spatial.KDTree(there).query(here)[0] for here, there in (surfaces, surfaces[::-1])]
    return {
        "hd95_mm": float(max(np.percentile(distances, 95) for distances in directed)),
        "assd_mm": float(np.concatenate(directed).mean()),
    }


def _surface(mask):
    """List the voxels, (n, 3), that erosion would take from a mask."""
    marked = np.argwhere(mask.T)[:, ::-1]
    padded = np.pad(mask, 1)
    steps = [sign * axis for axis in np.eye(3, dtype=int) for sign in (-1, 1)]
    inside = np.all([padded[tuple((marked + 1 + step).T)] for step in steps], axis=0)
    return marked[~inside]
