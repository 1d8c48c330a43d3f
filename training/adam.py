"""The optimizer of a stage: Adam, how its rate goes, and the running mean of the weights."""

import contextlib

import keras


def make_optimizer(stage, steps, rates=None):
    """Make the Adam of a stage.

    Parameters
    ----------
    stage : config.Stage
    steps : int
        Batches an epoch, for the schedule of the learning rate.
    rates : dict of str to float, optional
        By what the learning rate of a layer is multiplied; 1 for layers not named.

    Returns
    -------
    keras.optimizers.Optimizer
    """
    options = {
        "learning_rate": learning_rate(stage, stage.epochs * steps),
        "global_clipnorm": stage.clip_norm,
        "use_ema": stage.weight_average > 0,
        "ema_momentum": stage.weight_average,
    }
    return LayerwiseAdam(rates, **options) if rates else keras.optimizers.Adam(**options)


def learning_rate(stage, steps):
    """Say how the learning rate of a stage goes.

    Over the first `warm_up` of the steps it rises from 0; then it stays, or falls along half a
    cosine to 1 % at the last.

    Parameters
    ----------
    stage : config.Stage
    steps : int
        Of all its epochs.

    Returns
    -------
    float or keras.optimizers.schedules.LearningRateSchedule
    """
    # A schedule needs a step after the rise.
    rate, rising = stage.learning_rate, min(round(stage.warm_up * steps), steps - 1)
    last = 0.01 if stage.schedule == "cosine" else 1.0
    if rising:
        return keras.optimizers.schedules.CosineDecay(
            0.0, steps - rising, last, warmup_target=rate, warmup_steps=rising
        )
    return rate if last == 1 else keras.optimizers.schedules.CosineDecay(rate, steps, last)


@keras.saving.register_keras_serializable("lesions")
class LayerwiseAdam(keras.optimizers.Adam):
    """Adam whose learning rate is multiplied by a factor of each layer.

    Gradients cannot carry such a factor: Adam divides them by their own size.

    Parameters
    ----------
    rates : dict of str to float
        Layer names and their factors; 1 for others.
    """

    def __init__(self, rates, **options):
        super().__init__(**options)
        self.rates = rates

    def build(self, variables):
        self.factors = [self.rates.get(v.path.split("/")[0], 1.0) for v in variables]
        super().build(variables)

    def update_step(self, gradient, variable, learning_rate):
        factor = self.factors[self._get_variable_index(variable)]
        super().update_step(gradient, variable, learning_rate * factor)

    def get_config(self):
        return super().get_config() | {"rates": self.rates}


@contextlib.contextmanager
def averaged_weights(model, stage):
    """Have the running mean of the weights in the model during a block, if the stage keeps one.

    Parameters
    ----------
    model : keras.Model
        Compiled with the optimizer of `make_optimizer`.
    stage : config.Stage
    """
    if not stage.weight_average:
        yield
        return
    exchange = keras.callbacks.SwapEMAWeights()
    exchange.set_model(model)
    exchange.on_test_begin()
    try:
        yield
    finally:
        exchange.on_test_end()
