"""All metrics of one large scan on one core: ours against scikit-learn, scikit-image and scipy.

The scan has 370×512×512 voxels of 0.5 mm, lesions and false positives all over the head, and a soft
map. The peers compute the same: overlap, surface distances by distance transforms, lesions of both
kinds by labelling the whole volume, and the curve of precision against recall over all voxels.

    ./run bench metrics
"""

import os

import numpy as np
from scipy import ndimage

from benchmarks.bench import Contestant, arguments, compare, report, spread, times_ours

SHAPE, MM = (370, 512, 512), (0.5, 0.5, 0.5)
LESIONS, WRONG = 12, 40


def draw_scan():
    """Return reference and prediction, uint8, and soft map, uint16; all (X, Y, Z), z slowest."""
    rng = np.random.default_rng(0)
    soft = rng.integers(0, 900, SHAPE[::-1], np.uint16).T
    reference, prediction = (np.zeros(SHAPE[::-1], np.uint8).T for _ in range(2))
    middle = np.array(SHAPE) / 2
    for number in range(LESIONS + WRONG):
        radius = int(rng.integers(4, 26) if number < LESIONS else rng.integers(2, 6))
        centre = (middle + rng.uniform(-0.3, 0.3, 3) * SHAPE).astype(int)
        ball = radius > np.linalg.norm(np.indices((2 * radius + 1,) * 3).T - radius, axis=-1).T
        place = tuple(slice(c - radius, c + radius + 1) for c in centre)
        moved = tuple(slice(s.start + 2, s.stop + 2) for s in place)
        if number < LESIONS:
            reference[place] |= ball
        prediction[moved] |= ball
        soft[moved] += (ball * rng.integers(500, 9000, ball.shape)).astype(np.uint16)
    return reference, prediction, soft


def ours():
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    from evaluation.metrics import subject_metrics

    reference, prediction, soft = draw_scan()
    return lambda: {"dice": subject_metrics(reference, prediction, MM, soft)["dice"]}


def libraries():
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    from skimage.measure import label
    from sklearn.metrics import auc, precision_recall_curve

    reference, prediction, soft = draw_scan()
    masks = [reference > 0, prediction > 0]

    def work():
        both = np.count_nonzero(masks[0] & masks[1])
        edges = [mask & ~ndimage.binary_erosion(mask) for mask in masks]
        far = [ndimage.distance_transform_edt(~edge, MM) for edge in edges]
        distances = [far[1][edges[0]], far[0][edges[1]]]
        lesions = [label(mask, connectivity=kind).max() for mask in masks for kind in (1, 3)]
        precision, recall, _ = precision_recall_curve(masks[0].ravel("K"), soft.ravel("K"))
        return {
            "dice": 2 * both / sum(map(np.count_nonzero, masks)),
            "hd95": float(max(np.percentile(d, 95) for d in distances)),
            "lesions": int(sum(lesions)),
            "pr_auc": float(auc(recall, precision)),
        }

    return work


def main():
    options = arguments(__doc__, 3)
    contestants = [Contestant("ours", ours), Contestant("libraries", libraries)]
    turns = compare(contestants, options.rounds)
    rows = [
        {
            "metrics by": name,
            "s a scan": spread(sample["wall_s"] for sample in own),
            "CPU, times ours": times_ours(turns["ours"], own),
            "peak, MB": spread(sample["peak_mb"] for sample in own),
        }
        for name, own in turns.items()
    ]
    report("metrics", rows, turns)


if __name__ == "__main__":
    main()
