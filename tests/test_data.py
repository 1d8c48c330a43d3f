"""Batches: who is in them, in which order and how often, and how they are augmented."""

import numpy as np
import pytest
from conftest import refused

from config import load_settings
from data import Batches, load_stage_data, training_order
from losses import NO_IMAGE
from system.devices import feed


@pytest.fixture
def load(prepared, tiny_overrides):
    """Return a function that loads the tiny lesion data for a transfer, some settings changed."""

    def load(*changes, augmented=True):
        overrides = [*tiny_overrides[1::2], f"paths.prepared={prepared}", *changes]
        return load_stage_data("atlas", load_settings(None, overrides), 4, augmented)

    return load


def all_batches(batches, epoch):
    found = batches.stream(epoch, epoch + 1)
    return [np.concatenate(arrays) for arrays in zip(*found, strict=True)]


def subjects_of(data, batches):
    return set(data.rows.subject.iloc[batches.order(0)])


def test_no_subject_is_in_training_and_validation(load):
    data = load()
    training, validation = (subjects_of(data, b) for b in (data.training, data.validation))
    assert training
    assert validation
    assert not training & validation


def test_the_held_back_subjects_are_not_among_the_intensities_of_training(load):
    data = load()
    known = data.intensities
    held_back = (data.rows.dataset + "/" + data.rows.subject).isin(data.subjects["test"])
    assert held_back.any()
    data.rows.loc[held_back, ["mean", "std"]] = 250.0
    assert data.intensities == known
    data.rows.loc[~held_back, "mean"] += 1
    assert data.intensities["mean"]["mean"] == pytest.approx(known["mean"]["mean"] + 1, abs=0.02)


