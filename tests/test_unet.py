"""The network: its shape, that it can learn, and which part of it does."""

import keras
import numpy as np
import pytest
from conftest import refused

from losses import OverlapMetrics, WeightedDiceLoss
from unet import build_unet, choose_trainable

REFERENCE = {
    "filters": 8,
    "levels": 4,
    "dropout": 0.2,
    "batch_normalisation": True,
    "instance_normalisation": False,
    "deep_supervision": False,
    "foreground_prior": 0.5,
    "neighbours": 0,
    "downsampling": 1,
}


def small_unet(**changes):
    keras.utils.set_random_seed(0)
    return build_unet(**(REFERENCE | {"filters": 2} | changes))


def lesion_slices(count=8, size=48):
    """Images of noise with a brighter disc, and the disc as the mask."""
    rng = np.random.default_rng(0)
    across = np.arange(size)
    masks = np.zeros((count, size, size, 1), np.float32)
    for mask in masks:
        y, x = rng.uniform(12, size - 12, 2)
        radius = rng.uniform(4, 9)
        mask[..., 0] = np.hypot(across[:, None] - y, across - x) < radius
    return (rng.normal(size=masks.shape) + 1.5 * masks).astype(np.float32), masks


def test_the_reference_network_has_8_filters_at_the_top_and_128_at_the_bottom():
    model = build_unet(**REFERENCE)
    widths = [model.get_layer(f"encoder_{level}_conv_2").filters for level in (1, 2, 3, 4)]
    assert widths == [8, 16, 32, 64]
    assert model.get_layer("bottleneck_conv_2").filters == 128
    assert model.count_params() == 487_881


@pytest.mark.parametrize(
    "levels, shape", [(4, (16, 16)), (4, (48, 32)), (1, (18, 2)), (5, (32, 64))]
)
def test_any_image_size_that_can_be_halved_gives_a_probability_of_that_size(levels, shape):
    model = small_unet(levels=levels)
    probability = np.asarray(model(np.zeros((2, *shape, 1))))
    assert model.get_layer("bottleneck_conv_1").filters == 2 * 2**levels
    assert probability.shape == (2, *shape, 1)
    assert probability.dtype == np.float32
    assert ((probability > 0) & (probability < 1)).all()


def test_a_downsampled_network_sees_means_and_answers_each_pixel():
    coarse, fine = small_unet(levels=1, downsampling=2), small_unet(levels=1)
    for layer in fine.layers[:-1]:
        coarse.get_layer(layer.name).set_weights(layer.get_weights())
    kernel = np.random.default_rng(1).normal(size=(2, 2, 1, 2)).astype(np.float32)
    coarse.get_layer("head").set_weights([kernel, np.zeros(1, np.float32)])
    image = np.random.default_rng(0).normal(size=(1, 8, 12, 1)).astype(np.float32)
    means = image.reshape(1, 4, 2, 6, 2, 1).mean((2, 4))
    features = np.asarray(keras.Model(fine.input, fine.layers[-2].output)(means))[0]
    found = np.asarray(coarse(image))[0, :, :, 0]
    for y, x in np.ndindex(2, 2):
        wanted = 1 / (1 + np.exp(-(features @ kernel[y, x, 0])))
        assert np.ptp(wanted) > 0.001
        np.testing.assert_allclose(found[y::2, x::2], wanted, atol=1e-5)


def test_the_untrained_network_starts_from_the_prior():
    probability = np.asarray(small_unet(foreground_prior=0.05)(np.zeros((1, 16, 16, 1))))
    np.testing.assert_allclose(probability, 0.05, rtol=1e-3)


def test_instance_normalisation_takes_each_image_by_itself():
    images, _ = lesion_slices(4)
    images *= np.array([1, 2, 5, 20], np.float32)[:, None, None, None]
    model = small_unet(instance_normalisation=True, dropout=0.0)
    assert not any("moving" in weight.path for weight in model.weights)
    first = model.get_layer("encoder_1_norm_1")
    normalised = np.asarray(keras.Model(model.input, first.output)(images, training=True))
    np.testing.assert_allclose(normalised.mean((1, 2)), 0, atol=1e-4)
    np.testing.assert_allclose(normalised.std((1, 2)), 1, atol=2e-2)
    together = np.asarray(model(images, training=True))
    alone = np.concatenate([model(images[i : i + 1], training=False) for i in range(4)])
    np.testing.assert_allclose(together, alone, atol=1e-5)


