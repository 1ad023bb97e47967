"""Markdown tables and a picture of the measured rows."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

APPLICATIONS = "keras.applications ResNet50V2"
TENSORFLOW = ("folded", "folded, XLA", "SavedModel, constants")
EXPORTED = ("ONNX Runtime", "OpenVINO", "LiteRT")
FROZEN = "torch.compile, frozen"
BFLOAT16 = ("folded, bfloat16", "OpenVINO bfloat16")
FROZEN_BFLOAT16 = f"{FROZEN}, bfloat16"
HALF_STEPS = ("TensorFlow, bfloat16", "channels-last, bfloat16", "torch.compile, bfloat16")
"""Forms of a training step in bfloat16, ours and timm's under autocast."""
EIGHT_BITS = ("ONNX Runtime int8", "OpenVINO int8", "LiteRT int8")


class Times:
    """Rows of one table and batch size, by network, runtime and form."""

    def __init__(self, rows: list[dict], table: str, batch: int):
        rows = [r for r in rows if r["table"] == table and int(r["batch"]) == batch]
        self._rows = {(r["network"], r["runtime"], r["form"]): r for r in rows}

    def networks(self) -> list[str]:
        """Return the networks that timm was measured on."""
        return list(dict.fromkeys(n for n, runtime, _ in self._rows if n and runtime == "pytorch"))

    def fastest(self, network: str, runtime: str, forms=None, without=()) -> dict | None:
        """Return the row of the fastest form; None if none was measured."""
        found = [
            row
            for (name, kind, form), row in self._rows.items()
            if (name, kind) == (network, runtime) and form not in without
            if forms is None or form in forms
        ]
        return min(found, key=lambda row: float(row["milliseconds"]), default=None)


def write(rows: list[dict], output: Path) -> None:
    """Print the tables; draw the picture beside ``output``."""
    for table in ("inference", "training"):
        batches = sorted({int(r["batch"]) for r in rows if r["table"] == table})
        print(f"\n| {table}, milliseconds | " + " | ".join(f"batch {b}" for b in batches) + " |")
        print("|---" + "|---:" * len(batches) + "|")
        for line in _lines([r for r in rows if r["table"] == table], batches):
            print(line)
    print("\n| how many times as fast | batch | ratio | of what |\n|---|---:|---:|---|")
    for what, batch, first, second in ratios(rows):
        value = float(second["milliseconds"]) / float(first["milliseconds"])
        forms = f"{first['form']} {first['milliseconds']} ms, {second['form']} "
        print(f"| {what} | {batch} | {value:.2f} | {forms}{second['milliseconds']} ms |")
    draw(rows, output.with_suffix(".png"))


def _lines(rows: list[dict], batches: list[int]) -> Iterator[str]:
    for network, runtime, form in dict.fromkeys(
        (r["network"], r["runtime"], r["form"]) for r in rows
    ):
        cells = []
        for batch in batches:
            key = (network, runtime, form, batch)
            row = next(
                (
                    r
                    for r in rows
                    if (r["network"], r["runtime"], r["form"], int(r["batch"])) == key
                ),
                None,
            )
            cells.append(f"{float(row['milliseconds']):.0f}" if row else "")
            if row and row["table"] == "training":
                cells[-1] += f" ({row['step_megabytes']} MB)"
            elif row and network and row["share"]:
                cells[-1] += f" ({100 * float(row['share']):.0f} %)"
        name = f"timm, {form}" if runtime == "pytorch" and network else f"{runtime}, {form}"
        name = form if runtime == "keras" and network else name
        yield f"| {network or 'machine'}: {name} | " + " | ".join(cells) + " |"


def ratios(rows: list[dict]) -> Iterator[tuple[str, int, dict, dict]]:
    """Yield (comparison, batch size, own row, other row) if both were measured."""
    for batch in sorted({int(r["batch"]) for r in rows}):
        pairs = [*_inference(Times(rows, "inference", batch))]
        pairs += _training(Times(rows, "training", batch))
        yield from ((what, batch, a, b) for what, a, b in pairs if a and b)


