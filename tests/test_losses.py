"""The weight map, the loss and the streamed metrics, against numpy and hand-worked numbers."""

import keras
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import ndimage

from config import load_settings
from losses import (
    NO_IMAGE,
    OverlapMetrics,
    WeightedDiceLoss,
    boundary_band,
    mean_cross_entropy,
    weight_map,
    weighted_dice_loss,
)

MASKS = hnp.arrays(np.float32, (2, 12, 12, 1), elements=st.sampled_from([0.0, 1.0]))
PROBABILITIES = hnp.arrays(np.float32, (2, 12, 12, 1), elements=st.floats(0, 1, width=32))
STRENGTHS = st.floats(0, 5)


def square(size=3):
    """A lesion of size × size pixels in the middle of 9 × 9, with batch and channel axis."""
    mask = np.zeros((1, 9, 9, 1), np.float32)
    start = (9 - size) // 2
    mask[:, start : start + size, start : start + size] = 1
    return mask


def numpy_loss(mask, probability, strength, smooth=1.0):
    """The same loss from scipy's morphology and plain sums, image by image."""
    overlap = size = 0.0
    window = np.ones((3, 3))
    for y, p in zip(mask[..., 0].astype(float), probability[..., 0].astype(float), strict=True):
        dilated = ndimage.binary_dilation(y, window)
        eroded = ndimage.binary_erosion(y, window, border_value=1)
        w = 1 / (1 + strength * (dilated & ~eroded))
        overlap += (w * y * p).sum()
        size += (w * (y + p)).sum()
    return 1 - (2 * overlap + smooth) / (size + smooth)


def test_the_band_of_a_3_by_3_square_is_the_5_by_5_square_without_its_centre():
    expected = square(5) - square(1)
    np.testing.assert_array_equal(boundary_band(square(3)), expected)


def test_the_frame_of_the_image_is_no_edge():
    assert np.max(boundary_band(np.ones((1, 9, 9, 1), np.float32))) == 0


@pytest.mark.parametrize(("strength", "on_the_band"), [(0.8, 1 / 1.8), (1.0, 0.5)])
def test_weights_are_1_off_the_band_and_as_the_formula_says_on_it(strength, on_the_band):
    weights = np.asarray(weight_map(square(3), strength))[0, :, :, 0]
    assert weights[4, 4] == 1
    assert weights[0, 0] == 1
    assert weights[3, 3] == weights[2, 2] == pytest.approx(on_the_band)


def test_strength_zero_weighs_every_pixel_1():
    np.testing.assert_array_equal(weight_map(square(3), 0.0), np.ones((1, 9, 9, 1)))


def test_hand_worked_loss():
    # Mask 3×3: the centre weighs 1, its 8 neighbours 1/2: Σwy = 5. Marked is the centre and one far
    # pixel: Σwp = 2, Σwyp = 1. Loss = 1 - (2·1 + 1) / (5 + 2 + 1) = 5/8.
    probability = square(1)
    probability[0, 0, 0, 0] = 1
    assert float(weighted_dice_loss(square(3), probability, 1.0)) == pytest.approx(5 / 8)


@given(MASKS, PROBABILITIES, STRENGTHS)
def test_loss_equals_the_plain_numpy_computation(mask, probability, strength):
    loss = float(weighted_dice_loss(mask, probability, strength))
    assert loss == pytest.approx(numpy_loss(mask, probability, strength), abs=1e-5)
    assert -1e-6 <= loss <= 1


@given(MASKS, STRENGTHS)
def test_perfect_prediction_has_zero_loss(mask, strength):
    assert float(weighted_dice_loss(mask, mask, strength)) == pytest.approx(0, abs=1e-6)


@given(MASKS, PROBABILITIES)
def test_strength_zero_is_plain_dice(mask, probability):
    dice = (2 * (mask * probability).sum() + 1) / (mask.sum() + probability.sum() + 1)
    assert float(weighted_dice_loss(mask, probability, 0.0)) == pytest.approx(1 - dice, abs=1e-5)


