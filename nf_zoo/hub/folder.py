"""A model as a folder that says all there is to say of it: what the hub publishes."""

from __future__ import annotations

import json
import re
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nf_zoo.hub.card import CARD_FILE, CardDetails, is_generated, model_card
from nf_zoo.hub.model_config import CONFIG_FILE, ModelConfig, is_readable_config
from nf_zoo.hub.pretrained import check_described
from nf_zoo.hub.saving import MAX_SHARD_SIZE, check_dtype, save_shards
from nf_zoo.hub.shards import is_ours

if TYPE_CHECKING:
    from nf_zoo.models.classifier import ImageClassifier

PREPROCESSING_FILE, LABELS_FILE, METRICS_FILE = "preprocessing.json", "labels.txt", "metrics.json"
SAVED_MODEL = "saved_model"


def save_pretrained(
    model: ImageClassifier,
    folder: str | Path,
    dtype: str | None = None,
    overwrite: bool = False,
    *,
    card: CardDetails | None = None,
    metrics: Mapping[str, Any] | None = None,
    saved_model: bool = False,
    max_shard_size: int | str = MAX_SHARD_SIZE,
) -> Path:
    """Write a model as a folder: what `push_to_hub` publishes.

    `load_pretrained` builds the model again from model.safetensors (or several such files and an
    index) and config.json. preprocessing.json and labels.txt repeat what config.json says for
    programs that want no more; README.md is a model card; metrics.json and saved_model/ are there
    if asked for. The folder appears whole or not at all; when it replaces an older one, files that
    are not nf_zoo's stay, a README.md written by hand among them.

    Args:
        model: The model.
        folder: Where to; its parents are made if need be.
        dtype: "float32", "float16" or "bfloat16" on disk; None keeps each variable's own.
        overwrite: Replace what nf_zoo wrote in a folder that is not empty.
        card: What the model card is to say that the model does not know itself.
        metrics: What `evaluate` returned, or the metrics of a `finetune` result.
        saved_model: Add a SavedModel that takes raw pictures.
        max_shard_size: Bytes of tensors in a file at most, or "500MB".

    Returns:
        The folder.

    Raises:
        FileExistsError: if the folder is not empty (and `overwrite` is false), or is a file.
        ValueError: for any model but an ImageClassifier, one with LoRA or quantized layers, another
            dtype, a value too large for float16, or metrics that are no JSON.
        WeightsError: if what was written does not describe the model; then nothing is left.
        RuntimeError, ImportError: for a SavedModel without TensorFlow.

    Example:
        >>> import nf_zoo
        >>> model = nf_zoo.create_model("nf_resnet26", num_classes=10)
        >>> nf_zoo.save_pretrained(model, "my-nf-resnet")  # doctest: +SKIP
    """
    check_kind(model)
    folder = Path(folder).expanduser().absolute()
    is_taken = folder.exists() and (not folder.is_dir() or any(folder.iterdir()))
    if is_taken and not (overwrite and folder.is_dir()):
        raise FileExistsError(
            "The folder exists already: choose another, or pass overwrite=True to replace what "
            f"nf_zoo wrote there. Received: {folder}"
        )
    check_dtype(dtype)
    folder = folder.resolve()
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}-", dir=folder.parent) as scratch:
        made = Path(scratch) / "new"
        made.mkdir()
        save_shards(model, made, dtype, max_shard_size)
        _describe(model, made, card or CardDetails(), metrics)
        check_described(made / CONFIG_FILE, made)
        if saved_model:
            from nf_zoo.deploy.saved_model import export_saved_model

            export_saved_model(model, made / SAVED_MODEL)
        if is_taken:
            _keep_others(folder, made)
        _put_in_place(made, folder, Path(scratch) / "old")
    return folder


def check_kind(model) -> None:
    """Raise `ValueError` for a model that `load_pretrained` could not build again."""
    from nf_zoo.models.classifier import ImageClassifier

    if not isinstance(model, ImageClassifier):
        raise ValueError(
            "save_pretrained and push_to_hub write an ImageClassifier, which load_pretrained "
            "builds again from its architecture; save any other model, folded or with layers of "
            "your own around one of the zoo, as a file: model.save('name.keras'). "
            f"Received: {type(model).__name__} {getattr(model, 'name', '')!r}"
        )
    for layer in model._flatten_layers():
        lora, quantized = (
            getattr(layer, "lora_enabled", False),
            layer.dtype_policy.quantization_mode,
        )
        if lora or quantized:
            raise ValueError(
                "save_pretrained and push_to_hub write plain weights; model.save('name.keras') "
                "keeps LoRA and quantization. "
                f"Received: the layer {layer.name!r} with {quantized or 'LoRA'}"
            )


def _describe(model, folder: Path, card: CardDetails, metrics: Mapping[str, Any] | None) -> None:
    """Everything but the weights."""
    from nf_zoo.preprocessing import class_names

    def write(name: str, text: str) -> None:
        (folder / name).write_text(text, encoding="utf-8")

    write(CONFIG_FILE, ModelConfig.of(model).to_json())
    record = {"architecture": model.architecture, **model.preprocessing.to_dict()}
    write(PREPROCESSING_FILE, json.dumps(record, indent=2) + "\n")
    if model.num_classes:
        write(LABELS_FILE, "".join(f"{name}\n" for name in class_names(model)))
    if metrics is not None:
        write(METRICS_FILE, _metrics_json(metrics))
    write(CARD_FILE, model_card(model, card, metrics))


def _metrics_json(metrics: Mapping[str, Any]) -> str:
    try:
        text = json.dumps(metrics, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    except (TypeError, ValueError) as error:
        raise ValueError(
            "metrics must be what evaluate() returns or a finetune() result's .metrics: plain "
            f"numbers, texts, lists and dictionaries. Received: {error}"
        ) from error
    # A row of a confusion matrix on one line; within a text no line ends.
    return re.sub(r"\[\n[\d\s,.eE+-]+\]", lambda row: " ".join(row[0].split()), text)


def _keep_others(folder: Path, made: Path) -> None:
    """Copy what is not ours from the old folder to the new one."""
    # Without a config.json of ours, a saved_model/ is somebody else's.
    was_ours = is_readable_config(folder / CONFIG_FILE)
    names = (PREPROCESSING_FILE, LABELS_FILE, METRICS_FILE, SAVED_MODEL)
    for entry in folder.iterdir():
        if is_ours(entry.name) or (was_ours and entry.name in names):
            continue
        if entry.name == CARD_FILE and not is_generated(entry):
            (made / CARD_FILE).unlink()
        if (made / entry.name).exists():
            continue
        if entry.is_dir() and not entry.is_symlink():
            shutil.copytree(entry, made / entry.name, symlinks=True)
        else:
            shutil.copy2(entry, made / entry.name, follow_symlinks=False)


def _put_in_place(made: Path, folder: Path, old: Path) -> None:
    if folder.exists():
        folder.rename(old)
    try:
        made.rename(folder)
    except OSError:
        if old.exists():
            old.rename(folder)
        raise
