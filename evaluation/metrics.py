"""Metrics of one scan in 3D.

A mask is (X, Y, Z), and each voxel of it that is not 0 is lesion: 0/255 counts the same as 0/1.

References
----------
.. [1] Taha, Hanbury: Metrics for evaluating 3D medical image segmentation: analysis, selection, and
   tool. BMC Medical Imaging 15:29, 2015.
.. [2] Liew et al.: A large, curated, open-source stroke neuroimaging dataset to improve lesion
   segmentation algorithms. Scientific Data 9:320, 2022 (ATLAS v2.0). The challenge's metrics are
   defined by its code, github.com/npnl/atlas2_grand_challenge, isles/scoring.py at 55b9524.
.. [3] Maier-Hein, Reinke et al.: Metrics reloaded: recommendations for image analysis validation.
   Nature Methods 21:195, 2024.
"""

import math

import numpy as np
from scipy import ndimage, spatial

from prediction.lesions import box_of, label_lesions, lesion_wise, match_lesions
from system.files import InputError


def subject_metrics(reference, prediction, spacing_mm):
    """Measure how well one scan's predicted mask agrees with its reference, both (X, Y, Z).

    The keys are the columns of metrics.csv. ``volume_difference_ml`` is prediction minus reference,
    negative where lesion was missed; ``voxel_difference`` is ``|Σp − Σt|``: with Dice, lesion-wise
    F1 and the lesion count it makes the ATLAS challenge's four [2]_.
    """
    reference, prediction = np.asarray(reference) != 0, np.asarray(prediction) != 0
    if reference.shape != prediction.shape or reference.ndim != 3:
        shapes = " but ".join("×".join(map(str, mask.shape)) for mask in (prediction, reference))
        raise InputError(
            f"the prediction is {shapes} voxels in its reference; they must be on one 3D grid"
        )
    box = box_of(reference | prediction)
    reference, prediction = reference[box], prediction[box]

    sizes = [int(mask.sum()) for mask in (reference, prediction)]
    voxel_ml = math.prod(map(float, spacing_mm)) / 1000
    return {
        "lesion_volume_ml": sizes[0] * voxel_ml,
        **overlap(reference, prediction),
        **surface_distances(reference, prediction, spacing_mm),
        "volume_difference_ml": (sizes[1] - sizes[0]) * voxel_ml,
        **lesion_wise(match_lesions(*map(label_lesions, (reference, prediction))), voxel_ml),
        "voxel_difference": abs(sizes[1] - sizes[0]),
    }


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
    of surface `B`, in mm [3]_::

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
    surfaces = [np.argwhere(mask & ~ndimage.binary_erosion(mask)) * spacing_mm for mask in masks]
    directed = [spatial.KDTree(there).query(here)[0] for here, there in (surfaces, surfaces[::-1])]
    return {
        "hd95_mm": float(max(np.percentile(distances, 95) for distances in directed)),
        "assd_mm": float(np.concatenate(directed).mean()),
    }