def test_an_error_on_the_edge_costs_less_than_one_elsewhere():
    on_the_edge, far_away = square(3), square(3)
    on_the_edge[0, 2, 4, 0] = 1
    far_away[0, 0, 8, 0] = 1
    edge, far = (float(weighted_dice_loss(square(3), p, 1.0)) for p in (on_the_edge, far_away))
    assert 0 < edge < far


@given(MASKS, PROBABILITIES, STRENGTHS)
def test_the_dice_of_images_is_the_mean_over_them(mask, probability, strength):
    masks = np.concatenate([mask, np.zeros_like(mask)])
    probabilities = np.concatenate([probability, probability])
    each = [numpy_loss(masks[i : i + 1], probabilities[i : i + 1], strength) for i in range(4)]
    loss = float(weighted_dice_loss(masks, probabilities, strength, "image"))
    assert loss == pytest.approx(np.mean(each), abs=1e-5)


def test_a_small_lesion_counts_in_its_image_and_hardly_in_a_batch():
    small, large = square(1), square(7)
    masks, costs = np.concatenate([small, large]), {}
    for dice_of in ("batch", "image"):
        missed = [np.concatenate([0 * small, large]), np.concatenate([small, 0 * large])]
        costs[dice_of] = [float(weighted_dice_loss(masks, p, 0.0, dice_of)) for p in missed]
    # Of 1 and of 49 pixels, with smooth 1: 1 - 1/2 and 1 - 1/50, halved as one slice is perfect.
    assert costs["image"] == pytest.approx([0.25, 0.49])
    # 1 - (2·49 + 1) / (50 + 49 + 1) and 1 - (2·1 + 1) / (50 + 1 + 1).
    assert costs["batch"] == pytest.approx([0.01, 1 - 3 / 52])


@pytest.mark.parametrize(("dice_smooth", "share"), [(1, 0.94), (100, 0.514)])
def test_a_first_mark_pays_from_this_share_of_images_with_a_lesion(dice_smooth, share):
    where = np.zeros((1, 32, 32, 1), np.float32)
    where[0, 10:15, 10:16] = 1  # 30 pixels
    loss = WeightedDiceLoss(0, cross_entropy=0, dice_of="image", dice_smooth=dice_smooth)

    def rise(mask):
        return float(loss(mask, 1e-3 * where)) - float(loss(mask, 0 * where))

    cost, gain = rise(0 * where), -rise(where)
    assert cost / (cost + gain) == pytest.approx(share, abs=0.005)


@pytest.mark.parametrize("dice_of", ["batch", "image"])
def test_an_image_that_only_fills_a_batch_counts_for_nothing(dice_of):
    fill = np.full_like(square(), NO_IMAGE)
    marked = np.concatenate([square(2), square(5)])
    one, both = square(3), np.concatenate([square(3), fill])
    assert float(weighted_dice_loss(both, marked, 1.0, dice_of)) == pytest.approx(
        float(weighted_dice_loss(one, marked[:1], 1.0, dice_of))
    )
    assert float(mean_cross_entropy(both, marked)) == pytest.approx(
        float(mean_cross_entropy(one, marked[:1]))
    )
    metrics = []
    for mask, probability in ((one, marked[:1]), (both, marked)):
        metric = OverlapMetrics()
        metric.update_state(mask, probability)
        metrics.append({name: float(value) for name, value in metric.result().items()})
    assert metrics[0] == metrics[1]


def test_marking_an_image_without_lesion_raises_the_loss():
    masks = np.concatenate([square(3), np.zeros_like(square(3))])
    clean = masks.copy()
    marked = np.concatenate([square(3), square(3)])
    assert float(weighted_dice_loss(masks, clean, 1.0)) == pytest.approx(0, abs=1e-6)
    assert float(weighted_dice_loss(masks, marked, 1.0)) > 0.2


