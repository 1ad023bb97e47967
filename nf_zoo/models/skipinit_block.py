"""Residual blocks without normalization or standardization: SkipInit and Fixup."""

import keras
from keras import ops

from nf_zoo import layers
from nf_zoo.models.residual_block import KERNEL_SIZES, ResidualBlock


@keras.saving.register_keras_serializable("nf_zoo")
class SkipInitBlock(ResidualBlock):
    """``x + gain * f(x)`` with one learnable gain; f repeats (activation, convolution with bias).

    A projection starts from the activated input. Without the gain, and with ``merge_scale``, it is
    a baseline of the SkipInit paper: ``x + f(x)`` or ``(x + f(x)) / sqrt(2)``. ``skip_gain`` is the
    gain's initial value; None for no gain.

    Source: De & Smith, NeurIPS 2020, section 4; DeepMind nfnets ``skipinit_resnet.py``.
    """

    fields = ("merge_scale",)

    def __init__(
        self, filters: int, *, skip_gain: float | None = 0.0, merge_scale: float = 1.0, **kwargs
    ):
        super().__init__(filters, **kwargs)
        self.merge_scale = merge_scale
        if skip_gain is not None:
            self.skip_gain = layers.SkipInit(skip_gain, name="skip_gain", dtype=self.dtype_policy)

    def make_convolution(self, index, **arguments):
        return layers.Conv2D(kernel_initializer="he_normal", **arguments)

    def merge(self, residual, skip):
        """Scale the branch by the gain and add the shortcut."""
        if self.skip_gain is not None:
            residual = self.skip_gain(residual)
        total = residual + skip
        return total if self.merge_scale == 1.0 else total * self.merge_scale


@keras.saving.register_keras_serializable("nf_zoo")
class FixupBlock(ResidualBlock):
    """Post-activation block with scalar biases around every convolution and one scalar scale.

    The identity shortcut carries the first bias, as in the reference. With m convolutions in the
    branch, all but the last start at He's standard deviation times
    ``num_blocks ** (-1 / (2 m - 2))``, the last at 0; ``num_blocks`` are those of the network.

    Source: Zhang, Dauphin & Ma, ICLR 2019; DeepMind nfnets ``fixup_resnet.py``.
    """

    def __init__(self, filters: int, *, num_blocks: int, **kwargs):
        self._num_blocks = num_blocks
        super().__init__(filters, **kwargs)

    def make_convolution(self, index, *, filters, kernel_size, **arguments):
        deviation = (2 / (filters * kernel_size**2)) ** 0.5
        if index is not None:
            convolutions = len(KERNEL_SIZES[self.block])
            deviation *= self._num_blocks ** (-1 / (2 * convolutions - 2))
        initializer = keras.initializers.RandomNormal(0.0, deviation)
        return layers.Conv2D(
            filters,
            kernel_size,
            use_bias=False,
            kernel_initializer="zeros" if self.is_last(index) else initializer,
            **arguments,
        )

    def build_branch(self, input_shape):
        super().build_branch(input_shape)
        self.biases_before = [self._scalar(f"bias{i + 1}a") for i in range(len(self.convs))]
        self.biases_after = [self._scalar(f"bias{i + 1}b") for i in range(len(self.convs))]
        self.scale = self._scalar("scale", "ones")

    def _scalar(self, name: str, initializer: str = "zeros"):
        return self.add_weight(name=name, shape=(), initializer=initializer)

    def preactivate(self, x, training=False):
        """Add the first bias; the activation was at the end of the block before."""
        return x + ops.cast(self.biases_before[0], x.dtype)

    def branch(self, activated, training=False):
        """Compute the residual branch, from the biased input to its scale and last bias."""
        # Keras does not cast the weights of a layer where it recomputes.
        x, last = activated, len(self.convs) - 1
        for index, conv in enumerate(self.convs):
            x = conv(x + ops.cast(self.biases_before[index], x.dtype) if index else x)
            after = ops.cast(self.biases_after[index], x.dtype)
            if index == last:
                return x * ops.cast(self.scale, x.dtype) + after
            x = self.activation(x + after)

    def skip(self, x, activated, training=False):
        return activated if self.shortcut_conv is None else self.project(activated)

    def merge(self, residual, skip):
        """Return the activated sum."""
        return self.activation(residual + skip)


def stem_convolution(config):
    """First convolution, without bias."""
    return layers.Conv2D(
        config.stem_width,
        config.stem_kernel_size,
        strides=config.stem_strides,
        padding=config.padding,
        use_bias=False,
        kernel_initializer="he_normal",
        name="stem_conv",
    )
