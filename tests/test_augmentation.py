"""Image and mask move as one, grey levels alone are altered, and lesions are set in whole."""

import numpy as np
import pandas
import pytest
from scipy.ndimage import gaussian_filter

from augmentation import (
    CarveMix,
    alter,
    augment,
    carve,
    distort,
    draw_distortions,
    draw_window,
)
from scans.reader import SliceReader

RANGES = {"rotation_degrees": 10, "shift": 0.1, "zoom": 0.2, "flip": True}
NOTHING = {"rotation_degrees": 0, "shift": 0, "zoom": 0, "flip": False}
UNALTERED = {"gamma": 0, "noise": 0, "blur": 0, "low_resolution": 0, "bias_field": 0}
SIDE = 48  # of the slices between which lesions are exchanged


def head(channels=1, seed=0):
    """A textured disc on 0, uint8, (96, 96, channels)."""
    rng = np.random.default_rng(seed)
    texture = gaussian_filter(rng.standard_normal((96, 96, channels)), (3, 3, 0))
    image = np.clip(128 + 400 * texture, 30, 225)
    image[np.hypot(*(np.indices((96, 96)) - 47.5)) > 40] = 0
    return image.astype(np.uint8)


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


def test_all_channels_of_an_image_move_together():
    image = head(6)
    for matrix in draw_distortions(np.random.default_rng(0), 5, (96, 96), **RANGES):
        moved, _ = distort(image, image[..., 0], matrix)
        for channel in range(6):
            alone, _ = distort(image[..., channel : channel + 1], image[..., 0], matrix)
            # Beyond four channels OpenCV rounds positions to 1/32 pixel.
            np.testing.assert_allclose(moved[..., channel], alone[..., 0].astype(float), atol=8)


def windows(image, mask, side, count=200):
    """Draw windows of an image that is not distorted: corner (x, y) and what they show of the mask."""
    still = draw_distortions(np.random.default_rng(0), 1, mask.shape, **NOTHING)[0]
    rng = np.random.default_rng(0)
    matrices = [draw_window(rng, image, mask, still, side) for _ in range(count)]
    corners = np.array([matrix[:, 2] for matrix in matrices])
    return corners, [distort(image, mask, matrix, (side, side)) for matrix in matrices]


def test_a_window_is_a_part_of_the_distorted_slice():
    image, rng = head(3), np.random.default_rng(0)
    mask = (image[..., 0] > 128).astype(np.uint8)
    for matrix in draw_distortions(rng, 20, mask.shape, **RANGES):
        whole, whole_mask = distort(image, mask, matrix)
        window = draw_window(rng, image, mask, matrix, 48)
        part, part_mask = distort(image, mask, window, (48, 48))
        x, y = np.rint(np.linalg.solve(matrix[:, :2], window[:, 2] - matrix[:, 2])).astype(int)
        assert min(x, y) >= 0
        assert max(x, y) <= 48
        there = (slice(y, y + 48), slice(x, x + 48))
        # OpenCV rounds positions to 1/32 pixel.
        np.testing.assert_allclose(part, whole[there].astype(float), atol=12)
        assert np.mean(part_mask == whole_mask[there]) > 0.98


def test_every_window_shows_the_lesion_anywhere_in_it():
    image, mask = head(), np.zeros((96, 96), np.uint8)
    mask[40, 52] = 1
    _, shown = windows(image, mask, 32)
    assert all(part_mask.sum() == 1 for _, part_mask in shown)
    places = np.array([np.argwhere(part_mask)[0] for _, part_mask in shown])
    assert (places.min(0) <= 1).all()
    assert (places.max(0) >= 30).all()
    assert np.abs(places.mean(0) - 15.5).max() < 3


def test_windows_follow_a_lesion_that_is_turned_and_mirrored():
    image, mask = head(), np.zeros((96, 96), np.uint8)
    mask[20:24, 60:64] = 1
    rng = np.random.default_rng(0)
    for matrix in draw_distortions(rng, 200, mask.shape, **RANGES):
        window = draw_window(rng, image, mask, matrix, 32)
        assert distort(image, mask, window, (32, 32))[1].any()


@pytest.mark.parametrize("channels", [1, 6])
def test_windows_of_a_slice_without_lesion_show_the_head(channels):
    image = np.zeros((96, 96, channels), np.uint8)
    image[70:80, 10:20] = 100
    corners, shown = windows(image, np.zeros((96, 96), np.uint8), 32)
    assert all(part.any() for part, _ in shown)
    assert np.ptp(corners, axis=0).min() > 15


def test_windows_of_air_are_anywhere_in_the_frame():
    nothing = np.zeros((96, 96, 1), np.uint8)
    corners, _ = windows(nothing, nothing[..., 0], 32)
    assert corners.min() == 0
    assert corners.max() == 64
    assert (np.abs(corners.mean(0) - 32) < 6).all()


