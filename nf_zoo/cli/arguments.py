"""The options of every command. Imports nothing heavy: help must come at once."""

from __future__ import annotations

import argparse

import nf_zoo
from nf_zoo.cli.hub_arguments import add_hub_commands
from nf_zoo.cli.options import (
    MODEL,
    add_batch_size,
    add_command,
    add_json,
    field_value,
    image_size,
)
from nf_zoo.deploy.formats import FORMATS

DEFAULT_MODEL = "nf_resnet50"

_PICTURES = "a folder with a folder of pictures for each class"


def build_parser() -> argparse.ArgumentParser:
    """The parser of ``nf-zoo``; ``command`` is ``"module:function"``, or None without one."""
    parser = argparse.ArgumentParser(
        prog="nf-zoo",
        description="Pretrained normalizer-free networks: look, predict, fine-tune, export.",
        epilog="New here? `nf-zoo quickstart` shows everything in about two minutes.",
    )
    parser.add_argument("--version", action="version", version=f"nf-zoo {nf_zoo.__version__}")
    parser.add_argument("--debug", action="store_true", help="show tracebacks and all notices")
    parser.set_defaults(command=None)
    commands = parser.add_subparsers(title="commands", metavar="COMMAND")
    for add in (_list, _info, _predict, _evaluate, _finetune, _export, _signals, _quickstart):
        add(commands)
    add_hub_commands(commands)
    return parser


def _list(commands) -> None:
    parser = add_command(commands, "list", "catalog:list_command", "list networks and checkpoints")
    parser.add_argument(
        "pattern", nargs="?", default="*", help="part of a name, or a pattern such as 'nf_*50'"
    )
    parser.add_argument("--pretrained", action="store_true", help="one line for each checkpoint")
    add_json(parser)


def _info(commands) -> None:
    parser = add_command(
        commands,
        "info",
        "catalog:info_command",
        "size, cost, fields and checkpoints of a network",
    )
    parser.add_argument("name", help="a network, or one of its checkpoints")
    parser.add_argument(
        "--size", type=image_size, metavar="N|HxW", help="picture size for the multiply-adds"
    )
    add_json(parser)


def _predict(commands) -> None:
    parser = add_command(commands, "predict", "pictures:predict_command", "say what pictures show")
    parser.add_argument("model", help=MODEL)
    parser.add_argument("files", nargs="+", metavar="FILE", help="pictures, or folders of pictures")
    parser.add_argument("--top", type=int, default=5, help="classes for each picture (5)")
    add_batch_size(parser)
    add_json(parser)


def _evaluate(commands) -> None:
    parser = add_command(
        commands,
        "evaluate",
        "pictures:evaluate_command",
        "accuracy of a model on labeled pictures",
    )
    parser.add_argument("model", help=MODEL)
    parser.add_argument("folder", help=f"{_PICTURES}; of a split one, test/ or else val/ is taken")
    add_batch_size(parser)
    add_json(parser)


def _finetune(commands) -> None:
    parser = add_command(
        commands, "finetune", "training:finetune_command", "fit a network to your own pictures"
    )
    parser.add_argument(
        "folder",
        help=f"{_PICTURES}, or train/, val/ and test/ with those in each (the last two optional); "
        "or tfds:NAME",
    )
    parser.add_argument("--output", required=True, metavar="DIR", help="folder to write")
    _starting_point(parser)
    _training_options(parser)
    again = parser.add_mutually_exclusive_group()
    again.add_argument("--resume", action="store_true", help="go on where a run was interrupted")
    again.add_argument("--overwrite", action="store_true", help="replace an earlier run")


def _starting_point(parser) -> None:
    parser.add_argument(
        "--model",
        default=DEFAULT_MODEL,
        help=f"network to start from ({DEFAULT_MODEL}, with ImageNet weights): {MODEL}",
    )
    parser.add_argument(
        "--pretrained",
        metavar="TAG|PATH|none",
        help="its weights: a tag, a path, hf://owner/name, or none to start untrained "
        "(the checkpoint that --model names, or its default one)",
    )
    parser.add_argument(
        "--set",
        dest="fields",
        action="append",
        type=field_value,
        default=[],
        metavar="FIELD=VALUE",
        help="an option of the network, such as drop_rate=0.2; `nf-zoo info` lists them",
    )


def _training_options(parser) -> None:
    """Everything passed on to ``finetune`` under its own name; None leaves it the default."""
    group = parser.add_argument_group("training (what is left out follows from the pictures)")
    group.add_argument("--epochs", type=int, help="passes over the pictures, warm-up included")
    group.add_argument("--warmup-epochs", type=int, help="of these, for the classifier alone")
    group.add_argument("--batch-size", type=int)
    group.add_argument("--image-size", type=image_size, metavar="N|HxW", help="in pixels")
    group.add_argument("--learning-rate", type=float, help="peak of the schedule")
    group.add_argument("--weight-decay", type=float)
    group.add_argument("--label-smoothing", type=float)
    group.add_argument("--validation-data", metavar="DIR", help="class folders to validate on")
    group.add_argument("--validation-fraction", type=float, help="else the share held out (0.2)")
    group.add_argument("--class-weight", choices=["balanced"], help="make rare classes count")
    group.add_argument("--randaugment", action="store_true", default=None)
    group.add_argument("--mixup", type=float, metavar="ALPHA", help="0.2 is usual")
    group.add_argument("--cutmix", type=float, metavar="ALPHA", help="1.0 is usual")
    group.add_argument(
        "--flip", action=argparse.BooleanOptionalAction, help="mirror half of the pictures"
    )
    group.add_argument(
        "--early-stopping", type=int, metavar="EPOCHS", help="stop when so many brought nothing"
    )
    group.add_argument(
        "--ema", action=argparse.BooleanOptionalAction, help="average the weights over time"
    )
    group.add_argument("--precision", choices=["float32", "mixed_bfloat16", "mixed_float16"])
    group.add_argument("--seed", type=int)
    group.add_argument(
        "--strict", action="store_true", default=None, help="fail on pictures that cannot be read"
    )


