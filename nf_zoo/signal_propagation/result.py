"""The result of a measurement: rows, table, CSV and plot."""

import dataclasses
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Self

from nf_zoo import atomic


@dataclasses.dataclass(frozen=True)
class BlockSignal:
    """One residual block, in the terms of Brock, De & Smith, ICLR 2021, section 3.

    Attributes:
        name: name of the block or of the layer that merges; of any layer if nothing merges.
        stage: number of the stage, from 1; a new one begins when the size of the map changes.
        squared_mean: average over channels of the squared mean of the output.
        variance: average over channels of the variance of the output.
        residual_variance: the same variance at the end of the residual branch, before skip gain
            and alpha; None for a layer that is not a block.
        bn_moving_variance: average over channels of the variance that the first BatchNorm of the
            branch sees or holds; None without one.
        predicted_variance: value of ``variance`` that theory expects at initialization, with the
            measured loss in average-pool shortcuts; None if theory does not apply.
    """

    name: str
    stage: int
    squared_mean: float
    variance: float
    residual_variance: float | None = None
    bn_moving_variance: float | None = None
    predicted_variance: float | None = None


FIELDS = tuple(field.name for field in dataclasses.fields(BlockSignal))
_COLUMNS = dict(
    zip(FIELDS[2:], ("mean^2", "variance", "residual", "BN", "theory"), strict=True)
)  # of the printed table


@dataclasses.dataclass(frozen=True)
class SignalPropagation:
    """Result of a measurement: a sequence of rows in depth order.

    Attributes:
        model: name of the model.
        blocks: one :class:`BlockSignal` per residual block (or per layer, see ``residual``).
        before: squared mean and variance of the input of the first block.
        pictures: number of measured pictures.
        inputs: ``"noise"`` or ``"images"``.
        residual: whether the rows are residual blocks.
        unit_gains: whether the gains were set to one.
        batch_statistics: whether BatchNorm used the statistics of the batch.
        no_theory: reason why the rows have no ``predicted_variance``; empty if they have one.
    """

    model: str
    blocks: tuple[BlockSignal, ...]
    before: tuple[float, float]
    pictures: int
    inputs: str
    residual: bool = True
    unit_gains: bool = False
    batch_statistics: bool = False
    no_theory: str = ""

    def __len__(self) -> int:
        return len(self.blocks)

    def __iter__(self) -> Iterator[BlockSignal]:
        return iter(self.blocks)

    def __getitem__(self, index):
        return self.blocks[index]

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, with the rows as a list under ``"blocks"``."""
        return {
            **vars(self),
            "before": {"squared_mean": self.before[0], "variance": self.before[1]},
            "blocks": [dataclasses.asdict(block) for block in self.blocks],
        }

    def to_csv(self, path: str | os.PathLike) -> Path:
        """Write the rows to a CSV file, one line each, with :class:`BlockSignal`'s field names.

        Returns:
            The path; an existing file is replaced in one step.
        """
        return atomic.write_rows(path, FIELDS, [dataclasses.asdict(block) for block in self.blocks])

    def plot(self, path: str | os.PathLike, title: str | None = None) -> Path:
        """Draw the signal propagation plot; the suffix of the path decides the format.

        Args:
            path: file to write, for example ``"spp.png"``, ``"spp.svg"`` or ``"spp.pdf"``.
            title: title of the plot; None for the model's name.

        Returns:
            The path; an existing file is replaced in one step.
        """
        from nf_zoo.signal_propagation.plots import plot_signal_propagation

        return plot_signal_propagation({"": self}, path, title=title or self.model)

    def expecting(self, variances: Sequence[float]) -> Self:
        """Return the same measurement with these predicted variances of its blocks."""
        blocks = tuple(
            dataclasses.replace(block, predicted_variance=variance)
            for block, variance in zip(self.blocks, variances, strict=True)
        )
        return dataclasses.replace(self, blocks=blocks, no_theory="")

    def __repr__(self) -> str:
        kind = "blocks" if self.residual else "layers (nothing merges)"
        columns = {  # without those that stay empty, as "BN" where nothing is normalized
            name: title
            for name, title in _COLUMNS.items()
            if any(getattr(block, name) is not None for block in self.blocks)
        }
        lines = [
            f"{self.model}: {len(self)} {kind}, {self.pictures} {self.inputs}"
            + (", unit gains" if self.unit_gains else "")
            + (", batch statistics" if self.batch_statistics else ""),
            f"{'':<24}" + "".join(f" {title:>10}" for title in columns.values()),
        ]
        lines += [
            f"{block.name[-24:]:<24}" + "".join(_cell(getattr(block, name)) for name in columns)
            for block in self._shown()
        ]
        lines += [f"No theory: {self.no_theory}."] if self.no_theory else []
        return "\n".join(lines)

    def _shown(self, most: int = 60) -> list[BlockSignal]:
        step = -(-len(self) // most)
        return [block for i, block in enumerate(self.blocks) if i % step == 0 or i == len(self) - 1]


def writable_folder(path: str | os.PathLike) -> Path:
    """Return the absolute folder after checking that it can be written; create nothing."""
    folder = Path(path).expanduser().absolute()
    nearest = next(place for place in (folder, *folder.parents) if place.exists())
    if not nearest.is_dir() or not os.access(nearest, os.W_OK | os.X_OK):
        raise OSError(f"The output must be a writable folder. Received: {folder}")
    return folder


def _cell(value: float | None) -> str:
    return f" {'-' if value is None else format(value, '.4g'):>10}"
