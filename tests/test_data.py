"""Batches: who is in them, in which order, and that image and mask are distorted as one."""

import numpy as np
import pytest
from conftest import refused

from config import load_settings
from data import Parts
from losses import NO_IMAGE


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
    batches = parts("augmentation.carve_mix=0.5").training
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
    parts = parts("transfer.augmentation=true", "augmentation.carve_mix=1")
    images, masks = all_batches(parts.validation, 0)
    for image, mask, row in zip(images, masks, parts.validation.order(0), strict=True):
        original, lesion = parts.reader.read(row)
        np.testing.assert_array_equal(image[..., 0], parts.reader.standardise(row, original))
        np.testing.assert_array_equal(mask[..., 0], lesion)
    np.testing.assert_array_equal(images, all_batches(parts.validation, 1)[0])


def test_without_augmentation_training_slices_are_as_prepared(parts):
    parts = parts("transfer.augmentation=false", "augmentation.carve_mix=1")
    images = next(iter(parts.training.dataset()))[0]
    rows = parts.training.rows(0)
    expected = [parts.reader.standardise(row, parts.reader.read(row)[0]) for row in rows]
    np.testing.assert_array_equal(images[..., 0], expected)


def test_the_parts_of_processes_make_up_the_batch_and_fills_are_no_images(parts):
    batches = parts("transfer.augmentation=true", "augmentation.carve_mix=0.5").training
    images, masks, *_ = batches.batch(0)
    assert len(images) == 4
    for part in (range(0, 3), range(3, 6)):
        batches.part = lambda size, part=part: part
        part_images, part_masks, *_ = batches.batch(0)
        there = [i for i in part if i < 4]
        np.testing.assert_array_equal(part_images[: len(there)], images[there])
        np.testing.assert_array_equal(part_masks[: len(there)], masks[there])
        assert (part_masks[len(there) :] == NO_IMAGE).all()


@pytest.mark.parametrize(
    ("changes", "channels"),
    [((), 1), (("unet.neighbours=1", "augmentation.carve_mix=1"), 3)],
)
def test_training_sees_windows_and_validation_whole_slices(changes, channels, parts):
    parts = parts(
        "transfer.augmentation=true", "augmentation.crop=16", "augmentation.gamma=0.2", *changes
    )
    images, masks = all_batches(parts.training, 0)
    assert images.shape[1:] == (16, 16, channels)
    assert masks.shape[1:] == (16, 16, 1)
    assert masks[parts.has_lesion[parts.training.order(0)]].any((1, 2, 3)).mean() > 0.9
    assert all_batches(parts.validation, 0)[0].shape[1:] == (32, 32, channels)


def test_masks_stay_binary_after_augmentation(parts):
    _, masks = all_batches(parts().training, 0)
    assert set(np.unique(masks)) == {0.0, 1.0}


def test_lesions_are_carved_from_training_subjects_alone(parts):
    still = [f"augmentation.{name}=0" for name in ("rotation_degrees", "shift", "zoom")]
    still += ["augmentation.flip=false", "transfer.augmentation=true"]
    mixed = parts(*still, "augmentation.carve_mix=1")
    mix = mixed.training.mix
    # Every lesion slice of training is in each epoch.
    rows = mixed.training.order(0)
    assert set(mix.donors) == set(rows[mixed.has_lesion[rows]])
    assert mixed.validation.mix is None
    plain = parts(*still).training.batch(0)[1]
    assert (mixed.training.batch(0)[1] != plain).any()


@pytest.mark.parametrize(("name", "cut_by", "wanted"), [("skip", 2, 3), ("size", 32, 48)])
def test_slices_that_were_cut_by_other_settings_are_refused(name, cut_by, wanted, parts):
    with refused(f"prepared with slices.{name} = {cut_by}, not {wanted}", "paths.prepared"):
        parts(f"slices.{name}={wanted}")


def test_balancing_is_a_matter_of_lesion_slices_alone(parts):
    plain, balanced = (parts(f"slices.balanced={value}").training for value in ("false", "true"))
    assert balanced.steps == plain.steps
    bearing = parts().has_lesion
    shares = [np.mean(bearing[batches.order(0)]) for batches in (plain, balanced)]
    assert shares[0] == shares[1]
    assert sorted(plain.order(0)) != sorted(balanced.order(0))


def test_neighbours_are_given_to_training_and_validation(parts):
    parts = parts("unet.neighbours=1", "transfer.augmentation=false")
    for batches in (parts.training, parts.validation):
        images, masks = next(iter(batches.dataset()))
        for image, mask, row in zip(images.numpy(), masks.numpy(), batches.rows(0), strict=True):
            own, lesion = parts.reader.read(row)
            own = parts.reader.standardise(row, own)
            assert image.shape == (32, 32, 3)
            np.testing.assert_array_equal(image[..., 1], own)
            np.testing.assert_array_equal(mask[..., 0], lesion)


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
