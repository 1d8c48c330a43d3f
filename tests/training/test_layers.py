"""The faster layers compute what their Keras parents do."""

import keras
import numpy as np
import pytest

from training.layers import ByteDropout, FusedBatchNormalization


@pytest.mark.parametrize("trainable", [True, False])
@pytest.mark.parametrize("training", [True, False])
def test_fused_batch_normalisation_has_keras_numbers(training, trainable):
    rng = np.random.default_rng(0)
    x = rng.normal(3, 2, (4, 6, 6, 5)).astype(np.float32)
    fused, stock = (
        FusedBatchNormalization(momentum=0.9),
        keras.layers.BatchNormalization(momentum=0.9),
    )
    for layer in (fused, stock):
        layer.build(x.shape)
        layer.trainable = trainable
    outputs = [np.asarray(layer(x, training=training)) for layer in (fused, stock)]
    np.testing.assert_allclose(*outputs, atol=2e-5)
    for ours, theirs in zip(fused.get_weights(), stock.get_weights(), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("rate", [0.001, 0.999])
def test_byte_dropout_can_drop_hardly_anything_and_nearly_all(rate):
    x = np.ones((8, 64, 64, 4), np.float32)
    assert np.isfinite(ByteDropout(rate, seed=1)(x, training=True)).all()


def test_byte_dropout_drops_its_rate_and_keeps_the_mean():
    x = np.ones((8, 64, 64, 4), np.float32)
    layer = ByteDropout(0.2, seed=1)
    dropped = np.asarray(layer(x, training=True))
    assert (dropped == 0).mean() == pytest.approx(51 / 256, abs=0.005)
    assert dropped.mean() == pytest.approx(1, abs=0.005)
    assert not np.array_equal(dropped, np.asarray(layer(x, training=True)))
    np.testing.assert_array_equal(layer(x, training=False), x)
