"""nf_zoo under JAX beside timm on PyTorch, on one GPU.

    python -m benchmarks.gpu --output gpu.csv                  # at most five minutes
    python -m benchmarks.gpu --output rehearsal.csv --smoke    # a rehearsal on a processor

It needs JAX and Keras, and PyTorch and timm for the comparison. TensorFlow is optional: it is
measured too if it is installed and sees a GPU. Contenders are processes that build and compile
together, one wave at a time, and are timed one after the other, while nothing else runs on the
card. The most important ones come first. Every result is written to the CSV file at once. A program
that failed, or did not fit into the budget, has a row with the reason. The tables go to the
terminal and to a file of the same name that ends in ``.md``.
"""

from __future__ import annotations

import argparse
import importlib.util
from pathlib import Path

from benchmarks.gpu.plan import NETWORKS, plan
from benchmarks.gpu.report import Rows, tables
from benchmarks.gpu.schedule import Limits, Schedule
from benchmarks.tables import read_table

SMOKE = {
    "networks": ["nf_resnet26", "nf_regnet_b0"],
    "batches": [1, 2],
    "size": 32,
    "product_side": 256,
}
"""Measurements of a rehearsal."""


def rehearsed(waves: list[list[dict]]) -> list[list[dict]]:
    """Return short waves: two processes, one of every kind, with two quickly compiled programs."""
    hurry = {"XLA_FLAGS": "--xla_backend_optimization_level=0", "OMP_NUM_THREADS": "1"}
    few = {"rehearsed": True, "timing": {"repetitions": 2, "seconds": 0.02}}
    chosen: dict[tuple, dict] = {}
    for contender in (contender for wave in waves[:2] for contender in wave):
        first = contender["programs"][0]
        key = contender["runtime"], contender["network"], first["form"], first["task"]
        few |= {"environment": hurry, "programs": contender["programs"][:2]}
        chosen.setdefault(key, contender | few)
    contenders = list(chosen.values())
    return [contenders[place : place + 2] for place in range(0, len(contenders), 2)]


def options() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--budget", type=float, default=300.0, help="total seconds")
    parser.add_argument(
        "--networks", nargs="+", metavar="NAME", help="networks, the most important first"
    )
    parser.add_argument("--batches", nargs="+", type=int, help="batch sizes")
    parser.add_argument("--size", type=int, help="side of the pictures in pixels")
    parser.add_argument("--product-side", type=int, help="side of the multiplied matrices")
    parser.add_argument("--output", type=Path, default=Path(__file__).parents[1] / "gpu.csv")
    parser.add_argument("--smoke", action="store_true", help="run a small rehearsal on any device")
    parser.add_argument("--report", action="store_true", help="only print the tables")
    return parser.parse_args()


def main() -> None:
    args = options()
    if not args.report:
        full = {"networks": list(NETWORKS), "batches": [1, 32, 256], "size": 224}
        full |= {"product_side": 8192}
        chosen = SMOKE if args.smoke else full
        chosen |= {name: value for name in full if (value := getattr(args, name)) is not None}
        tensorflow = importlib.util.find_spec("tensorflow") is not None and not args.smoke
        waves = plan(**chosen, tensorflow=tensorflow)
        if args.smoke:
            waves = rehearsed(waves)
        with Rows(args.output) as rows:
            # The remaining seconds are for the last kills and for the tables.
            Schedule(waves, args.budget - 4, rows.write, Limits.within(args.budget)).run()
    text = tables(read_table(args.output))
    args.output.with_suffix(".md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
