"""``nf-zoo finetune`` and ``nf-zoo quickstart``."""

from __future__ import annotations

import shlex
import sys
import warnings
from argparse import Namespace

from nf_zoo.cli.output import console, import_backend, print_error
from nf_zoo.finetuning.settings import QuickstartSettings, Settings
from nf_zoo.hub.opening import load_model, offline_in_words
from nf_zoo.options import given
from nf_zoo.pictures.class_folders import find_splits, scan


def finetune_command(args: Namespace) -> int:
    """Fit a network to a folder of pictures."""
    options = given(args, Settings)
    # The checks come before TensorFlow is imported and a network fetched.
    Settings(**options)
    _check_folder(args.folder)
    import_backend(args.debug)
    from nf_zoo.finetuning import finetune
    from nf_zoo.finetuning.run_folder import RunFolder

    RunFolder(args.output, args.resume, args.overwrite, args.finish)
    verbose = 1 if sys.stdout.isatty() else 2
    try:
        finetune(_starting_model(args), args.folder, verbose=verbose, **options)
    except KeyboardInterrupt:
        print_error(
            "stopped; the same command with --resume goes on after the last complete epoch, and "
            "with --finish it delivers the model of that epoch"
        )
        return 130
    console().print(f"Predict with it:  nf-zoo predict {shlex.quote(args.output)} PICTURE...")
    return 0


def _check_folder(data: str) -> None:
    if data.startswith("tfds:"):
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if train := find_splits(data).get("train"):
            scan(train)


def _starting_model(args: Namespace):
    from nf_zoo.hub.errors import UnknownWeights
    from nf_zoo.hub.models import create_model
    from nf_zoo.hub.sources import is_name

    fields, pretrained = dict(args.fields), args.pretrained
    if not is_name(args.model):
        if pretrained is not None or fields:
            raise ValueError(
                "--pretrained and --set go with the name of a network, not with a finished model. "
                f"Received: --model {args.model}"
            )
        return load_model(args.model)
    chosen = {None: True, "none": False}.get(pretrained, pretrained)
    try:
        with offline_in_words(f"in place of {args.model}, as in --model NAME"):
            return create_model(args.model, chosen, **fields)
    except UnknownWeights as error:
        if pretrained is not None:
            raise
        own = "To start from a file: --pretrained PATH. To start untrained: --pretrained none."
        raise ValueError(f"{error.message} {own}") from error
    except TypeError as error:
        raise ValueError(f"--set: {error}") from error


def quickstart_command(args: Namespace) -> int:
    """Fine-tune, evaluate and export once, on scanned digits."""
    options = given(args, QuickstartSettings)
    QuickstartSettings(**options)
    import_backend(args.debug)
    from nf_zoo.quickstart import quickstart

    quickstart(args.output, **options)
    return 0
