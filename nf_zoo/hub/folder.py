"""A model as a self-describing folder, which is what the hub publishes."""

import json
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from nf_zoo import atomic
from nf_zoo.deploy.exporting import LABELS_FILE, PREPROCESSING_FILE, write_metadata
from nf_zoo.hub.card import CARD_FILE, CardDetails, is_generated, model_card
from nf_zoo.hub.checkpoint import INDEX_FILE, WEIGHTS_FILE
from nf_zoo.hub.description import CONFIG_FILE, ModelConfig, is_readable_config
from nf_zoo.hub.loading import check_described
from nf_zoo.hub.pretrained import RUN_MODEL_FILE, SAVED_MODEL_FILE
from nf_zoo.hub.sources import Local
from nf_zoo.models.classifier import ImageClassifier, variable_names

METRICS_FILE = "metrics.json"
SAVED_MODEL = "saved_model"
DTYPES = ("float32", "float16", "bfloat16")
MAX_SHARD_SIZE = "2GB"


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
    """Write a model as a folder, which ``push_to_hub`` can publish.

    ``load_pretrained`` rebuilds the model from model.safetensors (or several such files and an
    index) and config.json. preprocessing.json and labels.txt repeat parts of config.json for other
    programs; README.md is a model card; metrics.json and saved_model/ are written on request. The
    folder appears whole or not at all. When it replaces an older one, files that are not nf_zoo's
    stay, including a README.md written by hand.

    Args:
        model: the model.
        folder: the folder to write; missing parents are created.
        dtype: ``"float32"``, ``"float16"`` or ``"bfloat16"`` on disk; None keeps each variable's
            own.
        overwrite: replace nf_zoo's files in a folder that is not empty.
        card: contents of the model card that the model itself does not know.
        metrics: the result of ``evaluate``, or the metrics of a ``finetune`` result.
        saved_model: add a SavedModel that takes raw pictures.
        max_shard_size: most bytes of tensors in one file, or a text such as ``"500MB"``.

    Returns:
        the folder.

    Raises:
        FileExistsError: if the folder is not empty (and ``overwrite`` is false), is a file, or
            holds a model of ``finetune`` or a SavedModel, which would be loaded instead.
        OSError: if it cannot be replaced: a mount point, or a folder that is being worked in.
        ValueError: for a model that is not an ImageClassifier or has LoRA or quantized layers,
            another dtype, a value too large for float16, or metrics that are not JSON.
        WeightsError: if the files written do not describe the model; nothing is left behind then.
        RuntimeError, ImportError: for a SavedModel without TensorFlow.

    Example:
        >>> import nf_zoo
        >>> model = nf_zoo.create_model("nf_resnet26", num_classes=10)
        >>> path = nf_zoo.save_pretrained(model, "my-nf-resnet")
    """
    check_kind(model)
    folder = Path(folder).expanduser().absolute()
    is_taken = folder.exists() and (not folder.is_dir() or any(folder.iterdir()))
    if is_taken and not (overwrite and folder.is_dir()):
        raise FileExistsError(
            "The folder exists already: choose another, or pass overwrite=True to replace what "
            f"nf_zoo wrote there. Received: {folder}"
        )
    hiding = [name for name in (RUN_MODEL_FILE, SAVED_MODEL_FILE) if (folder / name).is_file()]
    if hiding:
        raise FileExistsError(
            f"The folder holds {' and '.join(hiding)}, which would be loaded in place of this "
            f"model: remove it, or choose another folder. Received: {folder}"
        )
    folder = folder.resolve()
    with atomic.replacing(folder) as made:
        made.mkdir()
        save_shards(model, made, dtype, max_shard_size)
        _describe(model, made, card or CardDetails(), metrics)
        check_described(made / CONFIG_FILE, Local(made))
        if saved_model:
            from nf_zoo.deploy.saved_model import export_saved_model

            export_saved_model(model, made / SAVED_MODEL)
        if is_taken:
            _keep_others(folder, made)
    return folder


def check_kind(model) -> None:
    """Raise ``ValueError`` for a model that ``load_pretrained`` could not rebuild."""
    if not isinstance(model, ImageClassifier):
        raise ValueError(
            "save_pretrained and push_to_hub write an ImageClassifier, which load_pretrained "
            "rebuilds from its architecture; save any other model, such as a folded one or one "
            "with layers of your own, as a file: model.save('name.keras'). "
            f"Received: {type(model).__name__} {getattr(model, 'name', '')!r}"
        )
    for layer in model._flatten_layers():
        quantized = layer.dtype_policy.quantization_mode
        if quantized or getattr(layer, "lora_enabled", False):
            raise ValueError(
                "save_pretrained and push_to_hub write plain weights; model.save('name.keras') "
                "keeps LoRA and quantization. "
                f"Received: the layer {layer.name!r} with {quantized or 'LoRA'}"
            )


