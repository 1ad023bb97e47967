"""Rows of results, written one by one, and the tables made from them."""

from __future__ import annotations

import csv
import statistics
import time
from pathlib import Path

from training import provenance

COLUMNS = (
    *("task", "network", "runtime", "form", "precision", "batch", "size"),
    *("milliseconds", "least", "most", "calls", "pictures_a_second", "teraflops", "share"),
    *("peak_megabytes", "compile_seconds", "error", "at_second"),
    *("device", "version", "commit", "day"),
)
RUNTIMES = {"jax": "nf_zoo, JAX", "tensorflow": "nf_zoo, TensorFlow", "pytorch": "timm"}


class Rows:
    """CSV file that grows by one row for every result.

    Args:
        path: the file, which is overwritten.
    """

    def __init__(self, path: Path):
        self._began, self._commit = time.monotonic(), provenance.commit()
        self._work: dict[str, int] = {}
        self._rates: dict[str, float] = {}
        self._file = path.open("w", newline="")
        self._writer = csv.DictWriter(self._file, COLUMNS)
        self._writer.writeheader()
        self._file.flush()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._file.close()

    def write(self, task: dict, facts: dict, program: dict, result: dict) -> None:
        """Write one row; see :class:`benchmarks.gpu.schedule.Schedule`."""
        row = {"network": task["network"], "runtime": task["runtime"], "size": task["size"]}
        row |= program | {name: facts.get(name, "") for name in ("device", "version")}
        row |= {"commit": self._commit, "day": time.strftime("%Y-%m-%d")}
        row |= {"at_second": round(time.monotonic() - self._began, 1)}
        if facts.get("multiply_adds"):  # timm's networks have the same multiply-adds
            self._work[task["network"]] = facts["multiply_adds"]
        row |= {"error": result["error"]} if "error" in result else self._measured(row, result)
        self._writer.writerow(row)
        self._file.flush()
        what = " ".join(str(row[name]) for name in COLUMNS[:6])
        print(
            f"{row['at_second']:6.1f} {what}:",
            row.get("milliseconds", row.get("error")),
            flush=True,
        )

    def _measured(self, row: dict, result: dict) -> dict:
        seconds = statistics.median(result["seconds"])
        found = {
            "milliseconds": round(1000 * seconds, 4),
            "least": round(1000 * min(result["seconds"]), 4),
            "most": round(1000 * max(result["seconds"]), 4),
            "calls": f"{len(result['seconds'])} x {result['calls']}",
            "peak_megabytes": round(result["memory"] / 2**20) if result["memory"] else "",
            "compile_seconds": round(result["compile_seconds"], 1),
        }
        if row["task"] == "product":
            operations = 2 * row["size"] ** 3
            rate = max(self._rates.get(row["precision"], 0.0), operations / seconds)
            self._rates[row["precision"]] = rate
        else:
            found["pictures_a_second"] = round(row["batch"] / seconds, 1)
            # Forward, and in training also backward to the maps and to the kernels.
            passes = 3 if row["task"] == "training" else 1
            operations = 2 * passes * row["batch"] * self._work.get(row["network"], 0)
        if operations:
            found["teraflops"] = round(operations / seconds / 1e12, 3)
            if row["precision"] in self._rates:
                found["share"] = round(operations / seconds / self._rates[row["precision"]], 4)
        return found


def tables(rows: list[dict]) -> str:
    """Return the rows as Markdown tables, with the card and the versions.

    Args:
        rows: rows of the CSV file.
    """
    measured = [row for row in rows if row["milliseconds"]]
    devices = sorted({row["device"] for row in measured})
    versions = sorted({row["version"] for row in measured})
    products = [
        f"{row['precision']} {float(row['teraflops']):.3g} ({row['runtime']})"
        for row in measured
        if row["task"] == "product"
    ]
    lines = [f"Measured on {', '.join(devices) or 'nothing'}; {'; '.join(versions)}.", ""]
    lines += [f"Matrix product, teraflops: {', '.join(products) or 'none'}.", ""]
    for task in ("inference", "training"):
        lines += [*_table(task, [row for row in rows if row["task"] == task]), ""]
    errors = [row for row in rows if row["error"]]
    lines += [f"{len(measured)} measured, {len(errors)} not:", ""]
    counts: dict[str, int] = {}
    for row in errors:
        what = f"{row['network'] or 'product'} {row['runtime']}: {row['error']}"
        counts[what] = counts.get(what, 0) + 1
    return "\n".join([*lines, *(f"- {count} x {what}" for what, count in counts.items()), ""])


def _table(task: str, rows: list[dict]) -> list[str]:
    batches = sorted({int(row["batch"]) for row in rows})
    cells: dict[tuple, dict[int, str]] = {}
    for row in rows:
        if row["milliseconds"]:
            form = "" if row["form"] == task else f", {row['form']}"
            name = f"{row['network']}: {RUNTIMES[row['runtime']]}{form}"
            cells.setdefault((row["network"], row["precision"], name), {})[int(row["batch"])] = (
                _cell(row)
            )
    order = list(dict.fromkeys(row["network"] for row in rows))
    ordered = sorted(cells, key=lambda key: (order.index(key[0]), key[1]))
    head = [f"{task}, milliseconds", "precision", *(f"batch {batch}" for batch in batches)]
    lines = [f"| {' | '.join(head)} |", "|---|---|" + "---:|" * len(batches)]
    for key in ordered:
        found = [cells[key].get(batch, "") for batch in batches]
        lines.append(f"| {' | '.join([key[2], key[1], *found])} |")
    return lines


def _cell(row: dict) -> str:
    notes = []
    if row["share"]:
        notes.append(f"{100 * float(row['share']):.0f} %")
    if row["peak_megabytes"]:
        notes.append(f"{row['peak_megabytes']} MB")
    milliseconds = float(row["milliseconds"])
    text = f"{milliseconds:.2f}" if milliseconds < 10 else f"{milliseconds:.1f}"
    return f"{text} ({', '.join(notes)})" if notes else text
