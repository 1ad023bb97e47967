"""Signal propagation plots, in one look for all figures."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping
from pathlib import Path

from nf_zoo import atomic

COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
"""Okabe and Ito's palette: distinct to color-blind readers too."""

STYLE = {
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.labelsize": 9,
    "legend.fontsize": 8,
    "axes.grid": True,
    "grid.alpha": 0.25,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "lines.linewidth": 1.4,
    "lines.markersize": 3,
    "svg.fonttype": "none",
    "svg.hashsalt": "nf_zoo",
}

THEORY = {"color": COLORS[-1], "linestyle": "--", "linewidth": 1.0, "zorder": 3, "label": "theory"}
"""How predictions are drawn: over the measured curves, which they often hit."""

PANELS = (
    ("squared_mean", "Average channel squared mean"),
    ("variance", "Average channel variance"),
    ("residual_variance", "Residual average channel variance"),
)


def plot_signal_propagation(
    results: Mapping[str, object], path: str | os.PathLike, *, title: str = ""
) -> Path:
    """Squared mean, variance and residual variance against depth, side by side.

    Predicted variances are dashed; variances that range over more
    than a factor of 50 get a logarithmic axis.

    Args:
        results: label -> SignalPropagation; the label "" draws no legend entry.
        path: of the picture; its suffix decides the format.
        title: above the panels.

    Returns:
        The path; an existing file is replaced in one step.

    Raises:
        ValueError: if there is nothing to draw, or no such picture format.
    """
    if not results or not all(len(result) for result in results.values()):
        raise ValueError("There is nothing to plot: a result has no blocks.")
    with figure(path, 1, len(PANELS), (11.0, 3.2)) as (canvas, panels):
        for panel, (field, label) in zip(panels, PANELS, strict=True):
            for color, (name, result) in zip(COLORS, results.items(), strict=False):
                _curve(panel, result, field, name, color)
            scale(panel)
            panel.set_title(label)
            depth_axis(panel)
        canvas.suptitle(title, fontsize=10)
        legend(canvas, panels[1])
    return Path(path)


def _curve(panel, result, field: str, label: str, color: str) -> None:
    depth = range(1, len(result) + 1)
    marker = "o" if len(result) <= 60 else None
    measured = [getattr(block, field) for block in result]
    if field == "squared_mean":
        # Zero but for rounding: a logarithmic axis would show nothing else.
        measured = [b.squared_mean if b.squared_mean > 1e-10 * b.variance else 0 for b in result]
    if any(value is not None for value in measured):
        values = [float("nan") if value is None else value for value in measured]
        panel.plot(depth, values, color=color, marker=marker, label=label or "measured")
    if field != "variance":
        return
    predicted = [block.predicted_variance for block in result]
    if any(value is not None for value in predicted):
        values = [float("nan") if value is None else value for value in predicted]
        panel.plot(depth, values, **THEORY)


def scale(panel) -> None:
    """A logarithmic axis where the values range too far for a linear one."""
    values = [y for line in panel.lines for y in line.get_ydata() if y == y and y > 0]
    if values and max(values) > 50 * min(values) and max(values) > 10:
        panel.set_yscale("log")
    else:
        panel.set_ylim(bottom=0)


def depth_axis(panel) -> None:
    """The horizontal axis counts blocks: whole numbers only."""
    from matplotlib.ticker import MaxNLocator

    panel.set_xlabel("Residual block")
    panel.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))


def legend(canvas, *panels) -> None:
    """The labels of the panels, each once, below the figure, outside the data."""
    found = {}
    for panel in panels:
        handles, labels = panel.get_legend_handles_labels()
        found |= {label: h for label, h in zip(labels, handles, strict=True) if label not in found}
    if found:
        columns = min(len(found), 4, int(canvas.get_figwidth() // 2.2))
        place = {"loc": "outside lower center", "ncols": columns, "frameon": False}
        canvas.legend(found.values(), found.keys(), **place)


@contextlib.contextmanager
def figure(path: str | os.PathLike, rows: int, columns: int, size: tuple[float, float]):
    """A figure in the house style; on leaving it is written and takes the place of ``path``.

    Args:
        path: of the picture.
        rows, columns: of the panels.
        size: in inches.

    Yields:
        (the figure, its panels as a flat list).

    Raises:
        ValueError: if the suffix is no picture format.
    """
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    path = Path(path)
    known = FigureCanvasAgg.get_supported_filetypes()
    if path.suffix.lstrip(".").lower() not in known:
        raise ValueError(
            f"The suffix decides the format: one of {', '.join(sorted(known))}. Received: {path}"
        )
    with matplotlib.rc_context(STYLE):
        canvas = Figure(size, layout="constrained")
        panels = canvas.subplots(rows, columns, squeeze=False).ravel().tolist()
        yield canvas, panels
        with atomic.replacing(path) as written:
            # A date in the file would make every run differ.
            canvas.savefig(written, dpi=150, metadata=_undated(path.suffix))


def _undated(suffix: str) -> dict | None:
    dates = {".svg": {"Date": None}, ".pdf": {"CreationDate": None}}
    return dates.get(suffix.lower())
