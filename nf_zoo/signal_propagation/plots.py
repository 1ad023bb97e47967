"""Plots of signal propagation, the papers' figures and the trainable depth, in one style."""

import contextlib
import math
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
"""Style of predictions, drawn over the measured curves, which they often hit."""

_SKIP, _BRANCH, _NORM = COLORS[:3]
MARKERS = "osD^vPX"

PANELS = (
    ("squared_mean", "Average channel squared mean"),
    ("variance", "Average channel variance"),
    ("residual_variance", "Residual average channel variance"),
)


def plot_signal_propagation(
    results: Mapping[str, object], path: str | os.PathLike, *, title: str = ""
) -> Path:
    """Draw squared mean, variance and residual variance against depth, side by side.

    Predicted variances are dashed. Variances that differ by more than a factor of 50 get a
    logarithmic axis. ``results`` maps labels to SignalPropagations; the label "" stays out of the
    legend. The suffix of the path decides the format.
    """
    if not results or not all(len(result) for result in results.values()):
        raise ValueError("Every result to plot must have blocks. Received: one without, or none")
    with figure(path, 1, len(PANELS), (11.0, 3.2)) as (canvas, panels):
        for panel, (field, label) in zip(panels, PANELS, strict=True):
            for color, (name, result) in zip(COLORS, results.items(), strict=False):
                _curve(panel, result, field, name, color)
            scale(panel)
            panel.set_title(label)
            depth_axis(panel)
        canvas.suptitle(title, fontsize=10)
        legend(canvas, panels[1])
    return Path(path).expanduser()


def _curve(panel, result, field: str, label: str, color: str) -> None:
    depth = range(1, len(result) + 1)
    marker = "o" if len(result) <= 60 else None
    measured = [getattr(block, field) for block in result]
    if field == "squared_mean":
        # Values that are zero up to rounding would fill a logarithmic axis.
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


def plot_depth(measured, path: Path) -> Path:
    """Draw a figure with panels; the suffix of the path decides the format."""
    together = "mean square" in measured.panels
    columns = len(measured.networks) + together
    with figure(path, 1, columns, (1.0 + 3.6 * columns, 3.8)) as (canvas, panels):
        for panel, network in zip(panels, measured.networks, strict=False):
            _variances(panel, network)
            if columns > 1:
                panel.set_title(network.label)
        if together:
            _mean_squares(panels[-1], measured.networks)
        canvas.suptitle(measured.title, fontsize=10)
        legend(canvas, *panels)
    return path