def test_a_window_larger_than_the_slice_shows_all_of_it():
    image = head()
    _, shown = windows(image, (image[..., 0] > 128).astype(np.uint8), 112, 5)
    for part, _ in shown:
        np.testing.assert_array_equal(part[:96, :96], image)
        assert not part[96:].any()


@pytest.mark.parametrize("side", [16, 240])
def test_larger_pixels_do_not_shift_the_image(side):
    ramp = np.broadcast_to(np.linspace(20, 235, side).astype(np.uint8), (side, side))[..., None]
    for seed in range(20):
        coarse = alter(ramp, np.random.default_rng(seed), **(UNALTERED | {"low_resolution": 1.0}))
        moved = (coarse.astype(float) - ramp)[..., 0] / (215 / (side - 1))  # in pixels
        # At the far side, where an error of scale is largest.
        assert abs(moved[:, -side // 4 : -2].mean()) < 0.25


def test_nothing_to_alter_leaves_the_image_as_it_is():
    image = head(3)
    np.testing.assert_array_equal(alter(image, np.random.default_rng(0), **UNALTERED), image)


@pytest.mark.parametrize(
    ("name", "value"),
    [("gamma", 0.3), ("noise", 0.1), ("blur", 2.0), ("low_resolution", 1.0), ("bias_field", 0.2)],
)
@pytest.mark.parametrize("channels", [1, 6])
def test_each_way_to_alter_changes_grey_levels_inside_the_head_only(name, value, channels):
    image = head(channels)
    altered = alter(image, np.random.default_rng(1), **(UNALTERED | {name: value}))
    assert altered.shape == image.shape
    assert altered.dtype == np.uint8
    np.testing.assert_array_equal(altered[image == 0], 0)
    inside = image > 0
    assert np.mean(altered[inside] != image[inside]) > 0.5
    # The same anatomy still.
    assert np.corrcoef(altered[inside], image[inside])[0, 1] > 0.8


def test_gamma_keeps_the_order_of_grey_levels():
    image = np.arange(256, dtype=np.uint8).reshape(16, 16, 1)
    for seed in range(5):
        altered = alter(image, np.random.default_rng(seed), **(UNALTERED | {"gamma": 0.5}))
        assert (np.diff(altered.ravel().astype(int)) >= 0).all()
        assert altered.min() == 0
        assert altered.max() == 255


def test_blur_and_larger_pixels_smooth_and_noise_roughens():
    image = head()
    inner = (slice(30, 66), slice(30, 66))
    roughness = {
        name: np.mean(
            [
                np.diff(
                    alter(image, np.random.default_rng(seed), **(UNALTERED | {name: value}))[
                        inner
                    ].astype(float),
                    axis=0,
                ).std()
                for seed in range(10)
            ]
        )
        for name, value in (("gamma", 0), ("blur", 3.0), ("low_resolution", 1.0), ("noise", 0.1))
    }
    assert roughness["blur"] < 0.8 * roughness["gamma"] < 0.5 * roughness["noise"]
    assert roughness["low_resolution"] < 0.95 * roughness["gamma"]


def test_a_bias_field_is_smooth_and_the_same_in_all_channels():
    image = np.full((96, 96, 3), 100, np.uint8)
    altered = alter(image, np.random.default_rng(0), **(UNALTERED | {"bias_field": 0.2}))
    altered = altered.astype(int)
    assert altered.std() > 5
    assert max(np.abs(np.diff(altered, axis=axis)).max() for axis in (0, 1)) <= 4
    np.testing.assert_array_equal(altered[..., 0], altered[..., 2])


def test_augmenting_follows_its_generator_and_leaves_masks_binary():
    image = head()
    mask = (image[..., 0] > 128).astype(np.uint8)
    ranges = RANGES | {
        "crop": None,
        "gamma": 0.3,
        "noise": 0.05,
        "blur": 1.0,
        "low_resolution": 1.0,
        "bias_field": 0.2,
    }
    first, again, other = (
        augment(image, mask, np.random.default_rng(seed), **ranges) for seed in (0, 0, 1)
    )
    np.testing.assert_array_equal(first[0], again[0])
    np.testing.assert_array_equal(first[1], again[1])
    assert set(np.unique(first[1])) == {0, 1}
    assert np.mean(first[0] != other[0]) > 0.3


# --- lesions of other subjects ---


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
                "dataset": "atlas",
                "subject": subject,
                "session": "1",
                "z": z,
                "position": z,
                "image": f"{subject}_image.npy",
                "mask": f"{subject}_mask.npy",
                "mean": mean,
                "std": std,
            }
            for z in range(6)
        ]
    return tmp_path, pandas.DataFrame(rows)


def mixing(slices, probability, **channels):
    folder, rows = slices
    reader = SliceReader(folder, rows, **channels)
    return CarveMix(reader, rows, np.arange(6, 12), probability)


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
    monkeypatch.setattr("augmentation.REACH", 1)
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
