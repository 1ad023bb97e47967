"""The plan of a trunk: what each residual block is given, and the maps that come out on the way."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

from nf_zoo.models.configuration import Config


@dataclasses.dataclass(frozen=True)
class BlockPlan:
    """What the position of a residual block decides.

    Attributes:
        stage: 1-based stage.
        block: 1-based position in the stage.
        filters: channels of its output.
        strides: 1 or 2.
        dilation: of its convolutions after the one that may stride.
        entry_dilation: of those up to it, the dilation of its input.
        stochastic_depth_rate: of its branch.
        stride: pixels of the picture per pixel of its output.
    """

    stage: int
    block: int
    filters: int
    strides: int
    dilation: int
    entry_dilation: int
    stochastic_depth_rate: float
    stride: int

    @property
    def name(self) -> str:
        """``"stage1_block2"``."""
        return f"stage{self.stage}_block{self.block}"


@dataclasses.dataclass
class Level:
    """A map that the trunk yields on the way.

    Attributes:
        name: ``"stem"``, ``"stage1"``, ... or ``"final"`` for what the classifier pools.
        stride: pixels of the picture per pixel of the map.
        tensor: (N, H / stride, W / stride, channels).
    """

    name: str
    stride: int
    tensor: Any


def plan_blocks(
    config: Config, widths: tuple[int, ...], stride: int, first_strides: int = 1
) -> Iterator[BlockPlan]:
    """Every block of the network in depth order.

    Where a stride would take the map beyond ``config.output_stride``, it becomes a dilation of
    all that follows.

    Args:
        config: the record.
        widths: output channels per stage.
        stride: pixels of the picture per pixel of the first block's input.
        first_strides: strides of the first stage; all others have 2.
    """
    rates = iter(stochastic_depth_rates(config))
    dilation = 1
    for stage, (depth, filters) in enumerate(zip(config.depths, widths, strict=True), start=1):
        for block in range(1, depth + 1):
            strides = 1 if block > 1 else first_strides if stage == 1 else 2
            entry_dilation = dilation
            if stride * strides > config.output_stride:
                dilation, strides = dilation * strides, 1
            stride *= strides
            yield BlockPlan(
                stage, block, filters, strides, dilation, entry_dilation, next(rates), stride
            )


def stack_blocks(
    config: Config,
    x,
    block_class: type,
    own_arguments: Callable[[int, int, int], dict[str, Any]],
    *,
    stride: int,
    widths: tuple[int, ...] | None = None,
    first_strides: int = 1,
    shortcut: str = "strided",
) -> list[Level]:
    """All residual blocks of a network.

    Args:
        config: the record.
        x: output of the stem.
        block_class: a ResidualBlock.
        own_arguments: (index of the block, its input channels, its output channels) -> what that
            class takes beside the arguments of every block.
        stride: pixels of the picture per pixel of ``x``.
        widths: output channels per stage; None for the record's.
        first_strides: strides of the first stage; all others have 2.
        shortcut: ``"strided"`` or ``"average_pool"``, where a projection is needed.

    Returns:
        The output of every stage.
    """
    levels = []
    for index, plan in enumerate(
        plan_blocks(config, widths or config.widths, stride, first_strides)
    ):
        channels = x.shape[-1]
        transition = plan.strides > 1 or plan.dilation > plan.entry_dilation
        x = block_class(
            plan.filters,
            strides=plan.strides,
            dilation=plan.dilation,
            entry_dilation=plan.entry_dilation,
            projection=shortcut if transition or channels != plan.filters else None,
            padding=config.padding,
            activation=config.activation,
            stochastic_depth_rate=plan.stochastic_depth_rate,
            stochastic_depth_rescale=config.stochastic_depth_rescale,
            rematerialize=config.rematerialize,
            name=plan.name,
            **own_arguments(index, channels, plan.filters),
        )(x)
        if plan.block == config.depths[plan.stage - 1]:
            levels.append(Level(f"stage{plan.stage}", plan.stride, x))
    return levels


def stochastic_depth_rates(config: Config) -> list[float]:
    """Drop rate of each block: linear in depth, up to or just below the configured rate."""
    count = sum(config.depths)
    steps = max(count - 1, 1) if config.stochastic_depth_last else count
    return [config.stochastic_depth_rate * index / steps for index in range(count)]
