"""Lesions are set into other slices whole, in place, and on the scale of their grey levels."""

import numpy as np
import pandas
import pytest

from carvemix import CarveMix, carve
from scans.slices import SliceReader

SIDE = 48


def disc(radius, centre=(24, 24)):
    return (np.hypot(*(np.indices((SIDE, SIDE)).T - centre).T) <= radius).astype(np.uint8)


@pytest.fixture
def slices(tmp_path):
    """Two scans of six slices: subject a without lesion at grey 100, b with a disc of 40 in 60."""
    masks = {"a": np.zeros((6, SIDE, SIDE), np.uint8), "b": np.stack([disc(8)] * 6)}
    images = {"a": np.full((6, SIDE, SIDE), 100, np.uint8), "b": 60 - 20 * masks["b"]}
    rows = []
    for subject, mean, std in (("a", 100.0, 40.0), ("b", 60.0, 20.0)):
        for kind, stack in (("image", images), ("mask", masks)):
            np.save(tmp_path / f"{subject}_{kind}.npy", stack[subject].astype(np.uint8))
        rows += [
            {
                "dataset": "atlas", "subject": subject, "session": "1", "z": z, "position": z,
                "image": f"{subject}_image.npy", "mask": f"{subject}_mask.npy",
                "mean": mean, "std": std,
            }
            for z in range(6)
        ]  # fmt: skip
    return tmp_path, pandas.DataFrame(rows)


def mixing(slices, probability, **channels):
    folder, rows = slices
    reader = SliceReader(folder, rows, **channels)
    subjects, heights = rows.subject.to_numpy(), rows.z.to_numpy()
    return CarveMix(reader, np.arange(6, 12), subjects, heights, probability)


def test_a_carved_region_is_the_lesion_grown_or_shrunk():
    lesion = disc(8)
    rng = np.random.default_rng(0)
    radii = []
    for _ in range(300):
        region = carve(lesion, rng)
        smaller = not (region & ~lesion.astype(bool)).any()
        larger = not (lesion.astype(bool) & ~region).any()
        assert smaller or larger
        radii.append(np.sqrt(region.sum() / np.pi))
    # Half of the depth inwards, the whole depth outwards.
    assert 3.5 < min(radii) < 5
    assert 14.5 < max(radii) < 17
    assert 0.4 < np.mean(np.array(radii) < 8) < 0.6


def test_a_lesion_comes_with_its_mask_on_the_scale_of_the_other_scan(slices):
    mix = mixing(slices, 1)
    rng = np.random.default_rng(0)
    for _ in range(20):
        image, mask = mix(2, *mix.reader.read_channels(2), rng)
        lesion = mask > 0
        assert lesion.any()
        assert not (lesion & (disc(8) == 0)).any()
        # 40 is one deviation of 20 below b's mean of 60, as 60 is one of 40 below a's mean of 100.
        assert set(image[lesion].ravel()) == {60}
        assert set(image[~lesion].ravel()) == {100}


def test_the_lesion_in_neighbours_moves_with_the_slice(slices):
    folder, _ = slices
    np.save(folder / "b_mask.npy", np.stack([disc(5, (24, 10))] * 6))
    np.save(folder / "b_image.npy", np.stack([60 - 20 * disc(5, (24, 10))] * 6).astype(np.uint8))
    mix = mixing(slices, 1, neighbours=1)
    image, mask = mix(2, *mix.reader.read_channels(2), np.random.default_rng(1))
    assert image.shape == (SIDE, SIDE, 3)
    for channel in range(3):
        np.testing.assert_array_equal(image[..., channel] == 60, mask > 0)


def test_air_stays_air_and_nothing_else_becomes_it(slices):
    folder, _ = slices
    images = np.zeros((6, SIDE, SIDE), np.uint8)
    images[:] = disc(12) * 60 - disc(8) * 58
    np.save(folder / "b_image.npy", images)
    mix = mixing(slices, 1)
    rng = np.random.default_rng(0)
    seen = set()
    for _ in range(40):
        image, _ = mix(2, *mix.reader.read_channels(2), rng)
        seen |= set(image.ravel())
    # Outside b's head, its lesion (far below the scale of a), its tissue, and a's own grey level.
    assert seen == {0, 1, 100}


def test_lesions_come_from_near_heights_and_from_each_subject_alike(slices, monkeypatch):
    folder, rows = slices
    rows.loc[6, "subject"] = "c"
    monkeypatch.setattr("carvemix.REACH", 1)
    mix = mixing((folder, rows), 1)
    drawn = [mix.draw(1, np.random.default_rng(seed)) for seed in range(400)]
    assert set(drawn) == {6, 7, 8}
    # One slice of c, two of b.
    assert 0.42 < np.mean(np.array(drawn) == 6) < 0.58
    assert (
        mixing((folder, rows.assign(z=rows.z + 20 * (rows.subject == "a"))), 1).draw(0, None)
        is None
    )


def test_a_subject_never_gets_its_own_lesion(slices):
    folder, rows = slices
    rows.loc[6, "subject"] = "c"
    mix = mixing((folder, rows), 1)
    assert {mix.draw(8, np.random.default_rng(seed)) for seed in range(50)} == {6}
    assert mix.draw(6, np.random.default_rng(0)) > 6


def test_as_many_slices_get_a_lesion_as_was_asked_for(slices):
    mix = mixing(slices, 0.3)
    pair = mix.reader.read_channels(2)
    mixed = [mix(2, *pair, np.random.default_rng(seed))[1].any() for seed in range(500)]
    assert 0.24 < np.mean(mixed) < 0.36
    untouched = mixing(slices, 0)
    assert untouched(2, *pair, np.random.default_rng(0)) == pair