def _describe(model, folder: Path, card: CardDetails, metrics: Mapping[str, Any] | None) -> None:
    """Write everything except the weights."""

    def write(name: str, text: str) -> None:
        (folder / name).write_text(text, encoding="utf-8")

    write(CONFIG_FILE, ModelConfig.of(model).to_json())
    write_metadata(model, folder)
    if metrics is not None:
        write(METRICS_FILE, _metrics_json(metrics))
    write(CARD_FILE, model_card(model, card, metrics))


def _metrics_json(metrics: Mapping[str, Any]) -> str:
    try:
        text = json.dumps(metrics, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    except (TypeError, ValueError) as error:
        raise ValueError(
            "metrics must be the result of evaluate() or the .metrics of a finetune() result: "
            f"plain numbers, texts, lists and dictionaries. Received: {error}"
        ) from error
    # A row of a confusion matrix goes on one line; JSON texts contain no line breaks.
    return re.sub(r"\[\n[\d\s,.eE+-]+\]", lambda row: " ".join(row[0].split()), text)


def is_ours(name: str) -> bool:
    """Check that a file name is one that ``save_pretrained`` gives to weights."""
    pattern = r"model(-\d{5}-of-\d{5})?\.safetensors(\.index\.json)?"
    return re.fullmatch(pattern, name) is not None


def _keep_others(folder: Path, made: Path) -> None:
    """Copy files that are not ours from the old folder to the new one."""
    # Without our config.json, a saved_model/ belongs to someone else.
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


def save_shards(
    model: ImageClassifier,
    folder: Path,
    dtype: str | None = None,
    max_shard_size: int | str = MAX_SHARD_SIZE,
) -> None:
    """Write a model's weights into a folder, as several files with an index if they are large.

    A tensor of more than ``max_shard_size`` (bytes, or a text such as ``"500MB"``) has a file to
    itself.
    """
    import huggingface_hub

    if dtype is not None and dtype not in DTYPES:
        raise ValueError(f"dtype must be one of {DTYPES} or None. Received: {dtype!r}")
    if isinstance(max_shard_size, int) and max_shard_size < 1:
        raise ValueError(f"max_shard_size must be 1 byte or more. Received: {max_shard_size}")
    variables = variable_names(model)
    split = huggingface_hub.split_state_dict_into_shards_factory(
        variables,
        get_storage_size=lambda variable: _stored_bytes(variable, dtype),
        filename_pattern=WEIGHTS_FILE.replace(".", "{suffix}."),
        max_shard_size=max_shard_size,
    )
    for filename, names in split.filename_to_tensors.items():
        part = {name: variables[name] for name in names}
        write_variables(model, part, folder / filename, dtype)
    if split.is_sharded:
        index = {
            "metadata": {"total_size": split.metadata["total_size"]},
            "weight_map": {name: split.tensor_to_filename[name] for name in variables},
        }
        text = json.dumps(index, indent=2, ensure_ascii=False) + "\n"
        (folder / INDEX_FILE).write_text(text, encoding="utf-8")


def write_variables(model, variables: Mapping, path: Path, dtype: str | None) -> None:
    """Write some variables, by published name, as a safetensors file in nf_zoo's own format."""
    tensors = {name: _as_stored(name, variable, dtype) for name, variable in variables.items()}
    write_tensors(tensors, path, {"format": "nf_zoo", "architecture": model.architecture})


def write_tensors(
    tensors: Mapping[str, np.ndarray], path: Path, metadata: Mapping[str, str]
) -> None:
    """Write arrays as a safetensors file, atomically."""
    from safetensors.numpy import save_file

    with atomic.replacing(path) as written:
        written.touch()
        mode = written.stat().st_mode
        save_file(dict(tensors), written, metadata=dict(metadata))
        # safetensors creates a file that only its owner can read.
        written.chmod(mode)


def _stored_bytes(variable, dtype: str | None) -> int:
    import keras
    import ml_dtypes  # noqa: F401  NumPy learns bfloat16 from it

    stored = np.dtype(dtype or keras.backend.standardize_dtype(variable.dtype))
    return stored.itemsize * int(np.prod(variable.shape, dtype=np.int64))


def _as_stored(name: str, variable, dtype: str | None) -> np.ndarray:
    import keras
    import ml_dtypes

    # np.ascontiguousarray would turn a scalar gain into shape (1,).
    value = np.asarray(keras.ops.convert_to_numpy(variable), order="C")
    if dtype is None:
        return value
    with np.errstate(over="ignore"):
        stored = value.astype(ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype)
    if not np.isfinite(stored.astype("float32")).all() and np.isfinite(value).all():
        raise ValueError(
            f"{name} has values beyond the range of {dtype}: save in bfloat16 or float32. "
            f"Received: {np.abs(value).max():.3g}"
        )
    return stored
