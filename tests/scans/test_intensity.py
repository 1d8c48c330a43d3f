"""Scans of every scanner and every type on disk come to one intensity scale."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from scans.intensity import scale_intensity, standardise
from scans.volumes import load_volume


def noise():
    return np.random.default_rng(0).normal(size=(12, 12, 12)).astype(np.float32)


def test_air_stays_0_and_the_head_takes_the_whole_scale():
    voxels = np.where(noise() > 0, noise() * 300 + 100, 0)
    scaled, _, _ = scale_intensity(voxels)
    assert scaled.dtype == np.uint8
    np.testing.assert_array_equal(scaled == 0, voxels == 0)
    assert (scaled[scaled > 0].min(), scaled.max()) == (1, 255)


@given(gain=st.floats(1e-3, 1e3), offset=st.floats(-100, 100))
def test_a_scanner_with_another_gain_and_offset_gives_the_same_image(gain, offset):
    voxels = np.where(noise() > 0, noise() * 300 + 100, 0)
    rescaled = np.where(voxels != 0, voxels * gain + offset, 0).astype(np.float32)
    if ((rescaled == 0) != (voxels == 0)).any():
        return
    expected, *expected_moments = scale_intensity(voxels)
    found, *moments = scale_intensity(rescaled)
    assert np.abs(found.astype(int) - expected).max() <= 1
    np.testing.assert_allclose(moments, expected_moments, atol=0.1)


def test_the_brightest_and_darkest_half_percent_do_not_set_the_scale():
    voxels = np.arange(1, 10001, dtype=np.float32).reshape(10, 10, 100)
    scaled, _, _ = scale_intensity(voxels)
    voxels.flat[-49:] = 1e6
    np.testing.assert_array_equal(scale_intensity(voxels)[0], scaled)
    # Half a step at the ends rounds to 1 and 255 as well: 0.2 % of 254 steps.
    for end in (1, 255):
        assert (scaled == end).mean() == pytest.approx(0.007, abs=0.0005)


def test_order_of_intensities_is_kept():
    voxels = np.sort(noise().ravel()).reshape(12, 12, 12)
    scaled, _, _ = scale_intensity(voxels)
    assert (np.diff(scaled.ravel().astype(int)) >= 0).all()


@pytest.mark.parametrize("values", [[1], [-3], [1, 1000], [1e30, -1e30], [1e-40, 2e-40]])
def test_an_image_of_few_values_is_scaled_without_a_failure(values):
    """A mask taken for an image, by a wrong image_suffix, must not end in a traceback."""
    voxels = np.zeros((10, 10, 10), np.float32)
    voxels.flat[500:] = values[0]
    voxels.flat[990:] = values[-1]
    scaled, mean, std = scale_intensity(voxels)
    np.testing.assert_array_equal(scaled == 0, voxels == 0)
    assert np.isfinite([mean, std]).all()


def test_both_data_sets_have_the_same_intensity_scale(tiny_trees):
    images = [*tiny_trees.atlas.rglob("sub*_T1w.nii.gz"), *tiny_trees.brats17.rglob("*_t1.nii*")]
    assert len(images) == 17
    for path in images:
        scaled, mean, std = scale_intensity(load_volume(path).voxels)
        standard = standardise(scaled, mean, std)
        assert standard.dtype == np.float32
        assert abs(standard[scaled > 0].mean()) < 1e-3
        assert abs(standard[scaled > 0].std() - 1) < 1e-3


@pytest.mark.parametrize("dtype", [np.uint8, np.int8, np.uint16, np.int16])
@given(data=st.data())
def test_integers_are_scaled_to_the_very_bits_of_the_same_floats(dtype, data):
    """Integers are counted and looked up, floats are computed: two ways to one result."""
    shape = data.draw(array_shapes(min_dims=3, max_dims=3, max_side=6))
    few = data.draw(st.lists(st.integers(np.iinfo(dtype).min, np.iinfo(dtype).max), min_size=1))
    voxels = data.draw(arrays(dtype, shape, elements=st.sampled_from(few)))
    voxels.flat[0] = 1  # not all of them 0
    for turned in (voxels, voxels.T, voxels[::-1, :, ::-1]):
        found, *moments = scale_intensity(turned)
        expected, *expected_moments = scale_intensity(turned.astype(np.float32))
        np.testing.assert_array_equal(found, expected)
        assert moments == expected_moments
