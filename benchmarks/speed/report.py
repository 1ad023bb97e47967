"""Tables in Markdown and a picture, of the rows that were measured."""

from __future__ import annotations

from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

EIGHT_BITS = "int8"
APPLICATIONS = "keras.applications ResNet50V2"


def write(rows: list[dict], output: Path) -> None:
    """Print the tables; draw the picture beside ``output``."""
    cases = {(r["table"], r["group"], r["batch"], r["network"]): None for r in rows if r["network"]}
    print(
        "| task | network | batch | form | ms | images/s | share of matrix product | against timm |"
    )
    print("|---|---|---:|---|---:|---:|---:|---:|")
    for case in cases:
        for line in _lines(_of(rows, case), _best(_of(rows, case), "pytorch")):
            print(line)
    draw(rows, output.with_suffix(".png"))


def _of(rows: list[dict], case: tuple) -> list[dict]:
    return [r for r in rows if (r["table"], r["group"], r["batch"], r["network"]) == case]


def _best(rows: list[dict], runtime: str) -> float | None:
    times = [
        float(r["milliseconds"])
        for r in rows
        if r["runtime"] == runtime and EIGHT_BITS not in r["form"]
    ]
    return min(times, default=None)


def _lines(rows: list[dict], timm: float | None):
    for row in rows:
        milliseconds, batch = float(row["milliseconds"]), int(row["batch"])
        form = f"timm, {row['form']}" if row["runtime"] == "pytorch" else row["form"]
        ratio = f"{timm / milliseconds:.2f}" if timm else ""
        yield (
            f"| {row['table']} | {row['network']} | {batch} | {form} | {milliseconds:.1f} "
            f"| {1000 * batch / milliseconds:.1f} | {100 * float(row['share']):.0f} % | {ratio} |"
        )


def draw(rows: list[dict], path: Path) -> None:
    """Bars of images a second, a panel for each network and batch size of inference."""
    rows = [r for r in rows if r["table"] == "inference" and r["network"] not in ("", APPLICATIONS)]
    networks = list(dict.fromkeys(r["network"] for r in rows))
    batches = sorted({int(r["batch"]) for r in rows})
    if not rows:
        return
    figure, grid = plt.subplots(
        len(networks),
        len(batches),
        figsize=(4.2 * len(batches), 2.6 * len(networks)),
        squeeze=False,
        layout="constrained",
    )
    for network, line in zip(networks, grid, strict=True):
        for batch, axes in zip(batches, line, strict=True):
            _panel(axes, [r for r in rows if r["network"] == network and int(r["batch"]) == batch])
            axes.set_title(f"{network}, batch {batch}", fontsize=9)
    for axes in grid[-1]:
        axes.set_xlabel("images a second")
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _panel(axes, rows: list[dict]) -> None:
    names = [f"timm: {r['form']}" if r["runtime"] == "pytorch" else r["form"] for r in rows]
    rates = [1000 * int(r["batch"]) / float(r["milliseconds"]) for r in rows]
    colours = ["tab:orange" if r["runtime"] == "pytorch" else "tab:blue" for r in rows]
    bars = axes.barh(names, rates, color=colours)
    axes.bar_label(bars, fmt="%.3g", fontsize=7, padding=2)
    axes.invert_yaxis()
    axes.margins(x=0.15)
    axes.tick_params(axis="y", labelsize=7)