def _variances(panel, network) -> None:
    depth = range(1, len(network.result) + 1)
    # If curves coincide, the broad one shows beneath the thin one.
    broad = {"color": _SKIP, "linewidth": 4, "alpha": 0.5}
    panel.plot(depth, [v for _, v in network.skip], **broad, label="skip path, before the block")
    norms = [block.bn_moving_variance for block in network.result]
    if norms[0] is not None:
        rings = {"marker": "o", "markerfacecolor": "none", "linestyle": "none", "markersize": 4.5}
        every = max(1, len(norms) // 15)
        panel.plot(depth, norms, color=_NORM, **rings, markevery=every, label="BN moving variance")
    branch = [block.residual_variance for block in network.result]
    panel.plot(depth, branch, color=_BRANCH, label="end of the residual branch")
    for values in (network.skip_theory, network.residual_theory):
        panel.plot(depth, values, **THEORY)
    panel.set_ylabel("Average channel variance")
    depth_axis(panel)
    # A variance that doubles needs a logarithmic axis; one that grows by steps a linear one.
    if max(network.skip_theory) > 10 * len(network.result):
        panel.set_yscale("log", base=2)
    else:
        panel.set_ylim(bottom=0)


def _mean_squares(panel, networks) -> None:
    for color, network in zip(COLORS[3:], networks, strict=False):
        depth = range(1, len(network.result) + 1)
        measured = [mean + variance for mean, variance in network.skip]
        panel.plot(depth, measured, color=color, label=f"mean square, {network.label}")
        theory = {**THEORY, "color": color, "label": f"theory, {network.label}"}
        panel.plot(depth, network.mean_square_theory, **theory)
    panel.set_title("both, squared mean added")
    panel.set_ylabel("Mean square on the skip path")
    depth_axis(panel)
    panel.set_ylim(bottom=0)


def plot_trainable_depth(measured, path: Path) -> Path:
    """Draw the figure; the suffix of the path decides the format."""
    schemes = list(dict.fromkeys(one.scheme for one in measured.trained))
    deepest = max(one.layers for one in measured.trained)
    with figure(path, 1, 3, (11.0, 4.2)) as (canvas, panels):
        for scheme, color, marker in zip(schemes, COLORS, MARKERS, strict=False):
            own = [one for one in measured.trained if one.scheme == scheme]
            style = {"color": color, "marker": marker}
            gradients = own[-1].gradients
            if all(math.isfinite(norm) and norm > 0 for norm in gradients):
                panels[0].plot(range(1, len(gradients) + 1), gradients, color=color)
            _over_depth(panels[1], own, style, [one.gradients[0] for one in own], shown=False)
            _over_depth(panels[2], own, style, [one.best.loss for one in own], shown=True)
        _name_the_gradients(panels[0], panels[1], deepest)
        _name_the_losses(panels[2], measured.trained[0].guessing, measured.threshold)
        canvas.suptitle(measured.title, fontsize=10)
        legend(canvas, panels[2])
    return path


def _over_depth(panel, own: list, style: dict, values: list[float], shown: bool) -> None:
    """Draw a line, with filled markers where the network trains and crosses for missing values."""
    layers = [one.layers for one in own]
    drawn = [value if value > 0 else math.nan for value in values]
    panel.plot(layers, drawn, **style, markerfacecolor="white", markersize=5)
    full = {**style, "linestyle": "none", "markersize": 5}
    trains = [(one.layers, v) for one, v in zip(own, values, strict=True) if one.trains]
    panel.plot(*zip(*trains, strict=True), **full) if trains else None
    lost = [
        (n, 0.0 if value == 0 else 1.0)
        for n, value in zip(layers, values, strict=True)
        if value == 0 or not math.isfinite(value)
    ]
    edge = {"transform": panel.get_xaxis_transform(), "clip_on": False, "linestyle": "none"}
    if lost:
        cross = {"marker": "x", "color": style["color"], "markersize": 6, "zorder": 4}
        (line,) = panel.plot(*zip(*lost, strict=True), **cross, **edge)
        line.set_in_layout(False)
    if shown:
        panel.plot([], [], **style, markersize=5, label=own[0].scheme)


def _name_the_gradients(along, over, deepest: int) -> None:
    for panel in (along, over):
        panel.set_yscale("log")
        panel.set_ylabel("Gradient norm, relative to the end")
    depth_axis(along)
    along.set_title(f"At the start, {deepest} layers")
    over.set_title("At the start, first block")
    over.set(xscale="log", xlabel="Layers")


def _name_the_losses(panel, guessing: float, threshold: float) -> None:
    style = {key: value for key, value in THEORY.items() if key != "label"}
    panel.axhline(threshold * guessing, **style)
    label = f"{threshold:.1f} ln(classes): below it, it trains"
    place = {"transform": panel.get_yaxis_transform(), "va": "bottom", "ha": "right"}
    panel.text(1.0, threshold * guessing + 0.02, label, fontsize=7.5, **place).set_in_layout(False)
    panel.set(ylabel="Training loss", ylim=(0, 1.15 * guessing), title="After the updates")
    panel.set(xscale="log", xlabel="Layers")


def scale(panel) -> None:
    """Set a logarithmic axis if the values range too far for a linear one."""
    values = [y for line in panel.lines for y in line.get_ydata() if y == y and y > 0]
    if values and max(values) > 50 * min(values) and max(values) > 10:
        panel.set_yscale("log")
    else:
        panel.set_ylim(bottom=0)


def depth_axis(panel) -> None:
    """Let the horizontal axis count blocks, in whole numbers only."""
    from matplotlib.ticker import MaxNLocator

    panel.set_xlabel("Residual block")
    panel.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))


def legend(canvas, *panels) -> None:
    """Put the labels of the panels, each once, below the figure, outside the data."""
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
    """Yield a figure of ``size`` inches and its panels; write it in one step on exit."""
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    path = Path(path).expanduser()
    known = FigureCanvasAgg.get_supported_filetypes()
    if path.suffix.lstrip(".").lower() not in known:
        raise ValueError(
            f"The suffix must be a known format: {', '.join(sorted(known))}. Received: {path}"
        )
    with matplotlib.rc_context(STYLE):
        canvas = Figure(size, layout="constrained")
        panels = canvas.subplots(rows, columns, squeeze=False).ravel().tolist()
        yield canvas, panels
        # A date in the file would differ in every run.
        dates = {".svg": {"Date": None}, ".pdf": {"CreationDate": None}}
        with atomic.replacing(path) as written:
            canvas.savefig(written, dpi=150, metadata=dates.get(path.suffix.lower()))
