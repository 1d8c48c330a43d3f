"""A scan is found again under another name, also if no voxel is the same; other scans are not."""

import base64

import numpy as np
import pytest
from conftest import ellipsoid
from scipy.ndimage import gaussian_filter, rotate, zoom

from scans.intensity import scale_intensity
from scans.near_duplicates import SAME_SCAN, SIDE, find_near_duplicates, make_thumbnail

SHAPE = (96, 112, 92)


def draw_head(number, background):
    """A head with folds of its own, bright tissue and dark fluid; some anatomy is common to all."""
    common, own = (
        gaussian_filter(np.random.default_rng(seed).standard_normal(SHAPE), 6)
        for seed in ([3, 0], [3, 1 + number])
    )
    middle = np.array(SHAPE) / 2
    head = ellipsoid(SHAPE, middle, middle * 0.8) < 1
    folds = 0.5 * common / common.std() + own / own.std()
    tissue = np.clip(700 + 500 * folds, 80, 900)
    air = background * np.random.default_rng(number).random(SHAPE)
    return np.where(head, tissue, air).astype(np.float32)


def correlation(one, other):
    cubes = [
        np.frombuffer(base64.b64decode(make_thumbnail(scale_intensity(v)[0])), np.int8).astype(
            float
        )
        for v in (one, other)
    ]
    assert cubes[0].shape == (SIDE**3,)
    return cubes[0] @ cubes[1] / np.prod([np.linalg.norm(cube) for cube in cubes])


def noisy(head):
    noise = np.random.default_rng(9).standard_normal(head.shape)
    return np.abs(head + 0.05 * head.max() * noise).astype(np.float32)


@pytest.mark.parametrize("background", [0, 20])
@pytest.mark.parametrize(
    "change",
    [
        noisy,
        lambda head: head + 1,
        lambda head: head * 1.3,
        lambda head: np.roll(head, (3, -2, 4), (0, 1, 2)),
        lambda head: head[3:-2, 4:-3, 2:-3],
        lambda head: zoom(head, (0.8, 0.8, 1), order=1),
        lambda head: zoom(head, (1, 1, 0.5), order=1),
        lambda head: gaussian_filter(head, 1),
        lambda head: rotate(head, 2, (0, 1), reshape=False, order=1),
    ],
    ids=["noise", "brighter", "gain", "moved", "cropped", "coarser", "thick", "blurred", "turned"],
)
def test_a_copy_is_alike_however_it_was_changed(change, background):
    head = draw_head(0, background)
    assert correlation(head, change(head)) > SAME_SCAN


@pytest.mark.parametrize("background", [0, 20])
def test_two_heads_are_not_alike(background):
    heads = [draw_head(number, background) for number in range(4)]
    for i, one in enumerate(heads):
        for other in heads[:i]:
            assert correlation(one, other) < SAME_SCAN - 0.1


def thumbnail(cells):
    return base64.b64encode(np.asarray(cells, np.int8)).decode()


def test_what_is_alike_over_a_third_one_has_the_number_of_the_first():
    rng = np.random.default_rng(0)
    one, other = rng.normal(0, 30, (2, SIDE**3))
    # 0.96 from its neighbours, 0.84 from the one after them.
    chain = [np.cos(angle) * one + np.sin(angle) * other for angle in (0, 0.28, 0.56)]
    strangers = rng.normal(0, 30, (2, SIDE**3))
    cubes = [strangers[0], chain[0], chain[2], strangers[1], chain[1]]
    assert list(find_near_duplicates([thumbnail(c) for c in cubes])) == [0, 1, 1, 3, 1]
    assert list(find_near_duplicates([thumbnail(c) for c in cubes[:4]])) == [0, 1, 2, 3]


def test_scans_without_anything_in_them_are_not_alike():
    empty = thumbnail(np.zeros(SIDE**3))
    assert list(find_near_duplicates([empty, empty, thumbnail(np.arange(SIDE**3) % 100)])) == [
        0,
        1,
        2,
    ]


def test_a_scan_of_one_grey_level_has_a_thumbnail():
    assert len(base64.b64decode(make_thumbnail(np.full((20, 20, 20), 7, np.uint8)))) == SIDE**3
