"""Two masks compared lesion by lesion.

One lesion is one component of voxels that touch by a face (6-connectivity, as in the ATLAS
challenge); cubes that touch by an edge or a corner are two. ISLES'26 counts these as one.

References
----------
.. [1] Liew et al.: A large, curated, open-source stroke neuroimaging dataset to improve lesion
   segmentation algorithms. Scientific Data 9:320, 2022 (ATLAS v2.0). The challenge's metrics are
   defined by its code, github.com/npnl/atlas2_grand_challenge, isles/scoring.py at 55b9524.
.. [2] Moawad et al.: The Brain Tumor Segmentation – Metastases (BraTS-METS) challenge 2023.
   arXiv:2306.00838; github.com/rachitsaluja/brats_val_2023.
.. [3] Kirillov, He, Girshick, Rother, Dollár: Panoptic segmentation. CVPR 2019. As ISLES'26 has it:
   github.com/ezequieldlrosa/isles26, utils/eval_utils.py at 91965d0.
"""

import math
from typing import NamedTuple

import cc3d
import numpy as np
from skimage.morphology import remove_small_objects


class Lesions(NamedTuple):
    """The lesions of two masks: their sizes in voxels, and which of them overlap.

    Attributes
    ----------
    reference, predicted : ndarray, int, shape (lesions,)
    pairs : ndarray, int, shape (3, overlapping pairs)
        The predicted lesion, that of the reference (both from 0), and the voxels in both.
    """

    reference: np.ndarray
    predicted: np.ndarray
    pairs: np.ndarray


# How much of their union two lesions share that are the same one.
SAME_LESION = 0.25


def label_lesions(mask, corners=False):
    """Number the lesions of a mask, (X, Y, Z), from 1; return labels and the sizes in voxels.

    With `corners` voxels that touch by an edge or a corner are one lesion, too.
    """
    mask = np.asarray(mask, bool)
    # Turned about, as volumes lie in memory; with a rim, without which cc3d fails on the flattest.
    framed = np.pad(mask.T, 1)
    labels = cc3d.connected_components(framed, connectivity=26 if corners else 6)
    return labels.T[1:-1, 1:-1, 1:-1], np.bincount(labels[framed])[1:]


def match_lesions(reference, predicted):
    """Find which lesions of two masks overlap, from the results of `label_lesions` for each."""
    (references, reference_sizes), (predictions, predicted_sizes) = reference, predicted
    both = ((references > 0) & (predictions > 0)).T
    width = max(reference_sizes.size, 1)
    predicted, found = (labels.T[both].astype(np.int64) - 1 for labels in (predictions, references))
    numbers = predicted * width + found
    pairs, shared = np.unique(numbers, return_counts=True)
    return Lesions(reference_sizes, predicted_sizes, np.stack([*divmod(pairs, width), shared]))


def keep_predicted(lesions, kept):
    """Leave out predicted lesions; `kept` is bool, (predicted lesions,)."""
    pairs = lesions.pairs[:, kept[lesions.pairs[0]]]
    pairs[0] = (np.cumsum(kept) - 1)[pairs[0]]
    return lesions._replace(predicted=lesions.predicted[kept], pairs=pairs)


def lesion_wise(lesions, voxel_ml):
    """Compare two masks lesion by lesion, whatever the size of each.

    With TP the lesions of the reference that at least one predicted voxel touches, FN its other
    lesions, and FP the predicted lesions that touch no voxel of the reference::

        lesion_f1   = TP / (TP + (FP + FN) / 2)
        lesion_dice = Σ Dice of each TP / (TP + FP + FN)

    F1 is the ATLAS challenge's [1]_. To it a single voxel finds a lesion, and so does half of the
    brain in one piece; lesion-wise Dice, that of BraTS [2]_ without its dilation and smallest
    lesion, compares each TP with all predicted lesions that touch it. One prediction that bridges
    two lesions finds both. Both are 1 if both masks are empty and 0 if one is.

    Returns
    -------
    dict
        ``lesion_f1``, ``lesion_dice``: float in [0, 1]; ``atlas_lesion_count_difference``: int, how
        many lesions the one has more than the other; ``false_positive_ml``: volume of FP.
    """
    predicted, found, shared = lesions.pairs
    count = lesions.reference.size
    in_both = np.bincount(found, shared, count)
    touching = np.bincount(found, lesions.predicted[predicted], count)
    dice = 2 * in_both / (touching + lesions.reference)
    wrong = np.delete(lesions.predicted, predicted)
    true = np.count_nonzero(in_both)
    errors = wrong.size + count - true
    return {
        "lesion_f1": true / (true + errors / 2) if true + errors else 1.0,
        "lesion_dice": float(dice.sum()) / (true + errors) if true + errors else 1.0,
        "atlas_lesion_count_difference": abs(lesions.predicted.size - count),
        "false_positive_ml": int(wrong.sum()) * voxel_ml,
    }


def recognised(lesions):
    """Count which lesions are recognised one to one, and compare how many there are.

    A predicted lesion and one of the reference are the same where they share at least a quarter of
    their union (IoU ≥ 0.25); pairs are made from the largest share on, and no lesion is in two.
    With TP the pairs ``recognition_quality = TP / (TP + (FP + FN) / 2)`` [3]_, 1 if both masks are
    empty.
    """
    predicted, found, shared = lesions.pairs
    share = shared / (lesions.predicted[predicted] + lesions.reference[found] - shared)
    paired = {}  # lesions of the reference, by predicted lesion
    for pair in np.argsort(-share, kind="stable"):
        if share[pair] < SAME_LESION:
            break
        if predicted[pair] not in paired and found[pair] not in paired.values():
            paired[predicted[pair]] = found[pair]
    counts = lesions.predicted.size, lesions.reference.size
    return {
        "lesion_count_difference": abs(counts[0] - counts[1]),
        "recognition_quality": 2 * len(paired) / sum(counts) if sum(counts) else 1.0,
    }


def remove_small(mask, smallest_voxels):
    """Empty the lesions of a mask that have fewer than `smallest_voxels` voxels, a float."""
    if smallest_voxels <= 1 or not mask.any():
        return mask
    box = box_of(mask)
    largest_removed = math.ceil(smallest_voxels) - 1
    kept = np.zeros_like(mask)
    kept[box] = mask[box] * remove_small_objects(
        mask[box] > 0, max_size=largest_removed, connectivity=1
    )
    return kept


def box_of(volume):
    """Return the box, a tuple of slices, that holds every voxel that is not 0.

    For an empty volume it is one voxel.
    """
    marked, box = np.asarray(volume) != 0, []
    # The last axis first, along which whole planes fall away.
    for axis in reversed(range(marked.ndim)):
        others = tuple(other for other in range(marked.ndim) if other != axis)
        places = np.flatnonzero(marked.any(others))
        if not places.size:
            return (slice(1),) * marked.ndim
        box.insert(0, slice(int(places[0]), int(places[-1]) + 1))
        marked = marked[(slice(None),) * axis + (box[0],)]
    return tuple(box)
