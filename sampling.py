"""Which slices an epoch takes, and in which order; no TensorFlow."""

import math

import numpy as np


def training_order(lesion, empty, empty_per_lesion, per_epoch, seed, subjects=None):
    """Make the order of training: every lesion slice, and a fresh draw of empty ones, shuffled.

    Parameters
    ----------
    lesion, empty : ndarray of int
        Row numbers of slices with and without lesion.
    empty_per_lesion : float or "all"
    per_epoch : int or None
        Take so many of them: a part, another in every epoch, or several rounds.
    seed : int
    subjects : ndarray of str, optional
        Whose the lesion slices are: as many of them are drawn in all, and as often of each
        subject, however many slices its lesion reaches over.

    Returns
    -------
    callable
        Epoch (from 0) to row numbers.
    """
    share = None
    if subjects is not None:
        _, whose, counts = np.unique(subjects, return_inverse=True, return_counts=True)
        share = 1 / counts[whose] / len(counts)
    count = len(empty)
    if empty_per_lesion != "all":
        count = min(count, round(empty_per_lesion * len(lesion)))

    rounds = 1 if per_epoch is None else math.ceil(per_epoch / max(1, len(lesion) + count))

    def draw(rng):
        drawn = lesion if share is None else rng.choice(lesion, len(lesion), p=share)
        rows = np.concatenate([drawn, rng.choice(empty, count, replace=False)])
        return rng.permutation(rows)

    def order(epoch):
        rng = np.random.default_rng([seed, epoch])
        return np.concatenate([draw(rng) for _ in range(rounds)])[:per_epoch]

    return order


def validation_order(rows, seed):
    """Make the order of validation: all slices, mixed once, the same in every epoch.

    Mixed, because the loss is one figure a batch: eight slices in a row are often all empty.
    """
    mixed = np.random.default_rng(seed).permutation(rows)
    return lambda epoch: mixed
