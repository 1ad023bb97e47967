"""Models of nf_zoo as Keras saves them: a .keras file, or a folder of the same three files.

A .keras file can name any class and hold anything; here it may be an ``ImageClassifier`` of plain
values, or a ``FoldedModel`` of layers of Keras and nf_zoo, and its parts are measured before Keras
reads them.
"""

import io
import math
import re
import warnings
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import nf_zoo
from nf_zoo.hub import errors
from nf_zoo.hub.description import (
    CONFIG_FILE,
    LONGEST_MESSAGE,
    ModelConfig,
    parse_config,
    without_values,
)
from nf_zoo.hub.errors import first_few, printable
from nf_zoo.hub.untrusted.documents import MOST_BYTES, parse_json

SUFFIX = ".keras"
WEIGHTS = "model.weights.h5"
PARTS = (CONFIG_FILE, "metadata.json", WEIGHTS)
MOST_EXPANSION = 4
MOST_ENTRIES = 200_000
_ROOM = 2**20
_CLASSIFIER = {
    "module": "nf_zoo.models.classifier",
    "class_name": "ImageClassifier",
    "registered_name": "nf_zoo>ImageClassifier",
}
_FOLDED = {
    "module": "nf_zoo.deploy.folded",
    "class_name": "FoldedModel",
    "registered_name": "nf_zoo>FoldedModel",
}
_RUN_OR_READ = (
    *("Lambda", "TFSMLayer", "JaxLayer", "FlaxLayer", "TorchModuleWrapper"),
    *("StringLookup", "IntegerLookup", "TextVectorization"),
)
_KNOWN = re.compile(
    r"keras\.DTypePolicy|keras\.dtype_policies\.[A-Z]\w*|keras\.initializers\.[A-Z]\w*"
    rf"|keras\.layers\.(?!(?:{'|'.join(_RUN_OR_READ)})$)[A-Z]\w*"
    r"|keras\.src\.ops\.(?:image|linalg|math|nn|numpy)\.[A-Z]\w*"
    r"|keras\.src\.ops\.core\.(?:Cast|ConvertToTensor|SaturateCast|Scatter|ScatterUpdate|Slice"
    r"|SliceUpdate|StopGradient|Unstack)"
    r"|nf_zoo\.layers\.\w+\.[A-Z]\w*"
)
"""Classes that a folded model may be made of: none runs code, or reads a file, that a file names.

Functions are not among them, nor the operations of Keras that call one.
"""


