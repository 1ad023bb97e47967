"""nf_zoo, timm and keras.applications side by side.

    python -m benchmarks.speed                            # everything: an hour on two cores
    python -m benchmarks.speed --tables inference --networks nf_resnet50 --batches 1 8
    python -m benchmarks.speed --smoke --output rehearsal.csv   # a rehearsal

This needs timm and PyTorch beside nf-zoo[onnx,litert,openvino] (benchmarks/requirements.txt), in
this environment or in another one, whose interpreter ``--timm-python`` names.

All rows of a network and batch size are measured together: the contenders are built, each in a
process of its own, and take turns. New rows replace older rows of the same network and batch size
in benchmarks/speed.csv after every turn. A form's share is that of the fastest matrix product of
the same run at the form's precision: float32, bfloat16 or int8. ``--report`` prints the tables and
draws the picture from that file.
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
BFLOAT16 = ("folded, bfloat16", "OpenVINO bfloat16")
EIGHT_BITS = ("ONNX Runtime int8", "OpenVINO int8", "LiteRT int8")
FORMS = {
    "inference": {
        "keras": (*FLOATS, *BFLOAT16, *EIGHT_BITS),
        "pytorch": (*PYTORCH, "torch.compile, frozen", "torch.compile, frozen, bfloat16"),
    },
    "training": {
        "keras": ("TensorFlow", "XLA", "TensorFlow, bfloat16"),
        "pytorch": (*PYTORCH, "channels-last, bfloat16", "torch.compile, bfloat16"),
    },
}
TWIN = {
    "keras": ("folded", "SavedModel, constants", "ONNX Runtime", "OpenVINO", "TensorFlow"),
    "pytorch": (),
}
"""Forms in which the BatchNorm twin is measured."""
APPLICATIONS = "keras.applications ResNet50V2"
MATRIX_SIDE = 2048
PRODUCTS = {
    "inference": ("matrix product", "matrix product, bfloat16", "matrix product, int8"),
    "training": ("matrix product", "matrix product, bfloat16"),
}
SMOKE = {"networks": ["nf_resnet26"], "batches": [1], "size": 32, "side": 256}
"""Measurements of a rehearsal."""
RUNS = {1: (7, 4), 8: (7, 1), 32: (4, 1)}
"""Batch size -> (turns, runs in a turn)."""


def precision_of(form: str) -> str:
    """Return the precision that a form computes in."""
    return next((kind for kind in ("bfloat16", "int8") if form.endswith(kind)), "float32")


def tasks_of(
    table: str, networks: list[str], size: int = SIZE, side: int = MATRIX_SIDE
) -> list[dict]:
    """Return tasks for the networks in every form, and for the matrix products to compare with."""
    common = {"size": size, "training": table == "training"}
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
    tasks += [
        {"runtime": runtime, "form": form, "network": "", **common, "size": side}
        for form in PRODUCTS[table]
        for runtime in ("keras", "pytorch")
    ]
    return tasks


def rows_of(table: str, group: str, batch: int, contenders, origin: dict) -> list[dict]:
    """Return one row for each contender, with its share of the product at its precision."""
    rates = {}
    for contender in contenders:
        if not contender.task["network"]:
            precision = precision_of(contender.task["form"])
            rate = 2 * contender.task["size"] ** 3 / statistics.median(contender.seconds[batch])
            rates[precision] = max(rate, rates.get(precision, 0.0))
    # timm's networks have the same multiply-adds.
    work = {c.task["network"]: c.facts.get("multiply_adds") for c in contenders[::-1]}
    rows = []
    for contender in contenders:
        task, runs = contender.task, contender.seconds[batch]
        seconds, memory = statistics.median(runs), contender.memory[batch]
        product, precision = not task["network"], precision_of(task["form"])
        operations = 2 * task["size"] ** 3 if product else 2 * batch * work[task["network"]]
        rate = rates.get(precision)
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
                "share": round(operations / seconds / rate, 3) if rate else "",
                "peak_megabytes": round(memory["peak_bytes"] / 2**20),
                "step_megabytes": round(memory["step_bytes"] / 2**20),
                "version": contender.facts["version"],
                "threads": contender.facts["threads"],
                **origin,
                "precision": precision,
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
    parser.add_argument("--networks", nargs="+", choices=NETWORKS)
    parser.add_argument("--batches", nargs="+", type=int, help="batch sizes")
    parser.add_argument("--timm-python", default=sys.executable, metavar="PATH")
    output = Path(__file__).parents[1] / "speed.csv"
    parser.add_argument("--output", type=Path, default=output)
    help = "rehearse: a small network on small pictures, one run each"
    parser.add_argument("--smoke", action="store_true", help=help)
    parser.add_argument(
        "--report", action="store_true", help="only print the tables and draw the picture"
    )
    args = parser.parse_args()
    if args.smoke and args.output == output:
        parser.error("a rehearsal needs an --output of its own")
    for table in () if args.report else args.tables:
        for networks in groups_of(SMOKE["networks"] if args.smoke else args.networks or NETWORKS):
            measure(table, networks, args)
    report.write(with_precisions(read_table(args.output)), args.output)


def measure(table: str, networks: list[str], args: argparse.Namespace) -> None:
    """Measure networks that take turns together; write their rows after every turn."""
    sizes = (SMOKE["size"], SMOKE["side"]) if args.smoke else ()
    tasks, origin = tasks_of(table, networks, *sizes), origin_of_run()
    contenders, group = build(tasks, {"pytorch": args.timm_python}), "+".join(networks)
    for batch in args.batches or (SMOKE["batches"] if args.smoke else BATCHES[table]):
        key = (table, group, str(batch))
        others = [
            row
            for row in with_precisions(read_table(args.output))
            if (row["table"], row["group"], row["batch"]) != key
        ]

        def write(batch=batch, others=others):
            rows = rows_of(table, group, batch, contenders, origin)
            write_table(args.output, [*others, *rows], shown=False)

        take_turns(contenders, batch, *((1, 1) if args.smoke else RUNS.get(batch, (5, 1))), write)
        print(" ".join(key), "measured", file=sys.stderr)
    for contender in contenders:
        contender.close()


def with_precisions(rows: list[dict]) -> list[dict]:
    """Return the rows with their precision, which early rows do not name."""
    return [{**row, "precision": precision_of(row["form"])} for row in rows]


if __name__ == "__main__":
    main()
