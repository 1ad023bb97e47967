"""Moments per channel, accumulated batch by batch."""

from __future__ import annotations

import numpy as np
from keras import ops


class ChannelMoments:
    """Mean and variance of every channel over all that was added, exact for any split in batches.

    Channels are the last axis; everything else is pooled. The moments of a batch are taken on the
    device in float32, their combination in float64.
    """

    def __init__(self):
        self.count = 0
        self._mean = 0.0
        self._deviation = 0.0

    def add(self, x) -> None:
        """Take in a batch of activations (..., channels)."""
        x = ops.cast(x, "float32")
        axes = tuple(range(len(x.shape) - 1))
        mean = ops.mean(x, axes, keepdims=True)
        deviation = ops.convert_to_numpy(ops.mean(ops.square(x - mean), axes)).astype("float64")
        mean = ops.convert_to_numpy(mean).reshape(-1).astype("float64")
        count = int(np.prod(x.shape[:-1]))
        total = self.count + count
        shift = mean - self._mean
        # Chan, Golub & LeVeque's update of the sum of squared deviations.
        self._deviation = (
            self._deviation + deviation * count + shift**2 * self.count * count / total
        )
        self._mean = self._mean + shift * count / total
        self.count = total

    @property
    def squared_mean(self) -> float:
        """Average over the channels of the squared mean."""
        return float(np.mean(np.square(self._mean)))

    @property
    def variance(self) -> float:
        """Average over the channels of the variance."""
        return float(np.mean(self._deviation / self.count))
