"""How the learning rate goes, layer by layer, and which weights are kept."""

import keras
import numpy as np
import pytest

from config import load_settings
from training.adam import averaged_weights, learning_rate, make_optimizer

RATE = 0.01


def stage(**changes):
    changes = {"epochs": 2, "learning_rate": RATE} | changes
    return load_settings(overrides=[f"train.{k}={v}" for k, v in changes.items()]).train


def two_layers():
    """Two layers in a row, each of one weight, 1."""
    options = {"use_bias": False, "kernel_initializer": "ones"}
    image = keras.Input((1,))
    x = keras.layers.Dense(1, name="first", **options)(image)
    return keras.Model(image, keras.layers.Dense(1, name="last", **options)(x))


def weights(model):
    return np.array([float(np.squeeze(array)) for array in model.get_weights()])


def rates_of(stage, steps, at):
    schedule = learning_rate(stage, steps)
    return [float(schedule(step)) for step in at]


def test_a_rate_that_neither_rises_nor_falls_is_a_number():
    assert learning_rate(stage(), 100) == RATE


def test_the_rate_rises_over_its_share_of_the_steps_then_stays():
    rates = rates_of(stage(warm_up=0.2), 100, (0, 5, 20, 60, 100))
    assert rates == pytest.approx([0, RATE / 4, RATE, RATE, RATE])


def test_the_rate_rises_then_falls_along_a_cosine_to_a_hundredth_at_the_last_step():
    rates = rates_of(stage(schedule="cosine", warm_up=0.2), 100, (0, 10, 20, 60, 100))
    assert rates == pytest.approx([0, RATE / 2, RATE, RATE * (0.01 + 0.99 / 2), RATE / 100])
    rates = rates_of(stage(schedule="cosine"), 100, (0, 50, 100))
    assert rates == pytest.approx([RATE, RATE * (0.01 + 0.99 / 2), RATE / 100])


@pytest.mark.parametrize("schedule", ["constant", "cosine"])
def test_a_rise_over_nearly_all_of_few_steps_still_reaches_the_rate(schedule):
    few = stage(warm_up=0.95, schedule=schedule)
    assert max(rates_of(few, 3, range(3))) == pytest.approx(RATE)
    assert learning_rate(stage(warm_up=0.95), 1) == RATE


def test_a_long_gradient_is_shortened_as_a_whole():
    # Adam keeps a tenth of the first gradient as its momentum.
    for clip_norm, expected in ((1, [0.06, 0.08]), (None, [30, 40]), (1000, [30, 40])):
        optimizer = make_optimizer(stage(clip_norm="null" if clip_norm is None else clip_norm), 1)
        variables = [keras.Variable([0.0], name=name) for name in "ab"]
        optimizer.apply([np.array([300.0]), np.array([400.0])], variables)
        momentum = [float(v[0]) for v in optimizer.variables if "momentum" in v.path]
        assert momentum == pytest.approx(expected, rel=1e-5)


def test_each_layer_learns_at_its_own_rate():
    model = two_layers()
    model.compile(make_optimizer(stage(), 1, {"first": 0.1}), "mse")
    model.train_on_batch(np.ones((1, 1)), np.zeros((1, 1)))
    # The first step of Adam is as long as the rate, whatever the gradient.
    assert 1 - weights(model) == pytest.approx([RATE / 10, RATE], rel=1e-4)


def test_the_mean_of_the_weights_is_a_running_one_and_training_goes_on_from_their_last():
    model, chosen = two_layers(), stage(weight_average=0.75)
    model.compile(make_optimizer(chosen, 5), "mse")
    seen = []
    for _ in range(5):
        model.train_on_batch(np.ones((1, 1)), np.zeros((1, 1)))
        seen.append(weights(model))
    mean = seen[0]
    for later in seen[1:]:
        mean = 0.75 * mean + 0.25 * later
    with averaged_weights(model, chosen):
        assert weights(model) == pytest.approx(mean, abs=1e-6)
    assert weights(model) == pytest.approx(seen[-1], abs=1e-6)
    with averaged_weights(model, stage()):
        assert weights(model) == pytest.approx(seen[-1], abs=1e-6)
