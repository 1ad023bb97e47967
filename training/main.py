"""Train a network by a recipe, on one device or many.

    python -m training.main --config=training/configs/wide_resnet_cifar10.py \\
        --config.data.source=folder:cifar10-jpeg.tar.xz --workdir=runs/a

The same command continues an interrupted run. docs/training.md explains how to use several GPUs,
several hosts and TPUs.
"""

import json
import os
import sys
from pathlib import Path

from absl import app, flags, logging
from ml_collections import config_flags

from training.recipe import RecipeError

STRATEGIES = "auto, one_device, mirrored, multi_worker, tpu"
PRECISIONS = ("float32", "float64", "mixed_bfloat16", "mixed_float16")

CONFIG = config_flags.DEFINE_config_file(
    "config", None, "Recipe: a file of training/configs, FILE.py or FILE.py:VARIANTS."
)
WORKDIR = flags.DEFINE_string("workdir", None, "Folder for checkpoints, logs and the result.")
OPTIONS = (
    flags.DEFINE_string("strategy", "auto", f"How to distribute: {STRATEGIES}."),
    flags.DEFINE_integer("replicas", 0, "Number of devices to cut the CPU into."),
    flags.DEFINE_float("peer_timeout", 300.0, "Seconds to wait for other workers."),
    flags.DEFINE_string("tpu", "", "Name of the TPU."),
    flags.DEFINE_enum("precision", "float32", PRECISIONS, "Keras dtype policy."),
    flags.DEFINE_bool("jit", False, "Compile the gradient with XLA (TensorFlow)."),
    flags.DEFINE_float("minutes", 0.0, "Above 0: end by the clock, along the same schedule."),
    flags.DEFINE_bool("eval_only", False, "Evaluate the newest checkpoint and end."),
    flags.DEFINE_bool("dry_run", False, "Describe the run, and end."),
)
"""Flags that are arguments of :func:`training.session.run`."""


def main(argv) -> int:
    if len(argv) > 1:
        raise app.UsageError(f"All arguments must be flags. Received: {argv[1:]}")
    logging.set_verbosity(logging.INFO)
    from training.session import expected_errors, run

    try:
        options = {option.name: option.value for option in OPTIONS}
        values = run(CONFIG.value, WORKDIR.value, **options)
    except expected_errors() as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    if values and not flags.FLAGS.eval_only:
        logging.info("Done: %s", json.dumps(values))
    return 0


def entry_point(argv: list[str] | None = None) -> None:
    """Run ``python -m training.main``; print one line if a flag or a recipe is wrong."""
    arguments = argv or sys.argv
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    flags.mark_flag_as_required("config")
    try:
        app.run(main, arguments, flags_parser=_parse)
    except RecipeError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)


def _parse(arguments):
    try:
        return flags.FLAGS(arguments)
    except (flags.Error, AttributeError, KeyError, TypeError, ValueError) as error:
        # ConfigDict itself suggests similar fields.
        raise RecipeError(f"A field of the recipe is not right: {error}") from None


if __name__ == "__main__":
    entry_point()
