"""Tables in the pages and pictures beside the CSV files, from the measured rows."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

from benchmarks.tables import read_table
from evidence import conversion, conversion_report
from evidence.cells import (
    COLORS,
    NAMES,
    OTHERS,
    Lines,
    curves_on,
    mean_accuracy,
    outcome,
    seeds_of,
    values_of,
    where,
)
from evidence.experiments import ABLATIONS, FIVE_EPOCHS, SMALL_DATA, TRAINS
from evidence.small_batch_finetuning import PARTS, SETS, VARIANTS, chosen
from evidence.table import accuracy

FOLDER = Path(__file__).parents[1] / "docs" / "results"
PAGES = (FOLDER.with_suffix(".md"), FOLDER.with_name("convert.md"))
FINE_TUNINGS = (*VARIANTS, *conversion.VARIANTS)


def variants_of(rows: list[dict]) -> list[str]:
    """Return the measured variants, in the order of the experiment."""
    return [name for name in (*ABLATIONS, *SMALL_DATA, *FIVE_EPOCHS) if where(rows, variant=name)]


def rates_of(rows: list[dict], scheme: str, batch_size: str) -> dict[float, list[dict]]:
    """Return learning rate -> runs, ascending."""
    found = where(rows, scheme=scheme, batch_size=batch_size)
    rates = sorted({float(row["learning_rate"]) for row in found})
    return {rate: [r for r in found if float(r["learning_rate"]) == rate] for rate in rates}


def summary(rates: dict[float, list[dict]]) -> tuple[float, float]:
    """Return the best and the largest rate that trained, of the first seed, which has all rates."""
    first = {rate: accuracy(rows[0]) for rate, rows in rates.items()}
    stable = max((rate for rate, value in first.items() if value >= TRAINS), default=0.0)
    return max(first, key=first.get), stable


def schemes_of(rows: list[dict]) -> list[str]:
    """Return the measured schemes, in the order of their colors."""
    return [name for name in {**COLORS, **OTHERS} if where(rows, scheme=name)]


def learning_rate_lines(rows: list[dict]) -> Lines:
    lines = [["scheme", "batch size", "best rate", "largest stable rate", "accuracy, %"]]
    for scheme in schemes_of(rows):
        for batch_size in values_of(where(rows, scheme=scheme), "batch_size"):
            rates = rates_of(rows, scheme, batch_size)
            best, stable = summary(rates)
            cells = [NAMES[scheme], batch_size, f"{best:g}", f"{stable:g}", outcome(rates[best])]
            lines.append(cells)
    return lines


def learning_rate_plot(rows: list[dict], figure) -> None:
    batches = values_of(rows, "batch_size")
    lines = 2 if len(batches) > 2 else 1
    panels = figure.subplots(lines, math.ceil((len(batches) + 1) / lines)).flat
    colors = {name: {**COLORS, **OTHERS}[name] for name in schemes_of(rows)}
    highest = 1.15 * max(map(accuracy, rows))
    extent = [float(row["learning_rate"]) for row in rows]
    extent = (min(extent) / 1.5, max(extent) * 1.5)
    for panel, batch_size in zip(panels, batches, strict=False):
        for scheme, color in colors.items():
            rates = rates_of(rows, scheme, batch_size)
            means = [mean_accuracy(runs) for runs in rates.values()]
            panel.plot(list(rates), means, "o-", color=color, label=NAMES[scheme], markersize=3)
        panel.set(xscale="log", title=f"batch {batch_size}", xlabel="learning rate")
        panel.set(xlim=extent, ylim=(0, highest), ylabel="test accuracy, % (0: diverged)")
    panels[0].legend(fontsize=7, loc="lower left")
    for scheme, color in colors.items():
        points = [
            (int(batch), *summary(rates_of(rows, scheme, batch)))
            for batch in batches
            if where(rows, scheme=scheme, batch_size=batch)
        ]
        sizes = [size for size, _, _ in points]
        panels[-1].plot(sizes, [best for _, best, _ in points], "o-", color=color)
        panels[-1].plot(sizes, [most for _, _, most in points], "x:", color=color)
    panels[-1].set(xscale="log", yscale="log", xlabel="batch size", title="best (-), largest (··)")
    panels[-1].set_xticks([int(batch) for batch in batches], batches)
    panels[-1].tick_params(axis="x", which="minor", bottom=False, labelbottom=False)


def grid_lines(rows: list[dict], across: str, down: str, names=None) -> Lines:
    columns = values_of(rows, across)
    lines = [[down.replace("_", " "), *((names or {}).get(one, one) for one in columns)]]
    for value in values_of(rows, down):
        cells = [outcome(where(rows, **{across: one, down: value})) for one in columns]
        lines.append([NAMES.get(value, value), *cells])
    return lines


def small_batches_lines(rows: list[dict]) -> Lines:
    lines = grid_lines(rows, "batch_size", "scheme")
    lines[0] = ["scheme", *(f"batch {size}" for size in lines[0][1:])]
    return lines


def depth_lines(rows: list[dict]) -> Lines:
    lines = grid_lines(rows, "layers", "scheme")
    lines[0] = ["scheme", *(f"{layers} layers" for layers in lines[0][1:])]
    return lines


def variant_lines(rows: list[dict]) -> Lines:
    lines = [["variant", "accuracy, %", "runs"]]
    for variant in variants_of(rows):
        found = where(rows, variant=variant)
        lines.append([variant, outcome(found), str(len(found))])
    return lines


def transfer_lines(rows: list[dict]) -> Lines:
    which = "network, start"
    rows = [{**row, which: f"{row['network']}, {row['start']}"} for row in rows]
    lines = grid_lines(rows, "per_class", which)
    lines[0] = [which, *(f"{count} a class" for count in lines[0][1:])]
    return lines


def transfer_plot(rows: list[dict], figure) -> None:
    panels = figure.subplots(1, len(values_of(rows, "network")), sharey=True, squeeze=False)[0]
    for panel, network in zip(panels, values_of(rows, "network"), strict=True):
        curves_on(panel, where(rows, network=network), "per_class", "start")
        panel.set(title=network, xlabel="pictures of a class")
        panel.label_outer()


def small_batch_finetuning_lines(rows: list[dict]) -> Lines:
    sizes = sorted(values_of(rows, "batch_size"), key=int)
    lines = [["pictures", "network", *(f"batch {size}" for size in sizes), "seeds"]]
    for name in [name for name in SETS if where(rows, set=name)]:
        for variant in [
            one for one in (*VARIANTS, *conversion.VARIANTS) if where(rows, set=name, variant=one)
        ]:
            cells = [chosen(rows, set=name, variant=variant, batch_size=one) for one in sizes]
            lines.append([name, variant, *map(outcome, cells), seeds_of(list(filter(None, cells)))])
    return lines


def small_batch_finetuning_plot(rows: list[dict], figure, sets=tuple(SETS)) -> None:
    sets = [name for name in sets if where(rows, set=name)]
    panels = figure.subplots(1, len(sets), sharey=True, squeeze=False)[0] if sets else ()
    for panel, name in zip(panels, sets, strict=False):
        sizes = sorted(values_of(where(rows, set=name), "batch_size"), key=int)
        cells = [
            chosen(rows, set=name, variant=variant, batch_size=size)
            for variant in FINE_TUNINGS
            for size in sizes
        ]
        shown = list(filter(None, cells))
        curves_on(panel, [row for cell in shown for row in cell], "batch_size", "variant")
        panel.set_xticks([int(size) for size in sizes], sizes)
        seeds = seeds_of(shown)
        panel.set(title=f"{name}, {seeds} seed{'s' * (seeds != '1')}")
        panel.label_outer()
    for panel in panels[:1]:  # all share it, and it is known when all curves are drawn
        panel.set_ylim(0)


def first_picture(rows: list[dict], figure) -> None:
    """Draw the CIFAR-10 panel alone, with large letters: README shows it at half the width."""
    with plt.rc_context({"font.size": 13, "lines.linewidth": 2.2}):
        small_batch_finetuning_plot(rows, figure, sets=tuple(SETS)[:1])
        for panel in figure.axes:
            panel.legend(fontsize=12)
            panel.spines[["top", "right"]].set_visible(False)
            panel.grid(alpha=0.25)


def accumulate_lines(rows: list[dict]) -> Lines:
    lines = [["network", *(f"{step}, %" for step in PARTS), "largest difference", "seeds"]]
    for variant in [name for name in VARIANTS if where(rows, variant=name)]:
        found = where(rows, variant=variant)
        cells = [outcome(where(found, step=step)) for step in PARTS]
        largest = max(differences(found))
        seeds = str(len(differences(found)))
        lines.append([variant, *cells, f"{largest:.2g}", seeds])
    return lines


def differences(rows: list[dict]) -> list[float]:
    """Return the difference of the weights in each pair of runs, by the largest change of one."""
    return [float(row["difference"]) for row in rows if row["difference"]]


def accumulate_plot(rows: list[dict], figure) -> None:
    panel = figure.subplots()
    variants = [name for name in VARIANTS if where(rows, variant=name)][::-1]
    for place, variant in enumerate(variants):
        found = differences(where(rows, variant=variant))
        panel.barh(place, max(found), color=OTHERS[variant], alpha=0.6)
        panel.plot(found, [place] * len(found), "k.", markersize=5)
    panel.set_yticks(range(len(variants)), variants)
    panel.set(xscale="log", xlim=(1e-6, 5), xlabel="largest difference / largest change")


def curves_plot(rows: list[dict], figure, across: str, one_line: str) -> None:
    curves_on(figure.subplots(), rows, across, one_line)


def by_batch_size_plot(rows: list[dict], figure) -> None:
    curves_plot(rows, figure, "batch_size", "scheme")


def bars_plot(rows: list[dict], figure) -> None:
    panel = figure.subplots()
    variants = variants_of(rows)[::-1]
    for place, variant in enumerate(variants):
        runs = where(rows, variant=variant)
        panel.barh(place, mean_accuracy(runs), color="tab:blue", alpha=0.6)
        panel.plot([accuracy(run) for run in runs], [place] * len(runs), "k.", markersize=5)
    panel.set_yticks(range(len(variants)), variants)
    panel.set_xlabel("test accuracy, % (0: diverged)")


TABLES: dict[str, Callable[[list[dict]], Lines]] = {
    "learning_rate": learning_rate_lines,
    "learning_rate_open": learning_rate_lines,
    "small_batches": small_batches_lines,
    "small_batches_open": small_batches_lines,
    "depth": depth_lines,
    "ablation": variant_lines,
    "small_data": variant_lines,
    "five_epochs": variant_lines,
    "transfer": transfer_lines,
    "transfer_to_cifar10": transfer_lines,
    "small_batch_finetuning": small_batch_finetuning_lines,
    "accumulate": accumulate_lines,
    "conversion_signals": conversion_report.signals_lines,
    "conversion_training": conversion_report.training_lines,
    "conversion_finetuning": small_batch_finetuning_lines,
}
PLOTS: dict[str, tuple[tuple[float, float], Callable]] = {
    "learning_rate": ((11, 6.4), learning_rate_plot),
    "learning_rate_open": ((11, 3.4), learning_rate_plot),
    "small_batches": ((6, 4), by_batch_size_plot),
    "small_batches_open": ((6, 4), by_batch_size_plot),
    "depth": ((6, 4), lambda rows, fig: curves_plot(rows, fig, "layers", "scheme")),
    "ablation": ((7, 3.5), bars_plot),
    "small_data": ((7, 3), bars_plot),
    "five_epochs": ((7, 2.4), bars_plot),
    "transfer": ((10, 3.6), transfer_plot),
    "transfer_to_cifar10": ((5, 3.6), transfer_plot),
    "small_batch_finetuning": ((10, 3.6), small_batch_finetuning_plot),
    "small_batch_finetuning.cifar10": ((6.4, 4.6), first_picture),
    "accumulate": ((6, 1.8), accumulate_plot),
    "conversion_signals": ((10, 5.6), conversion_report.signals_plot),
    "conversion_training": ((10, 3.6), conversion_report.training_plot),
    "conversion_finetuning": ((5, 3.6), small_batch_finetuning_plot),
}
"""Name of a table, or of a table and a part of it -> size in inches, and what draws it."""


ALTERNATIVES = {
    "small_batch_finetuning": "Accuracy after fine-tuning, by batch size",
    "accumulate": "Difference of the weights after an epoch of micro-batches",
    "conversion_signals": "Variance of every block, as it is, without BatchNorm, and converted",
    "conversion_training": "Accuracy of small networks trained from scratch, by batch size",
    "conversion_finetuning": "Accuracy after fine-tuning, by batch size",
}
"""Tables that the page has with their picture, once there is one -> its text in words."""


def markdown(lines: Lines) -> str:
    """Return a table of the lines, the first as its head."""
    rows = ["| " + " | ".join(line) + " |" for line in lines]
    return "\n".join([rows[0], "|---" * len(lines[0]) + "|", *rows[1:]])


def rows_of(name: str, folder: Path) -> list[dict]:
    """Return the measured rows that a table shows."""
    rows = read_table(folder / f"{name}.csv")
    return (
        conversion_report.beside_small_batches(rows, folder)
        if name == "conversion_finetuning"
        else rows
    )


def put_tables(text: str, folder: Path) -> str:
    """Return the page with every table between its marks replaced from the CSV files."""

    def table(match: re.Match) -> str:
        rows = rows_of(match[1], folder)
        made = markdown(TABLES[match[1]](rows)) if rows else "Not measured."
        if rows and match[1] in ALTERNATIVES:
            made += f"\n\n![{ALTERNATIVES[match[1]]}](results/{match[1]}.png)"
        return f"<!-- {match[1]} -->\n{made}\n<!-- end -->"

    return re.sub(r"<!-- (\w+) -->\n.*?<!-- end -->", table, text, flags=re.DOTALL)


def write(folder: Path, *pages: Path) -> None:
    """Draw every table of the folder, print it and put it into the pages, ``PAGES`` by default."""
    for name, (size, plot) in PLOTS.items():
        table, _, part = name.partition(".")
        rows = rows_of(table, folder)
        if not rows:
            continue
        if not part:
            print(f"\n{name}\n\n{markdown(TABLES[name](rows))}")
        figure = plt.figure(figsize=size, layout="constrained")
        plot(rows, figure)
        if figure.axes:
            temporary = folder / f".{name}.tmp.png"
            figure.savefig(temporary, dpi=110)
            os.replace(temporary, folder / f"{name}.png")
        plt.close(figure)
    for page in filter(Path.exists, pages or PAGES):
        temporary = page.with_name(f".{page.name}.tmp")
        temporary.write_text(put_tables(page.read_text("utf-8"), folder), "utf-8")
        os.replace(temporary, page)
