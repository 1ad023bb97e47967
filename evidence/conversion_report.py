"""Tables and pictures of the converted networks."""

from __future__ import annotations

import itertools
import math
from pathlib import Path

from matplotlib.ticker import MaxNLocator

from benchmarks.tables import read_table
from evidence.cells import OTHERS, Lines, curves_on, outcome, seeds_of, values_of, where
from evidence.conversion import FORMS, NORMALIZER_FREE, TRAINED_FORMS
from evidence.small_batch_finetuning import chosen


def last_blocks(rows: list[dict], network: str, form: str) -> list[dict]:
    """Return the row of the last block, of each seed."""
    found = where(rows, network=network, form=form)
    last = max(int(row["block"]) for row in found)
    return where(found, block=last)


def signals_lines(rows: list[dict]) -> Lines:
    lines = [["network", "predicted", *FORMS[::-1]]]
    for network in values_of(rows, "network"):
        cells = {form: last_blocks(rows, network, form) for form in FORMS[::-1]}
        predicted = [row["predicted"] for row in cells[NORMALIZER_FREE]]
        measured = [[row["variance"] for row in found] for found in cells.values()]
        lines.append([network, *map(value_range, [predicted, *measured])])
    return lines


def value_range(texts: list[str]) -> str:
    """Return the least and the largest of several values, to two digits."""
    values = [float(text) for text in texts]
    return " to ".join(dict.fromkeys(f"{value:#.2g}" for value in (min(values), max(values))))


def signals_plot(rows: list[dict], figure) -> None:
    networks = values_of(rows, "network")
    panels = figure.subplots(math.ceil(len(networks) / 3), min(len(networks), 3), squeeze=False)
    for panel, network in zip(panels.flat, networks, strict=False):
        shown = where(rows, network=network, seed=0)
        for form in FORMS:
            found = sorted(where(shown, form=form), key=lambda row: int(row["block"]))
            depth = [int(row["block"]) for row in found]
            variances = [float(row["variance"]) for row in found]
            panel.plot(depth, variances, "o-", color=OTHERS[form], label=form, markersize=2.5)
        predicted = [float(row["predicted"]) for row in found]
        panel.plot(depth, predicted, "k--", linewidth=1, label="predicted")
        panel.set(yscale="log", title=network, xlabel="block")
        panel.xaxis.set_major_locator(MaxNLocator(integer=True))
    figure.supylabel("variance")
    handles, labels = panel.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), frameon=False)


def trained_cells(rows: list[dict]) -> dict[tuple[str, str], list[list[dict]]]:
    """Return (network, form) -> the runs at the better rate, by batch size."""
    sizes = sorted(values_of(rows, "batch_size"), key=int)
    pairs = itertools.product(values_of(rows, "network"), TRAINED_FORMS)
    return {
        (network, form): [chosen(rows, network=network, form=form, batch_size=n) for n in sizes]
        for network, form in pairs
    }


def training_lines(rows: list[dict]) -> Lines:
    sizes = sorted(values_of(rows, "batch_size"), key=int)
    lines = [["network", "form", *(f"batch {size}" for size in sizes), "seeds"]]
    for pair, cells in trained_cells(rows).items():
        lines.append([*pair, *map(outcome, cells), seeds_of(list(filter(None, cells)))])
    return lines


def training_plot(rows: list[dict], figure) -> None:
    networks = values_of(rows, "network")
    panels = figure.subplots(1, len(networks), sharey=True, squeeze=False)[0]
    cells = trained_cells(rows)
    for panel, network in zip(panels, networks, strict=True):
        found = [cells[network, form] for form in TRAINED_FORMS]
        shown = [row for of_form in found for cell in of_form for row in cell]
        curves_on(panel, shown, "batch_size", "form")
        panel.set(title=network)
        panel.label_outer()
    panels[0].set_ylim(0)  # all share it, and it is known when all curves are drawn


def beside_small_batches(rows: list[dict], folder: Path) -> list[dict]:
    """Return the rows after those of the networks that ``small_batch_finetuning`` compares."""
    others = read_table(folder / "small_batch_finetuning.csv")
    shown = {(row["set"], row["batch_size"]) for row in rows}
    return [row for row in others if (row["set"], row["batch_size"]) in shown] + rows
