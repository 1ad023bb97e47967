"""What a figure of the papers is made of, before it is drawn."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from nf_zoo.signal_propagation.result import FIELDS, SignalPropagation, write_rows

_OWN = (
    *("network", "setting", "inputs", "pictures", "block"),
    *("skip_variance", "predicted_skip_variance", "predicted_residual_variance"),
    *("skip_mean_square", "predicted_skip_mean_square"),
)


@dataclasses.dataclass(frozen=True)
class Network:
    """One measured network.

    Attributes:
        label: in the legend.
        setting: its sizes and its input, in words.
        result: the measurement.
        skip_theory: expected variance on the skip path before every block.
        residual_theory: expected variance at the end of every residual branch.
        mean_square_theory: expected mean square on the skip path before every block.
    """

    label: str
    setting: str
    result: SignalPropagation
    skip_theory: tuple[float, ...] | list[float] | None = None
    residual_theory: tuple[float, ...] | list[float] | None = None
    mean_square_theory: tuple[float, ...] | None = None

    @property
    def skip(self) -> list[tuple[float, float]]:
        """Squared mean and variance on the skip path before every block."""
        outputs = [(block.squared_mean, block.variance) for block in self.result]
        return [self.result.before, *outputs[:-1]]

    def rows(self) -> list[dict]:
        """One row per block, for a CSV."""
        return [
            {
                "network": self.label,
                "setting": self.setting,
                "inputs": self.result.inputs,
                "pictures": self.result.pictures,
                "block": index + 1,
                "skip_variance": variance,
                "predicted_skip_variance": _at(self.skip_theory, index),
                "predicted_residual_variance": _at(self.residual_theory, index),
                "skip_mean_square": mean + variance,
                "predicted_skip_mean_square": _at(self.mean_square_theory, index),
                **dataclasses.asdict(block),
            }
            for index, (block, (mean, variance)) in enumerate(
                zip(self.result, self.skip, strict=True)
            )
        ]


@dataclasses.dataclass(frozen=True)
class PaperFigure:
    """A measured figure.

    Attributes:
        title: above the panels; the second line gives sizes and input.
        networks: in the order of the legend.
        panels: ``"variance"`` (one panel per network) and ``"mean square"`` (one for all); none for
            the three panels of a signal propagation plot.
    """

    title: str
    networks: tuple[Network, ...]
    panels: tuple[str, ...] = ()

    fields = (*_OWN, *FIELDS)

    def rows(self) -> list[dict]:
        """One row per network and block, for a CSV."""
        return [row for network in self.networks for row in network.rows()]


def average(results: Sequence[SignalPropagation]) -> SignalPropagation:
    """The mean over networks of one architecture, block by block."""
    blocks = [
        dataclasses.replace(
            same[0],
            **{
                name: float(np.mean([getattr(block, name) for block in same]))
                for name in FIELDS
                if isinstance(getattr(same[0], name), float)
            },
        )
        for same in zip(*results, strict=True)
    ]
    before = np.mean([result.before for result in results], axis=0)
    return dataclasses.replace(
        results[0], blocks=tuple(blocks), before=(float(before[0]), float(before[1]))
    )


def write_csv(figure, path: Path) -> Path:
    """The data behind a figure, its ``rows()``; six significant digits."""
    rows = [{key: _rounded(value) for key, value in row.items()} for row in figure.rows()]
    return write_rows(path, figure.fields, rows)


def _at(values, index: int) -> float | None:
    return None if values is None else values[index]


def _rounded(value):
    return format(value, ".6g") if isinstance(value, float) else value