def test_two_epochs_are_augmented_differently_and_one_epoch_always_alike(load):
    batches = load("augmentation.carve_mix=0.5").training
    # The same slices in the same order, so that only the distortion can differ.
    batches.order, batches.steps = lambda epoch: np.arange(8), 2
    first, again, second = (all_batches(batches, epoch)[0] for epoch in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert np.mean(first != second) > 0.3


def test_each_image_of_a_batch_has_a_distortion_of_its_own(load):
    batches = load().training
    batches.order, batches.steps = lambda epoch: np.full(4, 5), 1
    images = batches[0][0]
    assert all(np.mean(images[0] != other) > 0.3 for other in images[1:])


def test_validation_is_not_augmented_and_the_same_in_every_epoch(load):
    data = load("augmentation.carve_mix=1")
    images, masks = all_batches(data.validation, 0)
    for image, mask, row in zip(images, masks, data.validation.order(0), strict=True):
        original, lesion = data.reader.read(row)
        np.testing.assert_array_equal(image[..., 0], data.reader.standardise(row, original))
        np.testing.assert_array_equal(mask[..., 0], lesion)
    np.testing.assert_array_equal(images, all_batches(data.validation, 1)[0])


def test_without_augmentation_training_slices_are_as_prepared(load):
    data = load("augmentation.carve_mix=1", augmented=False)
    images = data.training[0][0]
    rows = data.training.rows(0)
    expected = [data.reader.standardise(row, data.reader.read(row)[0]) for row in rows]
    np.testing.assert_array_equal(images[..., 0], expected)


def test_the_shards_of_processes_make_up_the_batch_and_fills_are_no_images(load):
    batches = load("augmentation.carve_mix=0.5").training
    images, masks, *_ = batches.batch(0)
    assert len(images) == 4
    for shard in (range(0, 3), range(3, 6)):
        batches.shard = lambda size, shard=shard: shard
        shard_images, shard_masks, *_ = batches.batch(0)
        there = [i for i in shard if i < 4]
        np.testing.assert_array_equal(shard_images[: len(there)], images[there])
        np.testing.assert_array_equal(shard_masks[: len(there)], masks[there])
        assert (shard_masks[len(there) :] == NO_IMAGE).all()


@pytest.mark.parametrize(
    ("changes", "channels"),
    [((), 1), (("unet.neighbours=1", "augmentation.carve_mix=1"), 3)],
)
def test_training_sees_windows_and_validation_whole_slices(changes, channels, load):
    data = load("augmentation.crop=16", "augmentation.gamma=0.2", *changes)
    images, masks = all_batches(data.training, 0)
    assert images.shape[1:] == (16, 16, channels)
    assert masks.shape[1:] == (16, 16, 1)
    assert masks[data.has_lesion[data.training.order(0)]].any((1, 2, 3)).mean() > 0.9
    assert all_batches(data.validation, 0)[0].shape[1:] == (32, 32, channels)


def test_masks_stay_binary_after_augmentation(load):
    _, masks = all_batches(load().training, 0)
    assert set(np.unique(masks)) == {0.0, 1.0}


def test_lesions_are_carved_from_training_subjects_alone(load):
    still = [f"augmentation.{name}=0" for name in ("rotation_degrees", "shift", "zoom")]
    still.append("augmentation.flip=false")
    mixed = load(*still, "augmentation.carve_mix=1")
    # Every lesion slice of training is in each epoch.
    rows = mixed.training.order(0)
    assert set(mixed.training.carve_mix.donors) == set(rows[mixed.has_lesion[rows]])
    assert mixed.validation.carve_mix is None
    plain = load(*still).training.batch(0)[1]
    assert (mixed.training.batch(0)[1] != plain).any()


@pytest.mark.parametrize(
    ("name", "cut_by", "wanted"),
    [
        ("slices.skip", 2, 3),
        ("slices.size", 32, 48),
        ("geometry.align", "none", "template"),
    ],
)
def test_slices_that_were_cut_by_other_settings_are_refused(name, cut_by, wanted, load):
    with refused(f"prepared with {name} = {cut_by}, not {wanted}", "paths.prepared"):
        load(f"{name}={wanted}")


def test_other_folds_than_prep_drew_are_refused(load):
    with refused(
        "splits.json", "has 3 folds of atlas, and split.folds is 4", "set split.folds to 3"
    ):
        load("split.folds=4")


def test_balancing_is_a_matter_of_lesion_slices_alone(load):
    plain, balanced = (load(f"slices.balanced={value}").training for value in ("false", "true"))
    assert balanced.steps == plain.steps
    bearing = load().has_lesion
    shares = [np.mean(bearing[batches.order(0)]) for batches in (plain, balanced)]
    assert shares[0] == shares[1]
    assert sorted(plain.order(0)) != sorted(balanced.order(0))


def test_neighbours_are_given_to_training_and_validation(load):
    data = load("unet.neighbours=1", augmented=False)
    for batches in (data.training, data.validation):
        images, masks = batches[0]
        for image, mask, row in zip(images, masks, batches.rows(0), strict=True):
            own, lesion = data.reader.read(row)
            own = data.reader.standardise(row, own)
            assert image.shape == (32, 32, 3)
            np.testing.assert_array_equal(image[..., 1], own)
            np.testing.assert_array_equal(mask[..., 0], lesion)


def test_validation_holds_all_slices_of_its_subjects_also_the_empty_ones(load):
    data = load()
    rows = data.validation.order(0)
    assert len(rows) == data.rows.subject.isin(subjects_of(data, data.validation)).sum()
    assert not data.has_lesion[rows].all()


def test_the_stream_gives_the_batches_in_order_from_any_epoch(load):
    batches = load().training
    stream = list(batches.stream(1, 3))
    assert len(stream) == 2 * batches.steps
    for step, (images, masks) in enumerate(stream, start=batches.steps):
        stored, lesions, mean, factor = batches.batch(step)
        assert stored.dtype == lesions.dtype == np.uint8
        np.testing.assert_array_equal(images, (stored.astype(np.float32) - mean) * factor)
        np.testing.assert_array_equal(masks, lesions)


def test_keras_gets_the_batches_of_the_epoch_that_is_chosen(load):
    """By `tf.data`, where they are standardised by TensorFlow."""
    batches = load().training
    fed = feed(batches)
    for epoch in (0, 2):
        wanted = list(batches.stream(epoch, epoch + 1))
        batches.epoch = epoch
        found = list(fed.as_numpy_iterator())
        assert len(found) == batches.steps
        for one, other in zip(found, wanted, strict=True):
            for ours, theirs in zip(one, other, strict=True):
                np.testing.assert_array_equal(ours, theirs)


def test_the_order_of_an_epoch_is_drawn_once_and_not_for_each_batch(load):
    batches = load().training
    drawn = batches.order.cache_info().misses
    assert len(list(batches.stream(0, 2))) == 2 * batches.steps
    assert batches.order.cache_info().misses <= drawn + 2


# --- which slices an epoch takes ---


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


@pytest.mark.parametrize(
    ("changes", "parts"),
    [
        (("augmentation.noise=0.1", "augmentation.crop=16"), ["noise", "crop", "host"]),
        (("augmentation.carve_mix=0.5",), ["augmentation.carve_mix"]),
        ((), ["JAX and PyTorch", "KERAS_BACKEND=jax"]),
    ],
)
def test_what_a_device_cannot_do_is_refused(load, changes, parts):
    with refused("hardware.data = device", *parts):
        load("hardware.data=device", *changes)


def test_slices_are_kept_on_a_device_with_room_for_them_that_can_augment_them(load, monkeypatch):
    kept = []
    monkeypatch.setattr("data.DeviceSlices", lambda reader, rows: kept.append(len(rows)) or reader)
    monkeypatch.setattr(
        "data.DeviceBatches", lambda reader, *arguments: Batches(reader, *arguments)
    )
    data = load()
    assert not kept  # TensorFlow has no room
    used = len(data.rows) - 12 * len(data.subjects["test"])
    monkeypatch.setattr("data.free_memory", lambda: 10**9)
    load("hardware.data=host")
    load("augmentation.blur=1")
    assert not kept
    load("augmentation.blur=1", augmented=False)
    load()
    assert kept == [used, used]
    monkeypatch.setattr("data.free_memory", lambda: 10**5)
    load()
    assert len(kept) == 2
    with refused("the slices need", "0.0 GB are free"):
        load("hardware.data=device")