def open_keras(path: Path):
    """Open a model that Keras saved, a .keras file or a folder, without running anything of it.

    The result, an ``ImageClassifier`` or a ``FoldedModel``, is not compiled.
    """
    import keras

    text, stream, size = _folder_parts(path) if path.is_dir() else _archive_parts(path)
    try:
        document = parse_json(text)
    except ValueError as error:
        raise errors.InvalidConfig(
            f"{path} describes no model of nf_zoo: {printable(error)}"
        ) from error
    is_folded = all(document.get(key) == value for key, value in _FOLDED.items())
    config = None if is_folded else _read_config(document, path)
    with stream:
        stored = _check_weights(stream, size, path)
    if is_folded:
        _check_parameters(_folded_blueprint(document, path), size, path)
    else:
        config.check_blocks(path, stored)
        _check_parameters(config.blueprint(path), size, path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return keras.saving.load_model(path, compile=False, safe_mode=True)
    # Keras raises what its layers and h5py happen to raise.
    except Exception as error:
        raise errors.WeightsMismatch(
            f"{path} cannot be read as a Keras model: its weights do not fit what it describes "
            f"({printable(error)})."
        ) from error


def _archive_parts(path: Path) -> tuple[bytes, BinaryIO, int]:
    """Yield config.json, the open weights and their size in bytes."""
    try:
        with zipfile.ZipFile(path) as archive:
            _check_members(path, archive.infolist())
            text, weights = archive.read(CONFIG_FILE), archive.read(WEIGHTS)
            return text, io.BytesIO(weights), len(weights)
    except errors.WeightsError:
        raise
    except (zipfile.BadZipFile, zlib.error, OSError, RuntimeError, EOFError, KeyError) as error:
        raise errors.CorruptWeights(
            f"{path} cannot be read as a Keras model: truncated or damaged "
            f"({printable(error)}). Fetch it again."
        ) from error


def _check_members(path: Path, members: list[zipfile.ZipInfo]) -> None:
    names = [member.filename for member in members if member.filename != "assets/"]
    if others := sorted(set(names) - set(PARTS)):
        raise errors.UnsafeWeights(
            f"{path} holds files that a Keras model of nf_zoo does not have, so nothing of it is "
            f"unpacked. Received: {first_few(others)}"
        )
    if len(names) != len(PARTS) or len(set(names)) != len(PARTS):
        raise errors.CorruptWeights(
            f"{path} cannot be read as a Keras model: it must hold {', '.join(PARTS)}, once each. "
            f"Received: {first_few(names) or 'nothing'}"
        )
    _check_expansion(path, sum(member.file_size for member in members), path.stat().st_size)
    for member in members:
        if member.filename != WEIGHTS and member.file_size > MOST_BYTES:
            raise errors.CorruptWeights(
                f"{path} cannot be read as a Keras model: {member.filename} must have "
                f"{MOST_BYTES} bytes at most. Received: {member.file_size} bytes"
            )


def _check_expansion(path: Path, claimed: int, stored: int) -> None:
    if claimed > MOST_EXPANSION * stored + _ROOM:
        raise errors.CorruptWeights(
            f"{path} would unpack to {claimed} bytes from {stored}: Keras does not compress, so it "
            "is not a file of Keras. Nothing of it was unpacked."
        )


def _folder_parts(folder: Path) -> tuple[bytes, BinaryIO, int]:
    missing = [name for name in PARTS if not (folder / name).is_file()]
    if missing:
        raise errors.CorruptWeights(
            f"{folder} cannot be read as a Keras model: it lacks {', '.join(missing)}."
        )
    if (folder / CONFIG_FILE).stat().st_size > MOST_BYTES:
        raise errors.InvalidConfig(f"{folder / CONFIG_FILE} is larger than {MOST_BYTES} bytes")
    weights = folder / WEIGHTS
    return (folder / CONFIG_FILE).read_bytes(), open(weights, "rb"), weights.stat().st_size


def _read_config(document: dict[str, Any], path: Path) -> ModelConfig:
    try:
        for name, wanted in _CLASSIFIER.items():
            if document[name] != wanted:
                raise ValueError(
                    "a Keras model, but not one of nf_zoo. If you trust it, import nf_zoo and open "
                    "it with keras.saving.load_model, whatever layers of nf_zoo are in it. "
                    f"Received: {printable(document['class_name'])}"
                )
        return parse_config(_own_fields(document["config"]))
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise errors.InvalidConfig(
            f"{path} describes no model of nf_zoo: {printable(error, LONGEST_MESSAGE)}"
        ) from error


def _folded_blueprint(document: dict[str, Any], path: Path):
    """Return the folded model without values, if it has known classes alone."""
    import keras

    if not isinstance(document.get("config"), dict):
        raise errors.InvalidConfig(f"{path} describes no model of nf_zoo: it has no config.")
    others = sorted(set(_foreign_classes(document["config"])))
    if others:
        raise errors.UnsafeWeights(
            f"{path} is a folded model with layers that it may not have, so nothing of it is read. "
            "If you trust it, open it with keras.saving.load_model. "
            f"Received: {first_few(others)}"
        )
    described = {key: value for key, value in document.items() if key != "compile_config"}
    try:
        return without_values(lambda: keras.saving.deserialize_keras_object(described))
    # Keras raises what its layers happen to raise.
    except Exception as error:
        raise errors.InvalidConfig(
            f"{path} describes no model of nf_zoo: {printable(error, LONGEST_MESSAGE)}"
        ) from error


def _foreign_classes(config: Any) -> Iterator[str]:
    """Return the classes anywhere in a config that no folded model has."""
    stack = [config]
    while stack:
        value = stack.pop()
        if isinstance(value, list):
            stack += value
        if not isinstance(value, dict):
            continue
        stack += value.values()
        kind = value.get("class_name")
        if kind is None or (kind == "__keras_tensor__" and "module" not in value):
            continue
        name = f"{value.get('module')}.{kind}"
        if not _KNOWN.fullmatch(name):
            yield printable(name)


def _own_fields(config: dict[str, Any]) -> dict[str, Any]:
    """Return the record that Keras saved of an ``ImageClassifier``, as fields of config.json."""
    if not isinstance(config, dict):
        raise TypeError("its config must be an object")
    options = dict(config)
    fields = {name: options.pop(name) for name in ("architecture", "preprocessing", "labels")}
    fields |= {name: options.pop(name) for name in ("trainable", "parts") if name in options}
    for name in ("name", "dtype", "weights_tag"):
        value = options.pop(name)
        if value is not None and not isinstance(value, str):
            raise TypeError(
                f"{name} must be text; keras.saving.load_model opens others, if you trust them. "
                f"Received: {printable(repr(value))}"
            )
    return {"nf_zoo_version": nf_zoo.__version__, "options": options, **fields}


def _check_weights(stream: BinaryIO, size: int, path: Path) -> int:
    """Count the arrays of an HDF5 file, which must be its own and no larger than it is."""
    import h5py

    try:
        with h5py.File(stream, "r") as file:
            arrays = list(_arrays(file, path))
            claimed = sum(math.prod(a.shape) * max(a.dtype.itemsize, 1) for a in arrays)
    except errors.WeightsError:
        raise
    # h5py raises whatever a damaged file makes its C library stumble over.
    except Exception as error:
        raise errors.CorruptWeights(
            f"{path} cannot be read as a Keras model: {WEIGHTS} is truncated or damaged "
            f"({printable(error)}). Fetch it again."
        ) from error
    _check_expansion(path, claimed, size)
    return len(arrays)


def _arrays(root, path: Path) -> Iterator[Any]:
    import h5py

    groups, seen = [root], set()
    while groups:
        group = groups.pop()
        for name in group:
            if not isinstance(group.get(name, getlink=True), h5py.HardLink):
                raise errors.UnsafeWeights(
                    f"{path} holds a link to elsewhere, {printable(name)!r}: nothing of it is read."
                )
            entry = group[name]
            address = h5py.h5o.get_info(entry.id).addr
            if address in seen or len(seen) > MOST_ENTRIES:
                raise errors.CorruptWeights(f"{path} repeats itself at {printable(entry.name)!r}.")
            seen.add(address)
            if isinstance(entry, h5py.Group):
                groups.append(entry)
                continue
            if not isinstance(entry, h5py.Dataset) or entry.external or entry.is_virtual:
                raise errors.UnsafeWeights(
                    f"{path} takes {printable(entry.name)!r} from elsewhere: nothing of it is read."
                )
            yield entry


def _check_parameters(blueprint, size: int, path: Path) -> None:
    parameters = sum(math.prod(variable.shape) for variable in blueprint.weights)
    if parameters > size:
        raise errors.InvalidConfig(
            f"{path} describes a model of {parameters} parameters, but has {size} bytes of weights."
        )
