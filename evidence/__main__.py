"""Measure experiments, or report the measurements.

    python -m training.prepare --source=cifar10-jpeg.tar.xz --splits=train,test --size=16 \\
        --output=cifar10_16.npz
    python -m evidence learning_rate --pictures=cifar10_16.npz

    python -m training.prepare --source='tiny-imagenet-*.tar.xz' --splits=train,val --size=32 \\
        --output=tiny_imagenet_32.npz
    python -m evidence transfer --pictures=tiny_imagenet_32.npz

    python -m training.prepare --source=cifar10-jpeg.tar.xz --splits=train,test --size=32 \\
        --output=cifar10.npz
    python -m evidence transfer_to_cifar10 --pictures=cifar10.npz

    python -m evidence small_batch_finetuning accumulate --pictures=FOLDER --minutes=60
    python -m evidence conversion_finetuning --pictures=FOLDER
    # FOLDER has cifar10.npz and tiny_imagenet_32.npz, as above

    python -m evidence conversion_signals
    python -m evidence conversion_training --pictures=cifar10_16.npz

    python -m evidence report

The tables and pictures are in docs/results/. Existing rows are not measured again; to repeat an
experiment, remove its table. ``--minutes`` ends a process, of which the next one goes on where it
stopped. ``--part=1/2`` does every second task, so that two processes of one
core each share an experiment, which is faster than one process of two cores.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from pathlib import Path

from absl import logging

from evidence import conversion, report, small_batch_finetuning, transfer
from evidence.experiments import EXPERIMENTS, Setting
from training.recipe import RecipeError

ALL = {
    **{**EXPERIMENTS, **transfer.EXPERIMENTS},
    **{**small_batch_finetuning.EXPERIMENTS, **conversion.EXPERIMENTS},
}
NAMES = (*ALL, "report")


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="+", choices=NAMES, metavar="NAME", help=", ".join(NAMES))
    parser.add_argument("--pictures", help="the .npz file, or a folder of them")
    parser.add_argument("--output", type=Path, default=report.FOLDER, help="folder of the tables")
    parser.add_argument("--seeds", type=int, default=3, help="runs of every cell")
    parser.add_argument("--scale", type=float, default=1.0, help="factor on the pictures of a run")
    parser.add_argument("--part", type=_part, default=(1, 1), metavar="K/N")
    parser.add_argument("--minutes", type=float, default=math.inf, help="start no task after it")
    args = parser.parse_args(arguments)
    args.end = time.monotonic() + 60 * args.minutes
    logging.set_verbosity(logging.INFO)
    try:
        for name in args.names:
            if name == "report":
                report.write(args.output)
            elif args.pictures or name in conversion.WITHOUT_PICTURES:
                _measure(name, args)
            else:
                parser.error(f"{name} needs --pictures")
    except (RecipeError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def _measure(name: str, args) -> None:
    setting = Setting(args.pictures, args.output, args.seeds, args.scale)
    number, parts = args.part
    for index, task in enumerate(ALL[name](setting)):
        if index % parts == number - 1 and time.monotonic() < args.end:
            task()


def _part(text: str) -> tuple[int, int]:
    number, _, parts = text.partition("/")
    if not (number.isdigit() and parts.isdigit() and 1 <= int(number) <= int(parts)):
        raise argparse.ArgumentTypeError(f"K/N with K from 1 to N, not {text!r}")
    return int(number), int(parts)


if __name__ == "__main__":
    sys.exit(main())
