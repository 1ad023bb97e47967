"""nf_zoo, timm and keras.applications side by side.

    python -m benchmarks.speed                            # everything: an hour on two cores
    python -m benchmarks.speed --tables inference --networks nf_resnet50 --batches 1 8

This needs timm and PyTorch beside nf-zoo[onnx,litert] (benchmarks/requirements.txt), in this
environment or in another one, whose interpreter ``--timm-python`` names.

All rows of a network and batch size are measured together: the contenders are built, each in a
process of its own, and take turns. New rows replace older rows of the same network and batch size
in benchmarks/speed.csv. ``--report`` prints the tables and draws the picture from that file.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from pathlib import Path

from benchmarks.speed import report
from benchmarks.speed.measuring import build, take_turns
from benchmarks.tables import read_table, write_table
from training import provenance

NETWORKS = ("nf_resnet50", "resnetv2_50", "nf_regnet_b1", "eca_nfnet_l0", "nfnet_f0")
SIZE = 224
BATCHES = {"inference": (1, 8, 32), "training": (8,)}
PYTORCH = ("eager", "channels-last", "torch.compile")
FLOATS = (
    "unfolded",
    "folded",
    "folded, XLA",
    "SavedModel, constants",
    "ONNX Runtime",
    "OpenVINO",
    "LiteRT",
)
EIGHT_BITS = ("ONNX Runtime int8", "LiteRT int8")
FORMS = {
    "inference": {
        "keras": (*FLOATS, *EIGHT_BITS),
        "pytorch": (*PYTORCH, "torch.compile, frozen"),
    },
    "training": {"keras": ("TensorFlow", "XLA"), "pytorch": PYTORCH},
}
TWIN = {
    "keras": ("folded", "SavedModel, constants", "ONNX Runtime", "OpenVINO", "TensorFlow"),
    "pytorch": (),
}
"""Forms in which the BatchNorm twin is measured."""
APPLICATIONS = "keras.applications ResNet50V2"
MATRIX_SIDE = 2048
RUNS = {1: (7, 4), 8: (7, 1), 32: (4, 1)}
"""Batch size -> (turns, runs in a turn)."""


def tasks_of(table: str, networks: list[str]) -> list[dict]:
    """Return tasks for the networks in every form, and for the matrix products to compare with."""
    common = {"size": SIZE, "training": table == "training"}
    tasks = [
        {"runtime": runtime, "form": form, "network": network, **common}
        for network in networks
        for runtime, forms in FORMS[table].items()
        for form in forms
        if network != "resnetv2_50" or form in TWIN[runtime]
    ]
    if "resnetv2_50" in networks:
        form = "unfolded" if table == "inference" else "TensorFlow"
        tasks.append({"runtime": "keras", "form": form, "network": APPLICATIONS, **common})
    for runtime in ("keras", "pytorch"):
        product = {"form": "matrix product", "network": "", **common, "size": MATRIX_SIDE}
        tasks.append({"runtime": runtime, **product})
    return tasks


def rows_of(table: str, group: str, batch: int, contenders, origin: dict) -> list[dict]:
    """Return one row for each contender, with its share of the fastest matrix product."""
    products = [c for c in contenders if c.task["form"] == "matrix product"]
    rate = max(2 * MATRIX_SIDE**3 / statistics.median(c.seconds[batch]) for c in products)
    # timm's networks have the same multiply-adds.
    work = {c.task["network"]: c.facts.get("multiply_adds") for c in contenders[::-1]}
    rows = []
    for contender in contenders:
        task, runs = contender.task, contender.seconds[batch]
        seconds, memory = statistics.median(runs), contender.memory[batch]
        product = task["form"] == "matrix product"
        operations = 2 * MATRIX_SIDE**3 if product else 2 * batch * work[task["network"]]
        if task["training"] and not product:
            operations *= 3  # forward, and backward to the maps and to the kernels
        rows.append(
            {
                "table": table,
                "group": group,
                "batch": batch,
                "network": task["network"],
                "runtime": task["runtime"],
                "form": task["form"],
                "milliseconds": round(1000 * seconds, 2),
                "least": round(1000 * min(runs), 2),
                "most": round(1000 * max(runs), 2),
                "runs": len(runs),
                "gigaflops": round(operations / seconds / 1e9, 1),
                "share": round(operations / seconds / rate, 3),
                "peak_megabytes": round(memory["peak_bytes"] / 2**20),
                "step_megabytes": round(memory["step_bytes"] / 2**20),
                "version": contender.facts["version"],
                "threads": contender.facts["threads"],
                **origin,
            }
        )
    return rows


def groups_of(networks: list[str]) -> list[list[str]]:
    """Return the networks that take turns together: the twins, and every other one by itself."""
    twins = [name for name in ("nf_resnet50", "resnetv2_50") if name in networks]
    return [*([twins] if twins else []), *([name] for name in networks if name not in twins)]


def origin_of_run() -> dict:
    """Return the commit, processor and day."""
    day = time.strftime("%Y-%m-%d")
    return {"commit": provenance.commit(), "processor": provenance.processor(), "day": day}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tables", nargs="+", choices=BATCHES, default=list(BATCHES))
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=list(NETWORKS))
    parser.add_argument("--batches", nargs="+", type=int, help="batch sizes")
    parser.add_argument("--timm-python", default=sys.executable, metavar="PATH")
    parser.add_argument("--output", type=Path, default=Path(__file__).parents[1] / "speed.csv")
    parser.add_argument(
        "--report", action="store_true", help="only print the tables and draw the picture"
    )
    args = parser.parse_args()
    rows, origin = read_table(args.output), origin_of_run()
    for table in () if args.report else args.tables:
        for networks in groups_of(args.networks):
            contenders = build(tasks_of(table, networks), {"pytorch": args.timm_python})
            for batch in args.batches or BATCHES[table]:
                take_turns(contenders, batch, *RUNS.get(batch, (5, 1)))
                group = "+".join(networks)
                key = (table, group, str(batch))
                rows = [r for r in rows if (r["table"], r["group"], str(r["batch"])) != key]
                rows += rows_of(table, group, batch, contenders, origin)
                write_table(args.output, rows, shown=False)
                print(" ".join(key), "measured", file=sys.stderr)
            for contender in contenders:
                contender.close()
    report.write(rows, args.output)


if __name__ == "__main__":
    main()
