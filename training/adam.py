"""Adam, the course of its learning rate, and the running mean of the weights."""

import contextlib

import keras


def make_adam(
    steps_per_epoch,
    epochs,
    learning_rate,
    schedule,
    warm_up,
    clip_norm,
    weight_average,
    rate_factors=None,
):
    """Make the optimizer of a stage; the options are those of its section.

    `rate_factors` multiply the learning rate by layer name; 1 for other layers.
    """
    rate = learning_rate_schedule(learning_rate, schedule, warm_up, epochs * steps_per_epoch)
    options = {
        "learning_rate": rate,
        "global_clipnorm": clip_norm,
        "use_ema": weight_average > 0,
        "ema_momentum": weight_average,
    }
    return (
        LayerwiseAdam(rate_factors, **options) if rate_factors else keras.optimizers.Adam(**options)
    )


def learning_rate_schedule(learning_rate, schedule, warm_up, steps):
    """Give the learning rate over all steps of a stage: a number or a Keras schedule.

    Over the first `warm_up` of the steps, a share, it rises from 0. Then it stays ("constant"), or
    falls along half a cosine to 1 % at the last step ("cosine").
    """
    # A schedule needs a step after the rise.
    rising = min(round(warm_up * steps), steps - 1)
    last = 0.01 if schedule == "cosine" else 1.0
    if rising:
        return keras.optimizers.schedules.CosineDecay(
            0.0, steps - rising, last, warmup_target=learning_rate, warmup_steps=rising
        )
    if last == 1:
        return learning_rate
    return keras.optimizers.schedules.CosineDecay(learning_rate, steps, last)


@keras.saving.register_keras_serializable("lesions")
class LayerwiseAdam(keras.optimizers.Adam):
    """Adam whose learning rate is multiplied by a factor of each layer.

    Gradients cannot carry such a factor: Adam divides them by their own size.
    """

    def __init__(self, rate_factors, **options):
        super().__init__(**options)
        self.rate_factors = rate_factors

    def build(self, variables):
        self.factors = [self.rate_factors.get(v.path.split("/")[0], 1.0) for v in variables]
        super().build(variables)

    def update_step(self, gradient, variable, learning_rate):
        factor = self.factors[self._get_variable_index(variable)]
        super().update_step(gradient, variable, learning_rate * factor)

    def get_config(self):
        return super().get_config() | {"rate_factors": self.rate_factors}


def keeps_average(model):
    """Say whether a running mean of the weights is kept; for float16 Keras wraps the optimizer."""
    return getattr(model.optimizer, "inner_optimizer", model.optimizer).use_ema


@contextlib.contextmanager
def averaged_weights(model):
    """Have the running mean of the weights, if there is one, in the model during a block."""
    if not keeps_average(model):
        yield
        return
    exchange = keras.callbacks.SwapEMAWeights()
    exchange.set_model(model)
    exchange.on_test_begin()
    try:
        yield
    finally:
        exchange.on_test_end()
