"""The options of the commands that have to do with the hub and the catalog."""

from __future__ import annotations

from nf_zoo.cli.options import MODEL, add_command, add_json


def add_hub_commands(commands) -> None:
    """Add ``publish``, ``fetch`` and ``catalog`` to the parser's commands."""
    _publish(commands)
    _fetch(commands)
    _catalog(commands)


def _publish(commands) -> None:
    parser = add_command(
        commands,
        "publish",
        "publishing:publish_command",
        "upload a model to the Hugging Face Hub, with its model card",
    )
    parser.add_argument("model", help=MODEL)
    parser.add_argument("repository", metavar="OWNER/NAME", help="made if it is not there")
    parser.add_argument("--revision", default="main", metavar="BRANCH", help="branch (main)")
    parser.add_argument("--private", action="store_true", help="if the repository is made")
    parser.add_argument("--dry-run", action="store_true", help="only show what would be uploaded")
    parser.add_argument(
        "--force", action="store_true", help="replace a model of another architecture"
    )
    parser.add_argument("--dtype", choices=["float32", "float16", "bfloat16"], help="on disk")
    parser.add_argument("--saved-model", action="store_true", help="add a SavedModel")
    parser.add_argument(
        "--metrics",
        metavar="FILE",
        help="JSON of nf-zoo evaluate --json (of a finetune folder: its report.json)",
    )
    card = parser.add_argument_group("model card")
    card.add_argument("--license", metavar="ID", help="of the hub: apache-2.0, mit, cc-by-4.0, ...")
    card.add_argument(
        "--dataset", dest="datasets", action="append", default=[], metavar="ID", help="on the hub"
    )
    card.add_argument("--dataset-name", metavar="TEXT", help="what the metrics are of, in words")
    card.add_argument("--training", metavar="TEXT", help="the recipe, in words")
    card.add_argument("--training-command", metavar="TEXT", help="the command that trained it")
    card.add_argument("--intended-use", metavar="TEXT")
    card.add_argument("--limits", metavar="TEXT")


def _fetch(commands) -> None:
    parser = add_command(
        commands,
        "fetch",
        "publishing:fetch_command",
        "download and check checkpoints now, for use without a network later",
    )
    parser.add_argument(
        "names",
        nargs="+",
        metavar="NAME",
        help="a checkpoint (nf_resnet50.ra2_in1k), a pattern of them, or hf://owner/name[@revision]",
    )


def _catalog(commands) -> None:
    help = "examine and extend the catalog of checkpoints"
    parser = commands.add_parser("catalog", help=help, description=f"{help}.")
    kinds = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    check = add_command(
        kinds, "check", "publishing:check_command", "verify every record; 1 if any is wrong"
    )
    check.add_argument(
        "--online", action="store_true", help="ask the hub for existence, size and revision too"
    )
    add_json(check)
    add = add_command(
        kinds, "add", "publishing:add_command", "write a record for a published repository"
    )
    add.add_argument("repository", metavar="hf://OWNER/NAME[@REVISION]")
    add.add_argument("--tag", help="its name among the architecture's checkpoints")
    add.add_argument("--license", metavar="ID", help="(that of the model card)")
    add.add_argument(
        "--default", action="store_true", default=None, help="what pretrained=True takes"
    )
    for command in (check, add):
        command.add_argument(
            "--catalog", metavar="FILE", help="another catalog.toml than nf_zoo's own"
        )
