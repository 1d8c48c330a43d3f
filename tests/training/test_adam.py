"""How the learning rate goes, layer by layer, and which weights are kept."""

import keras
import numpy as np
import pytest

from config import load_settings
from training.adam import averaged_weights, keeps_average, learning_rate_schedule, make_adam

RATE = 0.01


def adam(steps_per_epoch, rate_factors=None, **changes):
    """The optimizer of a stage of two epochs, some of its settings changed."""
    changes = {"epochs": 2, "learning_rate": RATE} | changes
    stage = load_settings(overrides=[f"train.{k}={v}" for k, v in changes.items()]).train
    return make_adam(steps_per_epoch, rate_factors=rate_factors, **stage.optimizer_options)


def two_layers():
    """Two layers in a row, each of one weight, 1."""
    options = {"use_bias": False, "kernel_initializer": "ones"}
    image = keras.Input((1,))
    x = keras.layers.Dense(1, name="first", **options)(image)
    return keras.Model(image, keras.layers.Dense(1, name="last", **options)(x))


def weights(model):
    return np.array([float(np.squeeze(array)) for array in model.get_weights()])


def schedule(steps, kind="constant", warm_up=0):
    return learning_rate_schedule(RATE, kind, warm_up, steps)


def rates_of(schedule, at):
    return [float(schedule(step)) for step in at]


def test_a_rate_that_neither_rises_nor_falls_is_a_number():
    assert schedule(100) == RATE


def test_the_rate_rises_over_its_share_of_the_steps_then_stays():
    rates = rates_of(schedule(100, warm_up=0.2), (0, 5, 20, 60, 100))
    assert rates == pytest.approx([0, RATE / 4, RATE, RATE, RATE])


def test_the_rate_rises_then_falls_along_a_cosine_to_a_hundredth_at_the_last_step():
    rates = rates_of(schedule(100, "cosine", warm_up=0.2), (0, 10, 20, 60, 100))
    assert rates == pytest.approx([0, RATE / 2, RATE, RATE * (0.01 + 0.99 / 2), RATE / 100])
    rates = rates_of(schedule(100, "cosine"), (0, 50, 100))
    assert rates == pytest.approx([RATE, RATE * (0.01 + 0.99 / 2), RATE / 100])


@pytest.mark.parametrize("kind", ["constant", "cosine"])
def test_a_rise_over_nearly_all_of_few_steps_still_reaches_the_rate(kind):
    assert max(rates_of(schedule(3, kind, warm_up=0.95), range(3))) == pytest.approx(RATE)
    assert schedule(1, warm_up=0.95) == RATE


def test_the_schedule_goes_over_the_steps_of_all_epochs():
    optimizer = adam(50, epochs=4, schedule="cosine")
    rates = []
    for step in (0, 100, 200):
        optimizer.iterations.assign(step)
        rates.append(float(optimizer.learning_rate))
    assert rates == pytest.approx([RATE, RATE * (0.01 + 0.99 / 2), RATE / 100])


def test_a_long_gradient_is_shortened_as_a_whole():
    # Adam keeps a tenth of the first gradient as its momentum.
    for clip_norm, expected in ((1, [0.06, 0.08]), (None, [30, 40]), (1000, [30, 40])):
        optimizer = adam(1, clip_norm="null" if clip_norm is None else clip_norm)
        variables = [keras.Variable([0.0], name=name) for name in "ab"]
        optimizer.apply([np.array([300.0]), np.array([400.0])], variables)
        momentum = [float(v[0]) for v in optimizer.variables if "momentum" in v.path]
        assert momentum == pytest.approx(expected, rel=1e-5)


def test_each_layer_learns_at_its_own_rate():
    model = two_layers()
    model.compile(adam(1, rate_factors={"first": 0.1}), "mse")
    model.train_on_batch(np.ones((1, 1)), np.zeros((1, 1)))
    # The first step of Adam is as long as the rate, whatever the gradient.
    assert 1 - weights(model) == pytest.approx([RATE / 10, RATE], rel=1e-4)


def test_the_mean_of_the_weights_is_a_running_one_and_training_goes_on_from_their_last():
    model = two_layers()
    model.compile(adam(5, weight_average=0.75), "mse")
    seen = []
    for _ in range(5):
        model.train_on_batch(np.ones((1, 1)), np.zeros((1, 1)))
        seen.append(weights(model))
    mean = seen[0]
    for later in seen[1:]:
        mean = 0.75 * mean + 0.25 * later
    with averaged_weights(model):
        assert weights(model) == pytest.approx(mean, abs=1e-6)
    assert weights(model) == pytest.approx(seen[-1], abs=1e-6)


def test_the_mean_is_kept_where_the_loss_is_scaled_for_float16():
    model = two_layers()
    scaled = keras.optimizers.LossScaleOptimizer(adam(5, weight_average=0.75), initial_scale=2.0)
    model.compile(scaled, "mse")
    assert keeps_average(model)
    for _ in range(2):
        model.train_on_batch(np.ones((1, 1)), np.zeros((1, 1)))
    last = weights(model)
    with averaged_weights(model):
        assert (weights(model) != last).all()
    np.testing.assert_array_equal(weights(model), last)


def test_without_a_running_mean_the_weights_stay_as_they_are():
    model = two_layers()
    model.compile(adam(1), "mse")
    model.train_on_batch(np.ones((1, 1)), np.zeros((1, 1)))
    last = weights(model)
    with averaged_weights(model):
        np.testing.assert_array_equal(weights(model), last)
