"""The plot of the trainable depth: gradients along and over depth, and the loss over depth."""

from __future__ import annotations

import math
from pathlib import Path

from nf_zoo.signal_propagation.plot import COLORS, THEORY, depth_axis, figure, legend
from nf_zoo.signal_propagation.trainable_depth import TRAINS, TrainableDepth, Trained

MARKERS = "osD^vPX"


def plot_trainable_depth(measured: TrainableDepth, path: Path) -> Path:
    """Draw the figure; the suffix of the path decides the format."""
    schemes = list(dict.fromkeys(one.scheme for one in measured.trained))
    deepest = max(one.layers for one in measured.trained)
    with figure(path, 1, 3, (11.0, 4.2)) as (canvas, panels):
        for scheme, color, marker in zip(schemes, COLORS, MARKERS, strict=False):
            own = [one for one in measured.trained if one.scheme == scheme]
            style = {"color": color, "marker": marker}
            _along(panels[0], own[-1], color)
            _over_depth(panels[1], own, style, [one.gradients[0] for one in own], shown=False)
            _over_depth(panels[2], own, style, [one.best.loss for one in own], shown=True)
        _name_the_gradients(panels[0], panels[1], deepest)
        _name_the_losses(panels[2], measured.trained[0].guessing)
        canvas.suptitle(measured.title, fontsize=10)
        legend(canvas, panels[2])
    return path


def _along(panel, one: Trained, color: str) -> None:
    if all(math.isfinite(norm) and norm > 0 for norm in one.gradients):
        panel.plot(range(1, len(one.gradients) + 1), one.gradients, color=color)


def _over_depth(panel, own: list[Trained], style: dict, values: list[float], shown: bool) -> None:
    """A line; filled markers where the network trains, crosses where there is no such value."""
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
    _layers_axis(over)


def _name_the_losses(panel, guessing: float) -> None:
    style = {key: value for key, value in THEORY.items() if key != "label"}
    panel.axhline(TRAINS * guessing, **style)
    label = f"{TRAINS:.1f} ln(classes): below it, it trains"
    place = {"transform": panel.get_yaxis_transform(), "va": "bottom", "ha": "right"}
    panel.text(1.0, TRAINS * guessing + 0.02, label, fontsize=7.5, **place).set_in_layout(False)
    panel.set_ylabel("Training loss")
    panel.set_ylim(0, 1.15 * guessing)
    panel.set_title("After the updates")
    _layers_axis(panel)


def _layers_axis(panel) -> None:
    panel.set_xscale("log")
    panel.set_xlabel("Layers")
