"""``nf-zoo export``."""

from __future__ import annotations

import re
from argparse import Namespace
from pathlib import Path

from nf_zoo.cli.opening import open_classifier
from nf_zoo.cli.output import console, import_backend
from nf_zoo.finetuning.class_folders import pictures_in

SUFFIXES = {".onnx": "onnx", ".tflite": "litert"}
"""Of the file -> its format; everything else is the folder of a SavedModel."""
MOST_PICTURES = 512
"""So many measure the ranges of the activations; of more, every so manieth is taken."""


def export_command(args: Namespace) -> int:
    """Write a model as a SavedModel, an ONNX or a LiteRT file."""
    kind = args.format or SUFFIXES.get(Path(args.output).suffix, "saved-model")
    options = _options(args, kind)
    from nf_zoo.deploy.target import check_target

    check_target(args.output, args.overwrite, is_folder=kind == "saved-model")
    import_backend(args.debug, only_tensorflow=kind != "onnx")
    from nf_zoo.deploy.export import export_saved_model
    from nf_zoo.deploy.litert_export import export_litert
    from nf_zoo.deploy.onnx_export import export_onnx

    write = {"saved-model": export_saved_model, "onnx": export_onnx, "litert": export_litert}[kind]
    path = write(open_classifier(args.model), args.output, args.overwrite, **options)
    out = console()
    out.print(f"Exported to {path}; it answers as the Keras model does.")
    if kind == "saved-model":
        out.print("Signatures: serving_default, serving_uint8, serving_bytes, features")
        out.print(f'In Python:  tf.saved_model.load("{path}").predict(images)  # (N, H, W, 3)')
    else:
        out.print(f"How it is run without nf_zoo: docs/deploy.md, examples/predict_{kind}.py")
    return 0


def _options(args: Namespace, kind: str) -> dict:
    """What the function of the format is given beside the model and the path."""
    given = {"precision": args.precision, "pictures": args.pictures, "keep_float": args.keep_float}
    given = {name: value for name, value in given.items() if value is not None}
    if args.constants and kind != "saved-model":
        raise ValueError(
            "The weights of ONNX and LiteRT files are constants in any case: leave --constants "
            f"out. Received: --constants with --format {kind}"
        )
    if kind == "saved-model":
        if given:
            flags = ", ".join(f"--{name.replace('_', '-')}" for name in given)
            raise ValueError(
                "A SavedModel is written in the model's own precision; --format onnx has float32 "
                f"and int8, --format litert float32, float16 and int8. Received: {flags}"
            )
        return {"constants": args.constants}
    if "pictures" in given:
        given["pictures"] = _some_pictures(args.pictures)
    if "keep_float" in given:
        number = re.fullmatch(r"\d+", args.keep_float)
        given["keep_float"] = int(number[0]) if number else args.keep_float.split(",")
    return given


def _some_pictures(folder: str) -> list[str]:
    files = pictures_in(folder)
    return files[:: -(-len(files) // MOST_PICTURES)]