@given(MASKS, PROBABILITIES, STRENGTHS)
def test_cross_entropy_is_added_as_a_mean_over_pixels(mask, probability, strength):
    p = np.clip(probability, 1e-7, 1 - 1e-7)
    entropy = -np.mean(mask * np.log(p) + (1 - mask) * np.log(1 - p))
    loss = float(WeightedDiceLoss(strength, cross_entropy=0.5)(mask, probability))
    assert loss == pytest.approx(
        numpy_loss(mask, probability, strength) + 0.5 * entropy, abs=1e-4, rel=1e-4
    )


def test_the_keras_loss_is_float32_whatever_the_policy_and_equals_the_function():
    rng = np.random.default_rng(0)
    mask = (rng.random((8, 240, 240, 1)) < 0.5).astype(np.float16)
    probability = rng.random(mask.shape).astype(np.float16)
    loss = WeightedDiceLoss(1.0, cross_entropy=0.0)(mask, probability)
    assert keras.backend.standardize_dtype(loss.dtype) == "float32"
    assert float(loss) == pytest.approx(numpy_loss(mask, probability, 1.0), abs=1e-4)


def test_the_loss_of_a_stage_is_as_its_settings_say():
    names = {
        "weight_strength": 0.3,
        "cross_entropy": 0.7,
        "dice_of": "image",
        "dice_smooth": 5,
    }
    overrides = [f"train.{name}={value}" for name, value in names.items()]
    loss = WeightedDiceLoss(**load_settings(overrides=overrides).train.loss_options)
    assert names.items() <= loss.get_config().items()
    mask = np.concatenate([square(3), square(1)])
    probability = 0.25 + 0.5 * np.concatenate([square(2), square(2)])
    each = [numpy_loss(mask[i : i + 1], probability[i : i + 1], 0.3, smooth=5) for i in (0, 1)]
    expected = np.mean(each)
    expected += 0.7 * -np.mean(np.log(np.where(mask > 0, probability, 1 - probability)))
    assert float(loss(mask, probability)) == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("batch_size", [1, 3, 10])
def test_streamed_metrics_equal_the_pooled_ones_whatever_the_batch_size(batch_size):
    rng = np.random.default_rng(1)
    masks = (rng.random((10, 16, 16, 1)) < np.linspace(0, 0.5, 10)[:, None, None, None]) * 1.0
    probabilities = np.clip(0.6 * masks + 0.7 * rng.random(masks.shape), 0, 1)
    metric = OverlapMetrics()
    for start in range(0, 10, batch_size):
        batch = slice(start, start + batch_size)
        metric.update_state(masks[batch], probabilities[batch])
    prediction, mask = probabilities > 0.5, masks > 0
    both = (prediction & mask).sum()
    result = {name: float(value) for name, value in metric.result().items()}
    assert result == pytest.approx(
        {
            "dice": 2 * both / (prediction.sum() + mask.sum()),
            "precision": both / prediction.sum(),
            "recall": both / mask.sum(),
        }
    )


def test_metrics_of_nothing_are_1_if_nothing_was_there_and_0_if_something_was():
    nothing, something = np.zeros((1, 4, 4, 1)), np.ones((1, 4, 4, 1))
    for mask, probability, expected in (
        (nothing, nothing, {"dice": 1, "precision": 1, "recall": 1}),
        (something, nothing, {"dice": 0, "precision": 0, "recall": 0}),
        (nothing, something, {"dice": 0, "precision": 0, "recall": 0}),
    ):
        metric = OverlapMetrics()
        metric.update_state(mask, probability)
        assert {name: float(value) for name, value in metric.result().items()} == expected


def test_counts_go_on_beyond_what_float32_can_count():
    metric = OverlapMetrics()
    metric.both.assign(2.0**24)
    metric.update_state(np.ones((1, 1, 1, 1)), np.ones((1, 1, 1, 1)))
    assert float(metric.both) == 2**24 + 1
