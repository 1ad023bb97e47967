"""Residual blocks with batch normalization, v1.5 and v2."""

import keras
from keras import ops

from nf_zoo import layers
from nf_zoo.models.residual_block import ResidualBlock


@keras.saving.register_keras_serializable("nf_zoo")
class BatchNormBlock(ResidualBlock):
    """Residual block with batch normalization, post-activation (v1.5) or pre-activation (v2).

    v1.5: (conv, BN, ReLU) repeated, no ReLU before the merge, ReLU after it; projections carry a
    BN. v2: (BN, ReLU, conv) repeated; a projection starts from the first BN and ReLU. The arguments
    in ``fields`` are those of ResNetConfig. ``attention_width`` is the hidden width of
    squeeze-excite on the activated map after the last 3x3 of a v1.5 block; None for none.

    Source: He et al., CVPR 2016 and ECCV 2016.
    """

    fields = ("preactivation", "activation_first", "momentum", "eps", "zero_init_last")

    def __init__(
        self,
        filters: int,
        *,
        preactivation: bool = False,
        activation_first: bool = False,
        momentum: float = 0.9,
        eps: float = 1e-5,
        zero_init_last: bool = False,
        attention_width: int | None = None,
        **kwargs,
    ):
        super().__init__(filters, **kwargs)
        self.preactivation, self._activation_first = preactivation, activation_first
        self.norms = [
            batch_norm(
                f"norm{i + 1}",
                momentum,
                eps,
                zero=zero_init_last and not preactivation and self.is_last(i),
                dtype=self.dtype_policy,
            )
            for i in range(len(self.convs))
        ]
        self.shortcut_norm = None
        if self.shortcut_conv is not None and not preactivation:
            self.shortcut_norm = batch_norm("shortcut_norm", momentum, eps, dtype=self.dtype_policy)
        self.attended = self.last_spatial
        if attention_width is not None:
            self.attention = layers.SqueezeExcite(
                attention_width, name="attention", dtype=self.dtype_policy
            )
        self._record = None

    def make_convolution(self, index, **arguments):
        return convolution(**arguments)

    def build_branch(self, input_shape):
        super().build_branch(input_shape)
        channels = [conv.filters for conv in self.convs]
        if self.preactivation:
            channels = [input_shape[-1], *channels[:-1]]
        for norm, count in zip(self.norms, channels, strict=True):
            norm.build((None, None, None, count))
        if self.shortcut_norm is not None:
            self.shortcut_norm.build((None, None, None, self.filters))

    def preactivate(self, x, training=False):
        """Apply the first BN and activation of a v2 block; leave a v1.5 block's input alone."""
        if not self.preactivation:
            return x
        return self._normalize_and_activate(self.norms[0], x, training)

    def branch(self, activated, training=False):
        """Compute the residual branch, from the (pre-activated) input to just before the merge."""
        x = activated
        if self.preactivation:
            x = self.convs[0](x)
            for norm, conv in zip(self.norms[1:], self.convs[1:], strict=True):
                x = conv(self._normalize_and_activate(norm, x, training))
            return x
        for i, (conv, norm) in enumerate(zip(self.convs, self.norms, strict=True)):
            x = self.activation(x) if i else x
            if self.attention is not None and i == self.attended + 1:
                x = self.attention(x)
            x = self._normalize(norm, conv(x), training)
        return x

    def skip(self, x, activated, training=False):
        """Compute the shortcut from the raw and the pre-activated input."""
        skip = super().skip(x, activated, training)
        if self.shortcut_norm is None:
            return skip
        return self._normalize(self.shortcut_norm, skip, training)

    def merge(self, residual, skip):
        """Return the sum, activated in a v1.5 block."""
        return residual + skip if self.preactivation else self.activation(residual + skip)

    def recomputed_halves(self, x):
        """Recompute as ResidualBlock does; update the moving statistics outside, only once."""

        def halves(x):
            statistics = {}
            self._record = statistics.__setitem__
            try:
                return *self.halves(x, training=True), statistics
            finally:
                self._record = None

        residual, skip, statistics = keras.remat(halves)(x)
        for norm in (*self.norms, self.shortcut_norm):
            if norm is None or norm.name not in statistics:
                continue
            moving = norm.moving_mean, norm.moving_variance
            for kept, value in zip(moving, statistics[norm.name], strict=True):  # as Keras does
                value = ops.cast(ops.stop_gradient(value), kept.dtype)
                kept.assign(kept * norm.momentum + value * (1.0 - norm.momentum))
        return residual, skip

    def _normalize_and_activate(self, norm, x, training):
        if self._activation_first:
            return self._normalize(norm, self.activation(x), training)
        return self.activation(self._normalize(norm, x, training))

    def _normalize(self, norm, x, training):
        if self._record is None or not norm.trainable:
            return norm(x, training=training)
        # Keras normalizes maps of 16 bits in float32.
        precision = "float64" if self.compute_dtype == "float64" else "float32"
        wide = ops.cast(x, precision)
        mean, variance = ops.moments(wide, (0, 1, 2), synchronized=norm.synchronized)
        self._record(norm.name, (mean, variance))
        scale, offset = ops.cast(norm.gamma, precision), ops.cast(norm.beta, precision)
        y = ops.batch_normalization(wide, mean, variance, -1, offset, scale, norm.epsilon)
        return ops.cast(y, x.dtype)


def batch_norm(name: str, momentum: float, eps: float, zero: bool = False, dtype=None):
    """Batch normalization over the channels of NHWC images."""
    return keras.layers.BatchNormalization(
        momentum=momentum,
        epsilon=eps,
        gamma_initializer="zeros" if zero else "ones",
        name=name,
        dtype=dtype,
    )


def convolution(**arguments):
    """Convolution without bias, with He's fan-out initialization, as published."""
    scale = 2.0 * arguments.get("groups", 1)
    initializer = keras.initializers.VarianceScaling(scale, "fan_out", "untruncated_normal")
    return layers.Conv2D(use_bias=False, kernel_initializer=initializer, **arguments)


def normalized(config, x, norm: str, activation: str):
    """Apply BatchNorm and the activation, outside the blocks."""
    x = batch_norm(norm, config.momentum, config.eps)(x)
    return config.activation_layer(activation)(x)