@pytest.mark.parametrize(("downsampling", "size"), [(1, 48), (2, 64)])
def test_deep_supervision_judges_coarse_levels_while_training_alone(downsampling, size):
    images, masks = lesion_slices(2, size)
    model = small_unet(deep_supervision=True, dropout=0.0, downsampling=downsampling)
    keras.utils.set_random_seed(0)
    plain = small_unet(dropout=0.0, downsampling=downsampling)
    for layer in plain.layers:
        layer.set_weights(model.get_layer(layer.name).get_weights())
    in_training = np.asarray(model(images, training=True))
    assert in_training.shape == (2, size, size, 3)
    np.testing.assert_array_equal(in_training[..., :1], plain(images, training=True))
    for channel, side in ((1, 2 * downsampling), (2, 4 * downsampling)):  # constant on such squares
        blocks = in_training[..., channel].reshape(2, size // side, side, size // side, side)
        assert (blocks == blocks[:, :, :1, :, :1]).all() and np.unique(blocks).size > 9
    np.testing.assert_array_equal(model(images, training=False), plain(images, training=False))
    loss = WeightedDiceLoss(1.0, cross_entropy=0.5)
    of_each = [float(loss(masks, in_training[..., c : c + 1])) for c in range(3)]
    assert len(set(of_each)) == 3
    expected = (4 * of_each[0] + 2 * of_each[1] + of_each[2]) / 7
    assert float(loss(masks, in_training)) == pytest.approx(expected, rel=1e-5)
    metrics = []
    for channels in (3, 1):
        metric = OverlapMetrics()
        # An untrained network is nowhere quite sure enough.
        metric.update_state(masks, in_training[..., :channels] + 0.05)
        metrics.append({name: float(value) for name, value in metric.result().items()})
    assert metrics[0] == metrics[1] and metrics[0]["recall"] > 0


def test_layer_names_are_the_same_in_every_build():
    names = [layer.name for layer in small_unet().layers]
    assert names == [layer.name for layer in small_unet().layers]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize(
    ("changes", "least"),
    [
        ({}, 0.95),
        ({"levels": 3, "instance_normalisation": True, "deep_supervision": True}, 0.95),
        ({"levels": 2, "downsampling": 2}, 0.85),  # the noise hides its coarser edges
    ],
)
def test_the_network_overfits_eight_slices(changes, least):
    images, masks = lesion_slices()
    model = small_unet(filters=8, dropout=0.0, **changes)
    model.compile(
        optimizer=keras.optimizers.Adam(0.01),
        loss=WeightedDiceLoss(1.0, cross_entropy=0.0),
    )
    model.fit(images, masks, batch_size=8, epochs=60, verbose=0)
    prediction = model.predict(images, verbose=0) > 0.5
    dice = 2 * (prediction * masks).sum() / (prediction.sum() + masks.sum())
    assert dice > least


@pytest.mark.parametrize("groups", [["head"], ["decoder", "head"], "all"])
def test_frozen_layers_do_not_move_and_the_others_do(groups):
    images, masks = lesion_slices()
    model = small_unet(levels=2)
    choose_trainable(model, groups)
    model.compile(
        optimizer=keras.optimizers.Adam(0.01),
        loss=WeightedDiceLoss(1.0, cross_entropy=0.0),
    )
    before = {layer.name: layer.get_weights() for layer in model.layers}
    model.fit(images, masks, batch_size=4, epochs=1, verbose=0)
    for layer in model.layers:
        if not layer.weights:
            continue
        moved = any(
            not np.array_equal(old, new)
            for old, new in zip(before[layer.name], layer.get_weights(), strict=True)
        )
        assert moved == (groups == "all" or layer.name.startswith(tuple(groups))), layer.name


def test_groups_may_have_rates_of_their_own_and_the_longer_name_counts():
    model = small_unet()
    rates = choose_trainable(model, {"decoder": 0.5, "decoder_1": 0.1, "head": 1.0})
    assert {rates[layer.name] for layer in model.layers if layer.trainable} == {0.5, 0.1, 1.0}
    assert rates["decoder_1_conv_2"] == 0.1 and rates["decoder_2_conv_1"] == 0.5
    assert not model.get_layer("encoder_1_conv_1").trainable
    assert choose_trainable(model, "all") == choose_trainable(model, ["head"]) == {}


def test_a_group_that_fits_no_layer_is_refused_by_name():
    with refused("transfer.trainable", "decodr", "encoder"):
        choose_trainable(small_unet(), ["decodr"])
    with refused("no layer with weights is named encoder_1_pool"):
        choose_trainable(small_unet(), ["encoder_1_pool"])
