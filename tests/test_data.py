"""Batches: who is in them, in which order, and that image and mask are distorted as one."""

import numpy as np
import pytest

from config import load_settings
from data import Parts, distort, draw_distortions, training_order

RANGES = {"rotation_degrees": 10, "shift": 0.1, "zoom": 0.2, "flip": True}
NOTHING = {"rotation_degrees": 0, "shift": 0, "zoom": 0, "flip": False}


@pytest.fixture
def parts(prepared, tiny_overrides):
    """Make the parts of the tiny lesion data, some settings changed."""

    def make(*changes):
        settings = load_settings(
            None, [*tiny_overrides[1::2], f"paths.prepared={prepared}", *changes]
        )
        return Parts("atlas", settings, settings.transfer)

    return make


def all_batches(batches, epoch):
    found = batches.dataset(epoch, epoch + 1).as_numpy_iterator()
    return [np.concatenate(arrays) for arrays in zip(*found, strict=True)]


def subjects_of(parts, batches):
    return set(parts.rows.subject.iloc[batches.order(0)])


def test_no_subject_is_in_training_and_validation(parts):
    parts = parts()
    training, validation = (subjects_of(parts, b) for b in (parts.training, parts.validation))
    assert training
    assert validation
    assert not training & validation


def test_two_epochs_are_augmented_differently_and_one_epoch_always_alike(parts):
    batches = parts().training
    # The same slices in the same order, so that only the distortion can differ.
    batches.order, batches.steps = lambda epoch: np.arange(8), 2
    first, again, second = (all_batches(batches, epoch)[0] for epoch in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert np.mean(first != second) > 0.3


def test_each_image_of_a_batch_has_a_distortion_of_its_own(parts):
    batches = parts().training
    batches.order, batches.steps = lambda epoch: np.full(4, 5), 1
    images = next(iter(batches.dataset()))[0].numpy()
    assert all(np.mean(images[0] != other) > 0.3 for other in images[1:])


def test_validation_is_not_augmented_and_the_same_in_every_epoch(parts):
    parts = parts("transfer.augmentation=true")
    images, masks = all_batches(parts.validation, 0)
    for image, mask, row in zip(images, masks, parts.validation.order(0), strict=True):
        original, lesion = parts.reader.read(row)
        np.testing.assert_array_equal(image[..., 0], parts.reader.standardise(row, original))
        np.testing.assert_array_equal(mask[..., 0], lesion)
    np.testing.assert_array_equal(images, all_batches(parts.validation, 1)[0])


def test_without_augmentation_training_slices_are_as_prepared(parts):
    parts = parts("transfer.augmentation=false")
    images = next(iter(parts.training.dataset()))[0]
    rows = parts.training.rows(0)
    expected = [parts.reader.standardise(row, parts.reader.read(row)[0]) for row in rows]
    np.testing.assert_array_equal(images[..., 0], expected)


def test_masks_stay_binary_after_augmentation(parts):
    _, masks = all_batches(parts().training, 0)
    assert set(np.unique(masks)) == {0.0, 1.0}


def test_distorting_a_mask_invents_no_value_between():
    # With 0 and 1 the rounding to 8 bit would hide a mask that is interpolated.
    mask = np.zeros((96, 96), np.uint8)
    mask[30:60, 20:45] = 255
    for matrix in draw_distortions(np.random.default_rng(0), 10, mask.shape, **RANGES):
        assert set(np.unique(distort(mask, mask, matrix)[1])) == {0, 255}


def test_image_and_mask_move_together():
    rng = np.random.default_rng(0)
    mask = np.zeros((96, 96), np.uint8)
    mask[30:60, 20:45] = 1
    for matrix in draw_distortions(rng, 30, mask.shape, **RANGES):
        image, moved = distort(mask * 200, mask, matrix)
        # Bilinear against nearest: the two may differ by a rim, not by a shift.
        overlap = 2 * ((image > 100) & (moved > 0)).sum() / ((image > 100).sum() + moved.sum())
        assert overlap > 0.97


def test_augmentation_keeps_the_size_of_lesions_on_average():
    rng = np.random.default_rng(0)
    mask = np.zeros((96, 96), np.uint8)
    mask[40:56, 40:56] = 1
    ranges = RANGES | {"zoom": 0}
    sizes = [
        distort(mask, mask, m)[1].sum() for m in draw_distortions(rng, 200, (96, 96), **ranges)
    ]
    assert np.mean(sizes) == pytest.approx(mask.sum(), rel=0.01)


@pytest.mark.parametrize(
    ("name", "value", "furthest"),
    [("shift", 0.1, 9.6), ("rotation_degrees", 10, 0), ("zoom", 0.2, 0)],
)
def test_distortions_stay_in_their_ranges(name, value, furthest):
    rng = np.random.default_rng(0)
    matrices = draw_distortions(rng, 2000, (96, 96), **(NOTHING | {name: value}))
    middle = np.array([47.5, 47.5])
    moved = matrices[:, :, :2] @ middle + matrices[:, :, 2] - middle
    assert np.abs(moved).max() <= furthest + 1e-9
    scale = np.sqrt(np.abs(np.linalg.det(matrices[:, :, :2])))
    angle = np.rad2deg(np.arctan2(matrices[:, 1, 0], matrices[:, 0, 0]))
    if name == "zoom":
        assert 0.82 < scale.min() < 0.86
        assert 1.2 < scale.max() < 1.26
    else:
        np.testing.assert_allclose(scale, 1)
    limit = value if name == "rotation_degrees" else 0
    assert np.abs(angle).max() <= limit + 1e-9
    assert np.abs(angle).max() >= 0.95 * limit


def test_flips_mirror_left_and_right_in_half_of_the_images():
    image = np.arange(96 * 96, dtype=np.int64).reshape(96, 96).astype(np.uint8)
    draws = draw_distortions(np.random.default_rng(0), 400, (96, 96), **(NOTHING | {"flip": True}))
    flipped = 0
    for matrix in draws:
        result = distort(image, image, matrix)[1]
        assert np.array_equal(result, image) or np.array_equal(result, image[:, ::-1])
        flipped += np.array_equal(result, image[:, ::-1])
    assert 150 < flipped < 250


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


def test_validation_holds_all_slices_of_its_subjects_also_the_empty_ones(parts):
    parts = parts()
    rows = parts.validation.order(0)
    subjects = set(parts.rows.subject.iloc[rows])
    assert len(rows) == parts.rows.subject.isin(subjects).sum()
    assert not parts.has_lesion[rows].all()


def test_the_stream_gives_the_batches_in_order_from_any_epoch(parts):
    batches = parts().training
    stream = list(batches.dataset(1, 3))
    assert len(stream) == 2 * batches.steps
    for step, (images, masks) in enumerate(stream, start=batches.steps):
        stored, lesions, mean, factor = batches.batch(step)
        assert stored.dtype == lesions.dtype == np.uint8
        np.testing.assert_array_equal(images, (stored.astype(np.float32) - mean) * factor)
        np.testing.assert_array_equal(masks, lesions)


def test_the_order_of_an_epoch_is_drawn_once_and_not_for_each_batch(parts):
    batches = parts().training
    drawn = batches.order.cache_info().misses
    assert len(list(batches.dataset(0, 2))) == 2 * batches.steps
    assert batches.order.cache_info().misses <= drawn + 2
