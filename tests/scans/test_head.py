"""Where the head is, is told from its intensities, however much air is around it."""

import numpy as np

from scans.head import head_planes


def block(shape, *head):
    scaled = np.zeros(shape, np.uint8)
    scaled[head] = 200
    return scaled


def test_the_planes_that_cross_the_head_are_found_along_each_axis():
    scaled = block((20, 30, 10), slice(3, 9), slice(12, 28), slice(1, 10))
    planes = head_planes(scaled, mean=200.0)
    assert [axis.shape for axis in planes] == [(20,), (30,), (10,)]
    assert [np.flatnonzero(axis).tolist() for axis in planes] == [
        list(range(3, 9)),
        list(range(12, 28)),
        list(range(1, 10)),
    ]


def test_dark_noise_and_a_few_bright_voxels_are_no_head():
    scaled = block((20, 30, 10), slice(3, 9), slice(12, 28), slice(1, 10))
    rng = np.random.default_rng(0)
    noisy = np.where(scaled > 0, scaled, rng.integers(0, 90, scaled.shape)).astype(np.uint8)
    noisy[19, 0, 0] = 255  # 1 of the 300 voxels of its plane
    for found, expected in zip(head_planes(noisy, 200.0), head_planes(scaled, 200.0), strict=True):
        np.testing.assert_array_equal(found, expected)


def test_a_head_of_less_than_two_percent_of_any_plane_is_still_found():
    scaled = block((20, 30, 10), 4, 7, 5)
    planes = head_planes(scaled, mean=200.0)
    assert [np.flatnonzero(axis).tolist() for axis in planes] == [[4], [7], [5]]
