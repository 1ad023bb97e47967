"""The ledger of expected variances that gives every normalizer-free block its beta.

x_{l+1} = x_l + alpha * f_l(x_l * beta_l), with f_l variance preserving, adds alpha^2 to the
variance; beta_l = 1 / sqrt(Var(x_l)). The first block of a stage projects its shortcut from the
down-scaled input, which resets the variance to 1 before that block's own growth.

Source: Brock, De & Smith, ICLR 2021, section 3.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence


@dataclasses.dataclass(frozen=True)
class BlockVariance:
    """Expected variance around one residual block at initialization.

    Attributes:
        stage: 1-based stage.
        block: 1-based position in the stage.
        before: variance of the block's input.
        after: variance of its output, the branch counted at full strength.
    """

    stage: int
    block: int
    before: float
    after: float

    @property
    def beta(self) -> float:
        """Factor on the block's input, 1 / sqrt(before)."""
        return 1.0 / math.sqrt(self.before)


def variance_ledger(depths: Sequence[int], alpha: float = 0.2) -> list[BlockVariance]:
    """Expected variance before and after every block, in depth order.

    Args:
        depths: number of blocks in each stage.
        alpha: weight of the residual branch.

    Returns:
        One :class:`BlockVariance` per block.

    Source: Brock, De & Smith, ICLR 2021, section 3.

    Example:
        >>> [round(row.after, 2) for row in variance_ledger((2, 2))]
        [1.04, 1.08, 1.04, 1.08]
    """
    rows = []
    variance = 1.0
    for stage, depth in enumerate(depths, start=1):
        for block in range(1, depth + 1):
            before = variance
            # A transition resets the expected variance, but still adds one block of growth.
            variance = (1.0 if block == 1 else before) + alpha**2
            rows.append(BlockVariance(stage, block, before, variance))
    return rows
