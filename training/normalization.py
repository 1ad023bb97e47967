"""Batch normalization by TensorFlow's fused operation, while a network trains."""

import keras
import tensorflow as tf

DTYPES = ("float32", "bfloat16", "float16")


class FusedBatchNormalization(keras.layers.BatchNormalization):
    """Keras's layer with one fused operation for statistics and normalization, and its gradient.

    Keras composes them of elementwise operations, each of which goes over the whole map. The
    values are the same up to rounding. Inference, and options that the operation lacks, use Keras's
    own code.
    """

    def call(self, inputs, training=None, mask=None):
        if not (training and self.trainable and mask is None and self._can_be_fused(inputs)):
            return super().call(inputs, training=training, mask=mask)
        none = tf.zeros((0,))
        outputs, mean, variance, *_ = tf.raw_ops.FusedBatchNormV3(
            x=inputs,
            scale=tf.cast(self.gamma, "float32"),
            offset=tf.cast(self.beta, "float32"),
            mean=none,
            variance=none,
            epsilon=self.epsilon,
            is_training=True,
        )
        count = tf.cast(tf.size(inputs) // inputs.shape[-1], "float32")
        biased = variance * (count - 1.0) / count  # the operation returns the unbiased variance
        for moving, value in ((self.moving_mean, mean), (self.moving_variance, biased)):
            moving.assign(moving * self.momentum + value * (1.0 - self.momentum))
        return outputs

    def _can_be_fused(self, inputs) -> bool:
        return (
            len(inputs.shape) == 4
            and self.axis in (-1, 3)
            and self.scale
            and self.center
            and not self.synchronized
            and not getattr(self, "renorm", False)  # not every Keras has it
            and keras.backend.standardize_dtype(inputs.dtype) in DTYPES
        )


def fuse_batch_normalization(model) -> None:
    """Change every ``keras.layers.BatchNormalization`` of a model to the fused class, in place."""
    for layer in model._flatten_layers():
        if type(layer) is keras.layers.BatchNormalization:
            layer.__class__ = FusedBatchNormalization
