"""The network's own layers.

`FusedBatchNormalization` and `ByteDropout` are computed in fewer passes over memory on TensorFlow. Both
keep the names, weights and meaning of their Keras parents, and are the parents themselves on any
other backend. Above the convolutions they are nearly all that a training step costs on a CPU.
"""

import keras
from keras import ops

from system.devices import device_number, figures_of_all_devices


@keras.saving.register_keras_serializable("lesions")
class FusedBatchNormalization(keras.layers.BatchNormalization):
    """Batch normalisation over the last axis by TensorFlow's fused kernel while training.

    Keras computes the moments, then normalises: several passes forward and back. The numbers are
    Keras': the kernel's variance is divided by n - 1, so the running variance takes it times
    (n - 1) / n. Frozen (``trainable = False``) it uses the running figures, as Keras does.

    Of several devices each normalises by the images it has, and the running figures, which have to
    be the same on all, are those of the whole batch.
    """

    def call(self, inputs, training=None, mask=None):
        if keras.backend.backend() != "tensorflow" or not (training and self.trainable):
            return super().call(inputs, training=training, mask=mask)
        import tensorflow as tf

        normalised, mean, variance = tf.compat.v1.nn.fused_batch_norm(
            inputs, self.gamma, self.beta, epsilon=self.epsilon, is_training=True
        )[:3]
        count = ops.cast(ops.prod(ops.shape(inputs)[:-1]), variance.dtype)
        mean, variance = figures_of_all_devices(mean, variance * (count - 1) / count, count)
        for running, new in ((self.moving_mean, mean), (self.moving_variance, variance)):
            new = ops.cast(new, running.dtype)
            running.assign(running * self.momentum + new * (1 - self.momentum))
        return normalised


@keras.saving.register_keras_serializable("lesions")
class ByteDropout(keras.layers.Dropout):
    """Dropout that draws one random byte a value instead of four.

    The rate is rounded to 1/256, and what stays is scaled by that rounded rate, so the mean is kept
    exactly.
    """

    def call(self, inputs, training=False):
        dropped = round(self.rate * 256)
        if keras.backend.backend() != "tensorflow" or not training or not dropped:
            return super().call(inputs, training=training)
        import tensorflow as tf

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
    """Hand on the probabilities of coarser levels beside the answer, while training alone.

    Of a list of tensors (B, H, W, 1), the answer first, it gives all as channels (B, H, W, count) in
    training, and the answer as it is otherwise: who validates or predicts sees no other network.
    """

    def call(self, inputs, training=False):
        return ops.concatenate(inputs, axis=-1) if training else inputs[0]

    def compute_output_shape(self, input_shapes):
        return input_shapes[0]
