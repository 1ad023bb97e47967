"""Cells of tables and lines of plots, from the rows of the runs."""

from __future__ import annotations

import statistics

from evidence.table import accuracy

COLORS = {"nf": "tab:blue", "bn": "tab:orange", "skipinit": "tab:green", "none": "tab:red"}
OTHERS = {
    "nf, gains from 1": "navy",
    "nf, gains from 1, clipped": "tab:cyan",
    "skipinit_1/sqrt(d)": "olive",
    "divide_sqrt2": "tab:purple",
    "NF": "tab:blue",
    "BatchNorm": "tab:orange",
    "BatchNorm, frozen": "tab:green",
    "BatchNorm, removed": "tab:red",
    "unnormalized": "tab:red",
    "normalizer-free": "tab:blue",
}
"""Colors of schemes that only some experiments compare."""
NAMES = {
    "bn": "BatchNorm",
    "nf": "NF (SWS, alpha, beta)",
    "nf, gains from 1": "NF, gains from 1",
    "nf, gains from 1, clipped": "NF, gains from 1, clipped",
    "skipinit": "SkipInit, 0",
    "skipinit_1/sqrt(d)": "SkipInit, 1/sqrt(d)",
    "divide_sqrt2": "(x + f) / sqrt(2)",
    "none": "none",
}

Lines = list[list[str]]
"""Cells of a table, line by line, the first line its head."""


def spread(values: list[float]) -> str:
    """Return the mean, and half the range if there are several runs."""
    mean = f"{statistics.mean(values):.1f}"
    return mean if len(values) == 1 else f"{mean} ± {(max(values) - min(values)) / 2:.1f}"


def outcome(rows: list[dict]) -> str:
    """Return the accuracy over the seeds, or the number of diverged runs."""
    if not rows:
        return ""
    failed = sum(row["outcome"] == "diverged" for row in rows)
    if failed == len(rows):
        return "diverged"
    return spread(finished(rows)) + (f" ({failed} of {len(rows)} diverged)" if failed else "")


def finished(rows: list[dict]) -> list[float]:
    """Return the accuracies of the runs that did not diverge."""
    return [accuracy(row) for row in rows if row["outcome"] != "diverged"]


def mean_accuracy(rows: list[dict]) -> float:
    """Return the mean of the runs that did not diverge; 0 if all did."""
    return statistics.mean(finished(rows) or [0.0])


def where(rows: list[dict], **key) -> list[dict]:
    """Return the rows with these values."""
    return [row for row in rows if all(row[name] == str(one) for name, one in key.items())]


def values_of(rows: list[dict], name: str) -> list[str]:
    """Return the values of a column, each once, in order."""
    return list(dict.fromkeys(row[name] for row in rows))


def seeds_of(cells: list[list[dict]]) -> str:
    """Return the number of runs of a cell, from the least to the most."""
    least, most = min(map(len, cells)), max(map(len, cells))
    return f"{most}" if least == most else f"{least} to {most}"


def curves_on(panel, rows: list[dict], across: str, one_line: str) -> None:
    for name in values_of(rows, one_line):
        xs = values_of(where(rows, **{one_line: name}), across)
        runs = [where(rows, **{one_line: name, across: x}) for x in xs]
        means = [mean_accuracy(found) for found in runs]
        below = [mean - min(map(accuracy, r)) for mean, r in zip(means, runs, strict=True)]
        above = [max(map(accuracy, r)) - mean for mean, r in zip(means, runs, strict=True)]
        panel.errorbar(
            *([float(x) for x in xs], means, (below, above)),
            **{"fmt": "o-", "capsize": 3, "label": NAMES.get(name, name)},
            color={**COLORS, **OTHERS}.get(name),
        )
    failed = any(row["outcome"] == "diverged" for row in rows)
    label = "test accuracy, %" + (" (0: diverged)" if failed else "")
    panel.set(xscale="log", xlabel=across.replace("_", " "), ylabel=label)
    ticks = values_of(rows, across)
    panel.set_xticks([float(tick) for tick in ticks], ticks)
    panel.minorticks_off()
    panel.legend(fontsize=8)
