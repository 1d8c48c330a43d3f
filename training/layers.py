"""Layers that TensorFlow computes in fewer passes over memory; elsewhere they are Keras' own.

Above the convolutions they are nearly all that a training step costs on a CPU. Names, weights and
meaning are those of their Keras parents.
"""

import keras
from keras import ops

from system.devices import device_number, moments_over_devices

ON_TENSORFLOW = keras.backend.backend() == "tensorflow"
if ON_TENSORFLOW:
    import tensorflow as tf


@keras.saving.register_keras_serializable("lesions")
class FusedBatchNormalization(keras.layers.BatchNormalization):
    """Batch normalisation over the last axis by TensorFlow's fused kernel while training.

    The numbers are Keras': the kernel's variance is divided by n - 1, so the running variance takes
    it times (n - 1) / n. Frozen it uses the running moments, as Keras does. Each of several devices
    normalises by its own images; the running moments are those of the whole batch.
    """

    def call(self, inputs, training=None, mask=None):
        if not (ON_TENSORFLOW and training and self.trainable):
            return super().call(inputs, training=training, mask=mask)
        normalised, mean, variance = tf.compat.v1.nn.fused_batch_norm(
            inputs, self.gamma, self.beta, epsilon=self.epsilon, is_training=True
        )[:3]
        count = ops.cast(ops.prod(ops.shape(inputs)[:-1]), variance.dtype)
        mean, variance = moments_over_devices(mean, variance * (count - 1) / count, count)
        for running, new in ((self.moving_mean, mean), (self.moving_variance, variance)):
            new = ops.cast(new, running.dtype)
            running.assign(running * self.momentum + new * (1 - self.momentum))
        return normalised


@keras.saving.register_keras_serializable("lesions")
class ByteDropout(keras.layers.Dropout):
    """Dropout that draws one random byte a value instead of four.

    The rate is rounded to 1/256, and what stays is scaled by the rounded rate: the mean is kept
    exactly.
    """

    def call(self, inputs, training=False):
        dropped = min(round(self.rate * 256), 255)
        if not (ON_TENSORFLOW and training and dropped):
            return super().call(inputs, training=training)
        shape = tf.shape(inputs)
        seed = ops.add(self.seed_generator.next(), [device_number(), 0])
        words = tf.random.stateless_uniform(
            [(tf.reduce_prod(shape) + 3) // 4], seed, None, None, tf.int32
        )
        draws = tf.reshape(tf.bitcast(words, tf.uint8), [-1])[: tf.reduce_prod(shape)]
        keep = tf.reshape(draws, shape) >= dropped
        return tf.where(keep, inputs * (256 / (256 - dropped)), tf.zeros_like(inputs))


@keras.saving.register_keras_serializable("lesions")
class DeepSupervision(keras.layers.Layer):
    """Give the probabilities of coarser levels as further channels, in training alone.

    From a list of tensors (B, H, W, 1), the finest first, to (B, H, W, levels), or to the finest.
    """

    def call(self, inputs, training=False):
        return ops.concatenate(inputs, axis=-1) if training else inputs[0]

    def compute_output_shape(self, input_shapes):
        return input_shapes[0]
