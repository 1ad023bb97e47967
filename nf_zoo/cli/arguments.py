"""Arguments of every command. Nothing heavy is imported, so that help appears at once."""

from __future__ import annotations

import argparse
import ast
import dataclasses
from typing import Any

import nf_zoo
from nf_zoo.demonstration.serving import DemoSettings
from nf_zoo.deploy.benchmarking import BenchmarkSettings
from nf_zoo.deploy.formats import FORMATS, SUFFIXES
from nf_zoo.finetuning.settings import EvaluationSettings, QuickstartSettings, Settings
from nf_zoo.options import Options, add_flags, image_size, option, whole

DEFAULT_MODEL = "nf_resnet50"

MODEL = (
    "a checkpoint (nf_resnet50.ra2_in1k, or nf_resnet50 for its default one), hf://owner/name, a "
    ".keras file, or a folder: from finetune or from save_pretrained. A name wins over a path; "
    "./name is always a path"
)
EXPORTED = f"{MODEL}. Also what `nf-zoo export` wrote: a SavedModel, {', '.join(SUFFIXES)}"

_EXAMPLES = {
    "list": ("tiny", "'nf_*50' --pretrained"),
    "info": ("nf_resnet50", "nf_resnet26.tiny_imagenet --size 64"),
    "benchmark": ("wide_resnet16_2.cifar10 --batch-sizes 1 8", "runs/flowers"),
    "predict": ("nf_resnet50 cat.jpg dog.png", "runs/flowers holiday/ --top 1 --json"),
    "evaluate": ("runs/flowers flowers/test", "flowers.onnx flowers/test --json"),
    "demo": ("nf_resnet26.tiny_imagenet", "runs/flowers flowers.onnx --port 8000"),
    "finetune": (
        "flowers/ --output runs/flowers",
        "flowers/ --output runs/large --model nfnet_l0 --accumulate auto",
    ),
    "export": (
        "runs/flowers flowers.onnx",
        "runs/flowers flowers.tflite --precision int8 --pictures flowers/train",
    ),
    "signal-propagation figure": (
        "norm_free --output figures",
        "bn_order --depth 20 --output figures",
    ),
    "signal-propagation measure": (
        "nf_resnet50 --shape 224",
        "nf_resnet50 --pretrained --images holiday/ --output figures",
    ),
    "quickstart": ("", "--output first-steps --epochs 20"),
    "publish": (
        "runs/flowers me/flowers --dry-run",
        "runs/flowers me/flowers --license mit --space me/try-flowers",
    ),
    "fetch": ("nf_resnet50.ra2_in1k", "'resnet18.*'"),
    "catalog check": ("", "--online --json"),
    "catalog add": ("hf://me/flowers", "hf://me/flowers --tag flowers --license mit"),
    "doctor": ("", "--json"),
    "completion": (
        "bash > ~/.local/share/bash-completion/completions/nf-zoo",
        "zsh > ~/.zfunc/_nf-zoo",
    ),
}
"""Command -> two examples, which end its help: what follows its name."""

_PICTURES = "a folder with a folder of pictures for each class"


