"""Lesions segmented by grey level alone: what a network has to beat."""

import numpy as np

from scans.manifest import load_manifest
from scans.reader import SliceReader
from scans.splits import load_split, rows_of


def threshold_baseline(prepared, fold, by):
    """Segment the validation slices by the band of grey levels that is best on the training slices.

    Dice, precision and recall are of all pixels pooled, as in the stages; ``band`` is its ends in
    8-bit grey levels.
    """
    rows = load_manifest(prepared, "atlas")
    subsets = rows_of(rows, load_split(prepared, "atlas", fold, by))
    reader = SliceReader(prepared, rows)

    def cumulative_counts(numbers):
        counts = np.zeros((2, 256))  # of all pixels, of lesion pixels
        for number in numbers:
            image, mask = reader.read(number)
            counts[0] += np.bincount(image.ravel(), minlength=256)
            counts[1] += np.bincount(image[mask > 0], minlength=256)
        return np.pad(counts.cumsum(1), ((0, 0), (1, 0)))

    def overlap(counts, low, high):
        marked, both = counts[:, high + 1] - counts[:, low]
        return 2 * both / (marked + counts[1, -1]), both / max(marked, 1), both / counts[1, -1]

    training = cumulative_counts(subsets["training"])
    bands = [(low, high) for low in range(256) for high in range(low, 256)]
    best = max(bands, key=lambda band: overlap(training, *band)[0])
    dice, precision, recall = overlap(cumulative_counts(subsets["validation"]), *best)
    return {"dice": dice, "precision": precision, "recall": recall, "band": best}


def print_threshold(prepared, fold, by):
    """Print the baseline as a line of the table of `training.results.print_results`."""
    found = threshold_baseline(prepared, fold, by)
    low, high = found["band"]
    print(
        f"{'threshold':12}{'':7}{'':12}{found['dice']:8.3f}{found['precision']:11.3f}"
        f"{found['recall']:8.3f}{'':9}   (lesions by grey level alone, {low} to {high})"
    )
