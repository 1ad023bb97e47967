"""Base class of residual blocks, and the function that stacks them."""

import dataclasses
from collections.abc import Callable
from typing import Any, ClassVar

import keras

from nf_zoo import layers
from nf_zoo.layers.composite import CompositeLayer
from nf_zoo.models.configuration import Config

KERNEL_SIZES = {"bottleneck": (1, 3, 1), "double_bottleneck": (1, 3, 3, 1), "basic": (3, 3)}
"""Kernel sides along the residual branch; the first 3x3 carries the stride."""


class ResidualBlock(CompositeLayer):
    """Base class of residual blocks; a subclass defines what happens to the input and the merge.

    The branch starts from ``preactivate(x)``, and so does a projected shortcut.

    Args:
        filters: channels of the output.
        width: channels inside the branch (a basic block's ``width`` equals ``filters``).
        block: ``"bottleneck"``, ``"double_bottleneck"`` (two 3x3) or ``"basic"``.
        strides: 1 or 2.
        dilation: dilation of the convolutions after the first 3x3.
        entry_dilation: dilation of the first 3x3; None for ``dilation``. A block that would stride
            in a network of full output stride doubles the dilation after it instead.
        groups: channel groups of the 3x3 convolutions.
        projection: None for an identity shortcut, ``"strided"`` for a 1x1 convolution with the
            block's stride, ``"average_pool"`` for 2x2 average pooling before the 1x1.
        padding: padding of the 3x3 convolutions, ``"symmetric"`` or ``"same"``.
        activation: name of the activation.
        stochastic_depth_rate, stochastic_depth_rescale: see StochasticDepth.
        rematerialize: recompute both halves in the backward pass instead of keeping their
            intermediate results.

    Input: (N, H, W, C). Output: (N, ceil(H / strides), ceil(W / strides), filters).
    """

    # names of arguments that come from the family's record, where it has such fields
    fields: ClassVar[tuple[str, ...]] = ()
    beta: float | None = None  # factor on the input, from a ledger of variances, if there is one
    attention = None  # layer after the convolution at index ``attended`` of the branch
    skip_gain = None  # layer that multiplies the branch
    attended = -1

    def __init__(
        self,
        filters: int,
        *,
        width: int,
        block: str = "bottleneck",
        strides: int = 1,
        dilation: int = 1,
        entry_dilation: int | None = None,
        groups: int = 1,
        projection: str | None = None,
        padding: str = "symmetric",
        activation: str = "relu",
        stochastic_depth_rate: float = 0.0,
        stochastic_depth_rescale: bool = True,
        rematerialize: bool = False,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.filters, self.width, self.block, self.strides = filters, width, block, strides
        self.groups, self.projection, self.padding = groups, projection, padding
        self.dilation, self.entry_dilation = dilation, entry_dilation or dilation
        self.rematerialize = rematerialize
        self.activation = self.make_activation(activation)
        self.convs = self._branch_convolutions()
        self.shortcut_pool, self.shortcut_conv = self._projection()
        self.stochastic_depth = layers.StochasticDepth(
            stochastic_depth_rate,
            stochastic_depth_rescale,
            name="stochastic_depth",
            dtype=self.dtype_policy,
        )

    def _branch_convolutions(self) -> list:
        kernel_sizes = KERNEL_SIZES[self.block]
        strided = kernel_sizes.index(3)
        return [
            self.make_convolution(
                index,
                filters=self.filters if index == len(kernel_sizes) - 1 else self.width,
                kernel_size=size,
                strides=self.strides if index == strided else 1,
                padding=self.padding,
                dilation=self.entry_dilation if index <= strided else self.dilation,
                groups=self.groups if size == 3 else 1,
                name=f"conv{index + 1}",
                dtype=self.dtype_policy,
            )
            for index, size in enumerate(kernel_sizes)
        ]

    def _projection(self) -> tuple:
        if not self.projection:
            return None, None
        pool = None
        if self.projection == "average_pool" and self.dilation != self.entry_dilation:
            pool = layers.DilatedAveragePool2D(
                self.entry_dilation, name="shortcut_pool", dtype=self.dtype_policy
            )
        elif self.projection == "average_pool" and self.strides > 1:
            # SAME average pooling counts real pixels only, on odd sizes too.
            pool = keras.layers.AveragePooling2D(
                self.strides,
                padding="same",
                data_format="channels_last",
                name="shortcut_pool",
                dtype=self.dtype_policy,
            )
        convolution = self.make_convolution(
            None,
            filters=self.filters,
            kernel_size=1,
            strides=1 if pool else self.strides,
            padding=self.padding,
            name="shortcut_conv",
            dtype=self.dtype_policy,
        )
        return pool, convolution

    def make_activation(self, activation: str, gamma: float | None = 1.0):
        """Return the activation layer of the branch."""
        return layers.ScaledActivation(
            activation, gamma=gamma, name="activation", dtype=self.dtype_policy
        )

    def make_convolution(self, index: int | None, **arguments):
        """Return the convolution at ``index`` of the branch (None: of the shortcut)."""
        raise TypeError(f"{type(self).__name__} must define make_convolution")

    @property
    def last_spatial(self) -> int:
        """Index of the last 3x3 convolution of the branch."""
        return max(i for i, size in enumerate(KERNEL_SIZES[self.block]) if size == 3)

    def is_last(self, index: int | None) -> bool:
        """Check that the convolution at ``index`` ends the branch."""
        return index == len(KERNEL_SIZES[self.block]) - 1

    def build(self, input_shape):
        self.build_branch(input_shape)
        if self.shortcut_conv is not None:
            self.shortcut_conv.build(input_shape)

    def build_branch(self, input_shape):
        """Build the layers of the residual branch."""
        shape = tuple(input_shape)
        for conv in self.convs:
            conv.build(shape)
            shape = conv.compute_output_shape(shape)
        if self.attention is not None:
            self.attention.build((None, None, None, self.convs[self.attended].filters))
        if self.skip_gain is not None:
            self.skip_gain.build()

    def preactivate(self, x, training=False):
        """Return the input of the branch and of a projected shortcut."""
        return self.activation(x)

    def branch(self, activated, training=False):
        """Compute the residual branch, from the pre-activated input to just before the merge."""
        x = activated
        for index, conv in enumerate(self.convs):
            x = conv(self.activation(x) if index else x)
            if self.attention is not None and index == self.attended:
                x = self.attention(x)
        return x

    def skip(self, x, activated, training=False):
        """Compute the shortcut from the raw and the pre-activated input."""
        return x if self.shortcut_conv is None else self.project(activated)

    def project(self, x):
        """Apply the pooling (if any) and 1x1 convolution of the shortcut."""
        if self.shortcut_pool is not None:
            x = self.shortcut_pool(x)
        return self.shortcut_conv(x)

    def merge(self, residual, skip):
        """Combine the branch (after stochastic depth) and the shortcut."""
        return residual + skip

    def halves(self, x, training=False):
        """Return the branch of ``x``, before stochastic depth, and its skip path, to be merged."""
        activated = self.preactivate(x, training)
        return self.branch(activated, training), self.skip(x, activated, training)

    def recomputed_halves(self, x):
        """Compute ``halves`` in training, keeping only ``x`` for the backward pass.

        Stochastic depth stays outside: a second draw would give another mask.
        """
        return keras.remat(lambda x: self.halves(x, training=True))(x)

    def call(self, x, training=False):
        if self.rematerialize and training:
            residual, skip = self.recomputed_halves(x)
        else:
            residual, skip = self.halves(x, training)
        return self.merge(self.stochastic_depth(residual, training=training), skip)

    def compute_output_shape(self, input_shape):
        sides = (None if n is None else -(-n // self.strides) for n in input_shape[1:3])
        return (input_shape[0], *sides, self.filters)

    def multiply_adds(self, input_shape) -> int:
        """Return the multiply-adds of convolutions and squeeze-excite for one picture."""
        total, shape = 0, tuple(input_shape)
        for conv in self.convs:
            total += conv.multiply_adds(shape)
            shape = conv.compute_output_shape(shape)
        if self.shortcut_conv is not None:
            shape = tuple(input_shape)
            if self.shortcut_pool is not None:
                shape = self.shortcut_pool.compute_output_shape(shape)
            total += self.shortcut_conv.multiply_adds(shape)
        if isinstance(self.attention, layers.SqueezeExcite):
            total += 2 * self.convs[self.attended].filters * self.attention.hidden
        return total


@dataclasses.dataclass
class Level:
    """A feature map of the trunk."""

    name: str  # ``"stem"``, ``"stage1"``, ...
    stride: int  # pixels of the picture per pixel of the map
    tensor: Any  # (N, H / stride, W / stride, channels)


def stack_blocks(
    config: Config,
    x,
    block_class: type[ResidualBlock],
    own_arguments: Callable[[int, int, int], dict[str, Any]],
    *,
    stride: int,
    widths: tuple[int, ...] | None = None,
    first_strides: int = 1,
) -> list[Level]:
    """Stack all residual blocks of a network, in depth order.

    A stride that would take the map beyond ``config.output_stride`` becomes a dilation of all
    layers after it.

    Args:
        config: the record.
        x: output of the stem.
        block_class: a ResidualBlock.
        own_arguments: (index of the block, its input channels, its output channels) -> arguments
            of that class besides the fields of the record and the arguments of every block.
        stride: pixels of the picture per pixel of ``x``.
        widths: output channels per stage; None for the record's.
        first_strides: strides of the first stage; all others have 2.
    """
    fields = {name: getattr(config, name) for name in block_class.fields if hasattr(config, name)}
    levels, dilation, index = [], 1, -1
    # The rate is linear in depth, up to or just below that of the record.
    count = sum(config.depths)
    steps = max(count - 1, 1) if config.stochastic_depth_last else count
    for stage, (depth, filters) in enumerate(
        zip(config.depths, widths or config.widths, strict=True), start=1
    ):
        for block in range(1, depth + 1):
            strides = 1 if block > 1 else first_strides if stage == 1 else 2
            entry_dilation, channels = dilation, x.shape[-1]
            if stride * strides > config.output_stride:
                dilation, strides = dilation * strides, 1
            stride *= strides
            changes = strides > 1 or dilation > entry_dilation or channels != filters
            index += 1
            x = block_class(
                filters,
                strides=strides,
                dilation=dilation,
                entry_dilation=entry_dilation,
                projection=config.shortcut if changes else None,
                padding=config.padding,
                activation=config.activation,
                stochastic_depth_rate=config.stochastic_depth_rate * index / steps,
                stochastic_depth_rescale=config.stochastic_depth_rescale,
                rematerialize=config.rematerialize,
                name=f"stage{stage}_block{block}",
                **{**fields, **own_arguments(index, channels, filters)},
            )(x)
        levels.append(Level(f"stage{stage}", stride, x))
    return levels