TRAINING_OPTIONS = (
    *("epochs", "warmup_epochs", "batch_size", "image_size", "learning_rate", "weight_decay"),
    *("label_smoothing", "validation_data", "validation_fraction", "class_weight", "randaugment"),
    *("mixup", "cutmix", "flip", "early_stopping", "ema", "precision", "seed", "strict"),
)
"""Options that are arguments of ``nf_zoo.finetune`` of the same name."""


def _export(commands) -> None:
    suffixes = [row.suffix for row in FORMATS.values() if row.suffix]
    precisions = list(dict.fromkeys(x for row in FORMATS.values() for x in row.precisions))
    parser = add_command(
        commands,
        "export",
        "exporting:export_command",
        f"write a model in another format: {', '.join(row.title for row in FORMATS.values())}",
    )
    parser.add_argument("model", help=MODEL)
    parser.add_argument("output", metavar="PATH", help="folder of a SavedModel, or file to write")
    parser.add_argument(
        "--format",
        choices=[row.flag for row in FORMATS.values()],
        help=f"(by the ending: {', '.join(suffixes)}, or else a SavedModel)",
    )
    parser.add_argument("--precision", choices=precisions, help="(float32)")
    parser.add_argument(
        "--pictures", metavar="FOLDER", help="of int8: pictures as the model will see them"
    )
    parser.add_argument(
        "--keep-float", metavar="N|NAMES", help="of int8: layers to leave in float32, or how many"
    )
    parser.add_argument(
        "--constants",
        action="store_true",
        help="of a SavedModel: weights as constants; faster on CPU, more memory to load",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace what is there")


FIGURES = (
    *("linear", "linear_batch_norm", "convolutional_batch_norm"),
    *("bn_order", "norm_free", "skipinit_fixup", "trainable_depth"),
)
"""Keys of ``nf_zoo.signal_propagation.paper_figures.FIGURES``, whose import takes seconds."""


def _signals(commands) -> None:
    help = "mean and variance along the depth of networks, as the papers plot them"
    parser = commands.add_parser("signal-propagation", help=help, description=f"{help}.")
    kinds = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    _figure(kinds)
    _measure(kinds)


def _figure(commands) -> None:
    parser = add_command(
        commands,
        "figure",
        "signals:figure_command",
        "measure a figure of the papers; write it as NAME.png and NAME.svg, its data as NAME.csv",
    )
    parser.add_argument("figure", choices=FIGURES, metavar="NAME", help=", ".join(FIGURES))
    parser.add_argument("--output", required=True, metavar="DIR", help="folder to write")
    parser.add_argument("--images", metavar="FOLDER", help="pictures to measure on (noise)")
    parser.add_argument("--seed", type=int, default=0, help="of the weights and the noise (0)")
    sizes = parser.add_argument_group("sizes (what is left out is the figure's own)")
    sizes.add_argument("--depth", type=int, help="blocks, per stage where there are several")
    sizes.add_argument("--width", type=int, help="channels of the first stage, or features")
    sizes.add_argument("--pictures", type=int, metavar="N", help="how many, or how many vectors")
    sizes.add_argument("--size", type=int, metavar="N", help="side of the pictures in pixels")


def _measure(commands) -> None:
    parser = add_command(
        commands,
        "measure",
        "signals:measure_command",
        "measure a network block by block: a table, or a plot and a CSV",
    )
    parser.add_argument(
        "model", help=f"a network, untrained, such as wide_resnet16_4; or trained: {MODEL}"
    )
    parser.add_argument("--pretrained", action="store_true", help="of a network: its weights")
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--shape", type=image_size, metavar="N|HxW", help="of noise, in pixels")
    source.add_argument("--images", metavar="FOLDER", help="pictures to measure on (noise)")
    parser.add_argument("--unit-gains", action="store_true", help="all gains at one")
    parser.add_argument("--output", metavar="DIR", help="folder to write MODEL.png, .svg and .csv")
    parser.add_argument("--seed", type=int, default=0, help="of fresh weights and the noise (0)")


def _quickstart(commands) -> None:
    parser = add_command(
        commands,
        "quickstart",
        "training:quickstart_command",
        "fine-tune, evaluate and export a small network on real pictures, in about two minutes",
    )
    parser.add_argument("--output", default="nf-zoo-quickstart", metavar="DIR")
    parser.add_argument("--epochs", type=int, help="passes over the pictures, for either network")
    parser.add_argument("--pictures", type=int, metavar="N", help="training pictures of each digit")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--overwrite", action="store_true", help="replace an earlier quickstart")
