"""Lesions of a mask: the small ones left out, the others as they were."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from small_masks import cubes, flood_fill, mask_pairs

from prediction.lesions import remove_small


def test_lesions_below_the_smallest_size_are_removed_and_no_others():
    mask = cubes((0, 0, 0), (6, 6, 6)) * np.uint8(255)
    mask[8, 8, 8] = 255  # by a corner: a lesion of its own
    for smallest, left in ((0, 17), (1, 17), (2, 16), (8, 16), (9, 0)):
        kept = remove_small(mask, smallest)
        assert kept.dtype == np.uint8
        assert np.count_nonzero(kept) == left
        assert np.isin(kept, (0, 255)).all()
    assert remove_small(mask > 0, 2).dtype == bool
    assert not remove_small(cubes(), 5).any()


@settings(max_examples=200)
@given(mask_pairs((6, 5, 5)), st.integers(0, 4))
def test_removing_small_lesions_equals_the_slow_and_obvious_way(masks, smallest):
    expected = np.zeros_like(masks[0])
    for component in flood_fill(masks[0]):
        if len(component) >= smallest:
            expected[tuple(np.transpose(list(component)))] = 1
    np.testing.assert_array_equal(remove_small(masks[0], smallest), expected)


def test_the_mask_is_left_as_it_is():
    mask = cubes((5, 4, 4), (0, 0, 0))
    before = mask.copy()
    remove_small(mask, 9)
    np.testing.assert_array_equal(mask, before)