def _inference(times: Times):
    for network in times.networks():
        ours = {
            "in TensorFlow": times.fastest(network, "keras", TENSORFLOW),
            "exported, float32": times.fastest(network, "keras", EXPORTED),
        }
        for where, mine in ours.items():
            best = times.fastest(network, "pytorch", without=(FROZEN, FROZEN_BFLOAT16))
            yield f"{network} {where}, against the best timm mode", mine, best
            frozen = times.fastest(network, "pytorch", (FROZEN,))
            yield f"{network} {where}, against timm compiled with constants", mine, frozen
        half = times.fastest(network, "keras", BFLOAT16)
        frozen = times.fastest(network, "pytorch", (FROZEN_BFLOAT16,))
        yield f"{network} in bfloat16, against timm compiled in bfloat16", half, frozen
        yield f"{network} in bfloat16, against timm's best", half, times.fastest(network, "pytorch")
        eight = times.fastest(network, "keras", EIGHT_BITS)
        yield f"{network}, eight bits against our bfloat16", eight, half
        floats = times.fastest(network, "keras", (*TENSORFLOW, *EXPORTED))
        yield f"{network}, eight bits against our best float32", eight, floats
    folded = times.fastest("nf_resnet50", "keras", TENSORFLOW)
    twin = times.fastest("resnetv2_50", "keras", TENSORFLOW)
    yield "nf_resnet50 against resnetv2_50, both folded, in TensorFlow", folded, twin
    yield f"nf_resnet50 against {APPLICATIONS}", folded, times.fastest(APPLICATIONS, "keras")


def _training(times: Times):
    ours = times.fastest("nf_resnet50", "keras", without=HALF_STEPS)
    yield "step of nf_resnet50 against resnetv2_50", ours, times.fastest("resnetv2_50", "keras")
    for network in times.networks():
        mine, best = (times.fastest(network, x, without=HALF_STEPS) for x in ("keras", "pytorch"))
        yield f"step of {network} against the best timm mode", mine, best
        mine, best = (times.fastest(network, x, HALF_STEPS) for x in ("keras", "pytorch"))
        yield f"step of {network} in bfloat16, against the best timm mode in bfloat16", mine, best


def draw(rows: list[dict], path: Path) -> None:
    """Draw bars of images per second, one panel for each network and batch size of inference."""
    rows = [r for r in rows if r["table"] == "inference"]
    rows = [r for r in rows if r["network"] not in ("", APPLICATIONS, "resnetv2_50")]
    networks = list(dict.fromkeys(r["network"] for r in rows))
    batches = [b for b in (1, 8) if any(int(r["batch"]) == b for r in rows)]
    if not batches:
        return
    figure, grid = plt.subplots(
        len(networks),
        len(batches),
        figsize=(5.0 * len(batches), 2.7 * len(networks)),
        squeeze=False,
        layout="constrained",
    )
    for network, line in zip(networks, grid, strict=True):
        for batch, axes in zip(batches, line, strict=True):
            _panel(axes, [r for r in rows if r["network"] == network and int(r["batch"]) == batch])
            axes.set_title(f"{network}, batch {batch}", fontsize=9)
    for axes in grid[-1]:
        axes.set_xlabel("images a second")
    figure.savefig(path, dpi=100)
    plt.close(figure)


def _panel(axes, rows: list[dict]) -> None:
    names = [f"timm: {r['form']}" if r["runtime"] == "pytorch" else r["form"] for r in rows]
    rates = [1000 * int(r["batch"]) / float(r["milliseconds"]) for r in rows]
    colors = ["tab:orange" if r["runtime"] == "pytorch" else "tab:blue" for r in rows]
    bars = axes.barh(names, rates, color=colors)
    axes.bar_label(bars, fmt="%.3g", fontsize=7, padding=2)
    axes.invert_yaxis()
    axes.margins(x=0.15)
    axes.tick_params(axis="y", labelsize=7)
