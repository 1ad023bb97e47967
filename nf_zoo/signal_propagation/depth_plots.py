"""The 2020 paper's plots: what travels on the skip path and what the branches add, by depth."""

from __future__ import annotations

from pathlib import Path

from nf_zoo.signal_propagation.paper_figure import Network, PaperFigure
from nf_zoo.signal_propagation.plot import COLORS, THEORY, depth_axis, figure, legend

_SKIP, _BRANCH, _NORM = COLORS[:3]


def plot_depth(measured: PaperFigure, path: Path) -> Path:
    """Draw a figure that has panels; the suffix of the path decides the format."""
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


def _variances(panel, network: Network) -> None:
    depth = range(1, len(network.result) + 1)
    # Where the curves coincide, a broad one shows beneath a thin one.
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
    _vertical(panel, network)


def _vertical(panel, network: Network) -> None:
    """What doubles needs a logarithm; what grows by steps shows best without."""
    if max(network.skip_theory) > 10 * len(network.result):
        panel.set_yscale("log", base=2)
    else:
        panel.set_ylim(bottom=0)


def _mean_squares(panel, networks: tuple[Network, ...]) -> None:
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