@dataclasses.dataclass(frozen=True)
class PredictionSettings(Options):
    """The options of ``nf-zoo predict``."""

    top: int = option(5, "classes for each picture", whole(1, "1 or more"))
    batch_size: int = option(32, "pictures at a time", whole(1, "1 or more"))


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of ``nf-zoo``, which sets ``command`` to ``"module:function"`` or None."""
    parser = argparse.ArgumentParser(
        prog="nf-zoo",
        description="Pretrained normalizer-free networks: list, predict, fine-tune, export.",
        epilog="New here? `nf-zoo quickstart` fine-tunes and exports in about two minutes.",
    )
    parser.add_argument("--version", action="version", version=f"nf-zoo {nf_zoo.__version__}")
    parser.add_argument("--debug", action="store_true", help="show tracebacks and all notices")
    parser.set_defaults(command=None)
    commands = parser.add_subparsers(title="commands", metavar="COMMAND")
    for add in (_list, _info, _predict, _evaluate, _demo, _finetune, _export, _signals):
        add(commands)
    for add in (_quickstart, _benchmark, _publish, _fetch, _catalog, _doctor, _completion):
        add(commands)
    return parser


class _Help(argparse.HelpFormatter):
    """Help whose examples keep their lines."""

    def _fill_text(self, text, width, indent):
        return text if text.startswith("examples:") else super()._fill_text(text, width, indent)


def add_command(commands, name: str, function: str, help: str) -> argparse.ArgumentParser:
    """Add a command, run by ``function``, a ``"module:function"`` of ``nf_zoo.cli``."""
    parser = _add_parser(commands, name, help)
    parser.set_defaults(command=f"nf_zoo.cli.{function}", parser=parser)
    # No default here: it would undo a --debug before the command.
    parser.add_argument(
        "--debug", action="store_true", default=argparse.SUPPRESS, help="show tracebacks"
    )
    return parser


def _add_parser(commands, name: str, help: str) -> argparse.ArgumentParser:
    """Add a parser whose help ends with examples; those of a group are of its commands."""
    description = f"{help[0].upper()}{help[1:]}."
    parser = commands.add_parser(name, help=help, description=description, formatter_class=_Help)
    place = parser.prog.removeprefix("nf-zoo ")
    examples = _EXAMPLES.get(place) or [
        f"{command.removeprefix(place)[1:]} {first}"
        for command, (first, _) in _EXAMPLES.items()
        if command.startswith(f"{place} ")
    ]
    lines = (f"  {parser.prog} {example}".rstrip() for example in examples)
    parser.epilog = "\n".join(["examples:", *lines])
    return parser


def _add_group(commands, name: str, help: str):
    """Add a command that only groups others."""
    parser = _add_parser(commands, name, help)
    return parser.add_subparsers(title="commands", metavar="COMMAND", required=True)


def add_json(parser) -> None:
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")


def field_value(text: str) -> tuple[str, Any]:
    """Parse ``"depths=1,1"`` to ``("depths", (1, 1))``; a value that is no literal is a string."""
    name, equals, value = text.partition("=")
    if not (name.isidentifier() and equals and value):
        raise argparse.ArgumentTypeError(f"expected FIELD=VALUE, not {text!r}")
    try:
        return name, ast.literal_eval(value)
    except (ValueError, SyntaxError):
        return name, value


def _list(commands) -> None:
    parser = add_command(commands, "list", "catalog:list_command", "list networks and checkpoints")
    help = "part of a name, checkpoint or data set, or a pattern such as 'nf_*50'"
    parser.add_argument("pattern", nargs="?", default="*", help=help)
    parser.add_argument("--pretrained", action="store_true", help="one line for each checkpoint")
    add_json(parser)


def _info(commands) -> None:
    help = "size, cost, fields and checkpoints of a network"
    parser = add_command(commands, "info", "catalog:info_command", help)
    parser.add_argument("name", help="a network, or one of its checkpoints")
    help = "picture size for the multiply-adds"
    parser.add_argument("--size", type=image_size, metavar="N|HxW", help=help)
    add_json(parser)


def _predict(commands) -> None:
    help = "predict the classes of pictures"
    parser = add_command(commands, "predict", "predicting:predict_command", help)
    parser.add_argument("model", help=EXPORTED)
    parser.add_argument("files", nargs="+", metavar="FILE", help="pictures, or folders of pictures")
    add_flags(parser, PredictionSettings)
    add_json(parser)


def _evaluate(commands) -> None:
    help = "accuracy of a model on labeled pictures"
    parser = add_command(commands, "evaluate", "predicting:evaluate_command", help)
    parser.add_argument("model", help=EXPORTED)
    parser.add_argument("folder", help=f"{_PICTURES}; if split, test/ is used, or else val/")
    add_flags(parser, EvaluationSettings)
    add_json(parser)


def _demo(commands) -> None:
    help = "a page in the browser to try models on pictures, and to see signals propagate"
    parser = add_command(commands, "demo", "demonstrating:demo_command", help)
    parser.add_argument("models", nargs="+", metavar="MODEL", help=EXPORTED)
    add_flags(parser, DemoSettings)


def _finetune(commands) -> None:
    help = "fit a network to your own pictures"
    parser = add_command(commands, "finetune", "training:finetune_command", help)
    help = "or train/, val/ and test/ that hold such folders (the last two optional); or tfds:NAME"
    parser.add_argument("folder", help=f"{_PICTURES}, {help}")
    add_flags(parser, Settings, ["output"], required=True)
    help = f"network to start from ({DEFAULT_MODEL}, with ImageNet weights): {MODEL}"
    parser.add_argument("--model", default=DEFAULT_MODEL, help=help)
    help = (
        "weights of that network: a tag, a path, hf://owner/name, or none to start untrained; by "
        "default the checkpoint that --model names, or the network's default one"
    )
    parser.add_argument("--pretrained", metavar="TAG|PATH|none", help=help)
    help = "an option of the network, such as drop_rate=0.2; `nf-zoo info` lists them"
    many = {"action": "append", "type": field_value, "default": []}
    parser.add_argument("--set", dest="fields", metavar="FIELD=VALUE", help=help, **many)
    continued = ("resume", "finish", "overwrite")
    group = parser.add_argument_group(
        "training (defaults in parentheses; others follow from the pictures, or are off)"
    )
    add_flags(group, Settings, without=("output", *continued))
    add_flags(parser.add_mutually_exclusive_group(), Settings, continued)


def _export(commands) -> None:
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
        help=f"format; by default from the ending of PATH ({', '.join(SUFFIXES)}), or a SavedModel",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace what is there")
    groups = {}
    for name in dict.fromkeys(name for row in FORMATS.values() for name in row.flags):
        rows = [row for row in FORMATS.values() if name in row.flags]
        title = ", ".join(row.title for row in rows)
        if title not in groups:
            groups[title] = parser.add_argument_group(title)
        add_flags(groups[title], rows[0].options, [name])


def _benchmark(commands) -> None:
    help = "time a model in every format whose runtime is installed, and name the fastest"
    parser = add_command(commands, "benchmark", "benchmarking:benchmark_command", help)
    parser.add_argument("model", help=MODEL)
    add_flags(parser, BenchmarkSettings)
    add_json(parser)


FIGURES = (
    *("linear", "linear_batch_norm", "convolutional_batch_norm"),
    *("bn_order", "norm_free", "skipinit_fixup", "trainable_depth"),
)
"""Keys of ``nf_zoo.signal_propagation.paper_figures.FIGURES``, whose import takes seconds."""


def _signals(commands) -> None:
    help = "mean and variance along the depth of networks, as the papers plot them"
    kinds = _add_group(commands, "signal-propagation", help)
    _figure(kinds)
    _measure(kinds)


def _figure(commands) -> None:
    help = "measure a figure of the papers; write it as NAME.png and NAME.svg, its data as NAME.csv"
    parser = add_command(commands, "figure", "signals:figure_command", help)
    parser.add_argument("figure", choices=FIGURES, metavar="NAME", help=", ".join(FIGURES))
    parser.add_argument("--output", required=True, metavar="DIR", help="folder to write")
    parser.add_argument(
        "--images", metavar="FOLDER", help="pictures instead of noise; not for linear"
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of weights and noise (0)")
    sizes = parser.add_argument_group("sizes (by default those of the figure)")
    sizes.add_argument("--depth", type=int, help="blocks; per stage if there are several stages")
    sizes.add_argument("--width", type=int, help="channels of the first stage, or features")
    sizes.add_argument("--pictures", type=int, metavar="N", help="number of pictures or vectors")
    sizes.add_argument("--size", type=int, metavar="N", help="side of the pictures in pixels")


def _measure(commands) -> None:
    help = "measure a network block by block: a table, or a plot and a CSV"
    parser = add_command(commands, "measure", "signals:measure_command", help)
    help = (
        "an architecture for fresh weights (nf_resnet50); or trained ones: a checkpoint "
        "(nf_resnet50.ra2_in1k), hf://owner/name, a file or a folder"
    )
    parser.add_argument("model", help=help)
    help = "load the network's default weights"
    parser.add_argument("--pretrained", action="store_true", help=help)
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--shape", type=image_size, metavar="N|HxW", help="noise size in pixels")
    source.add_argument("--images", metavar="FOLDER", help="measure on pictures, not on noise")
    parser.add_argument("--unit-gains", action="store_true", help="set all gains to one")
    parser.add_argument("--output", metavar="DIR", help="folder to write MODEL.png, .svg and .csv")
    parser.add_argument("--seed", type=int, default=0, help="seed of fresh weights and noise (0)")


def _quickstart(commands) -> None:
    help = "fine-tune, evaluate and export a small network on real pictures, in about two minutes"
    parser = add_command(commands, "quickstart", "training:quickstart_command", help)
    help = "folder to write (nf-zoo-quickstart)"
    parser.add_argument("--output", default="nf-zoo-quickstart", metavar="DIR", help=help)
    add_flags(parser, QuickstartSettings)


def _publish(commands) -> None:
    help = "upload a model to the Hugging Face Hub, with its model card"
    parser = add_command(commands, "publish", "publishing:publish_command", help)
    parser.add_argument("model", help=MODEL)
    help = "repository, created if it does not exist; optional with --space"
    parser.add_argument("repository", metavar="OWNER/NAME", nargs="?", help=help)
    help = "also write a Space, a page of the hub to try the model; needs the extra demo"
    parser.add_argument("--space", metavar="OWNER/NAME", help=help)
    parser.add_argument("--revision", default="main", metavar="BRANCH", help="branch (main)")
    for flag, help in (
        ("--private", "make a new repository private"),
        ("--dry-run", "only show what would be uploaded, and the card; works offline"),
        (
            "--force",
            "replace a model of another architecture or library, or a Space of another program",
        ),
        ("--saved-model", "add a SavedModel"),
    ):
        parser.add_argument(flag, action="store_true", help=help)
    help = "dtype of the weights on disk"
    parser.add_argument("--dtype", choices=["float32", "float16", "bfloat16"], help=help)
    help = "file that `nf-zoo evaluate --json` wrote (default: report.json of a finetune folder)"
    parser.add_argument("--metrics", metavar="FILE", help=help)
    card = parser.add_argument_group("model card")
    help = "license identifier of the hub: apache-2.0, mit, cc-by-4.0, ..."
    card.add_argument("--license", metavar="ID", help=help)
    help = "data set on the hub that the model was trained on; may be repeated"
    card.add_argument(
        "--dataset", dest="datasets", action="append", default=[], metavar="ID", help=help
    )
    for flag, help in (
        ("--dataset-name", "the data that the metrics were measured on, in words"),
        ("--training", "the recipe, in words"),
        ("--training-command", "the command that trained it"),
        ("--intended-use", "what the model is for, in words"),
        ("--limits", "what it is not for, in words"),
    ):
        card.add_argument(flag, metavar="TEXT", help=help)


def _fetch(commands) -> None:
    help = "download and check checkpoints now, for use without a network later"
    parser = add_command(commands, "fetch", "publishing:fetch_command", help)
    help = "a checkpoint (nf_resnet50.ra2_in1k), a pattern of them, or hf://owner/name[@revision]"
    parser.add_argument("names", nargs="+", metavar="NAME", help=help)


def _catalog(commands) -> None:
    kinds = _add_group(commands, "catalog", "examine and extend the catalog of checkpoints")
    help = "verify every record; the exit code is 1 if any is wrong"
    check = add_command(kinds, "check", "publishing:check_command", help)
    help = "also check existence, size and revision on the hub"
    check.add_argument("--online", action="store_true", help=help)
    add_json(check)
    help = "write a record for a published repository"
    add = add_command(kinds, "add", "publishing:add_command", help)
    add.add_argument("repository", metavar="hf://OWNER/NAME[@REVISION]", help="what to record")
    add.add_argument("--tag", help="name of the checkpoint within its architecture")
    add.add_argument("--license", metavar="ID", help="its license; by default the model card's")
    help = "make it the default checkpoint of its network"
    add.add_argument("--default", action="store_true", default=None, help=help)
    for command in (check, add):
        help = "a catalog.toml other than nf_zoo's own"
        command.add_argument("--catalog", metavar="FILE", help=help)


def _doctor(commands) -> None:
    help = "versions, devices, runtimes and cache: what to paste into a bug report"
    add_json(add_command(commands, "doctor", "doctor:doctor_command", help))


def _completion(commands) -> None:
    help = "print the script that makes a shell complete this command's options and arguments"
    parser = add_command(commands, "completion", "completion:completion_command", help)
    parser.add_argument("shell", choices=["bash", "zsh", "tcsh"], help="the shell to print for")
