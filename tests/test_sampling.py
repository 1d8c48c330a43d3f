"""Which slices an epoch takes: every lesion slice, a fresh draw of empty ones, and how often."""

import numpy as np
import pytest

from sampling import training_order


def test_every_lesion_slice_comes_once_an_epoch_and_empty_ones_are_drawn_anew():
    lesion, empty = np.arange(20), np.arange(20, 120)
    order = training_order(lesion, empty, 0.5, None, seed=3)
    drawn = []
    for epoch in (0, 1):
        rows = order(epoch)
        assert sorted(rows[rows < 20]) == list(range(20))
        assert len(rows) == len(set(rows)) == 30
        drawn.append(set(rows[rows >= 20]))
    assert drawn[0] != drawn[1]
    assert list(order(0)) != list(order(1))
    assert list(order(0)) == list(training_order(lesion, empty, 0.5, None, seed=3)(0))
    assert list(order(0)) != list(training_order(lesion, empty, 0.5, None, seed=4)(0))


@pytest.mark.parametrize(("share", "count"), [(0, 20), (1.0, 40), (100, 120), ("all", 120)])
def test_the_share_of_empty_slices_is_as_set(share, count):
    assert len(training_order(np.arange(20), np.arange(20, 120), share, None, 0)(0)) == count


@pytest.mark.parametrize(("per_epoch", "rounds"), [(12, 0), (30, 1), (75, 2)])
def test_an_epoch_has_as_many_slices_as_are_asked_for(per_epoch, rounds):
    order = training_order(np.arange(20), np.arange(20, 120), 0.5, per_epoch, seed=3)
    counts = np.bincount(order(0), minlength=120)
    assert counts.sum() == len(order(1)) == per_epoch
    assert set(counts[:20]) == {rounds, rounds + 1} if per_epoch % 30 else {rounds}
    assert list(order(0)) != list(order(1))
    if rounds == 2:
        # Each round draws its own empty slices.
        assert np.count_nonzero(counts[20:]) > 10


def test_a_balanced_order_shows_every_subject_equally_often():
    lesion, empty = np.arange(110), np.arange(110, 120)
    whose = np.array(["large"] * 100 + ["small"] * 10)
    order = training_order(lesion, empty, 0.0, None, seed=3, subjects=whose)
    rows = np.concatenate([order(epoch) for epoch in range(20)])
    assert len(rows) == 20 * 110
    assert 0.45 < np.mean(rows >= 100) < 0.55
    # And within a subject every slice.
    assert set(rows) == set(lesion)
