"""Description of a model: its config.json, which is never trusted, and its graph without values."""

import dataclasses
import json
import math
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from nf_zoo.backend import is_out_of_memory
from nf_zoo.hub import timm_config
from nf_zoo.hub.errors import InvalidConfig, first_few, printable
from nf_zoo.hub.untrusted.documents import fields_of, read_json
from nf_zoo.pictures.class_folders import check_lines
from nf_zoo.pictures.preprocessing import Preprocessing

CONFIG_FILE = "config.json"
LARGEST = {"num_classes": 1_000_000, "depths": 1000}
LARGEST_OTHERWISE = 65_536
MOST_ENTRIES = 16
LONGEST_NAME, LONGEST_LABEL, LONGEST_MESSAGE = 100, 1000, 2000

_FIELDS: dict[str, type | tuple[type, ...]] = {
    "nf_zoo_version": str,
    "architecture": str,
    "options": dict,
    "preprocessing": dict,
    "labels": (list, type(None)),
}
_OPTIONS: dict[str, type | tuple[type, ...]] = {
    "num_classes": int,
    "input_shape": list,
    "classifier_activation": (str, type(None)),
    "include_preprocessing": bool,
    "pooling": (str, type(None)),
    "features_only": bool,
    "out_indices": (list, type(None)),
}
"""The options of the graph; those of the architecture are checked by its record."""
_PART_FIELDS: dict[str, type | tuple[type, ...]] = {
    "trainable": bool,
    "dtype": str,
    "lora_rank": int,
    "lora_alpha": (int, float),
}
MOST_PARTS = 20_000
_COUNTS = ("num_classes", "input_shape")


@dataclass(frozen=True)
class ModelConfig:
    """Everything needed to rebuild a model."""

    architecture: str  # a name of the registry, e.g. ``"nf_resnet50"``
    # arguments of ``build_model`` other than those below; plain JSON values
    options: Mapping[str, Any] = field(default_factory=dict)
    preprocessing: Preprocessing = field(default_factory=Preprocessing)
    labels: tuple[str, ...] | None = None  # its class names, or None for ImageNet's
    # settings made on its layers by hand, as from ``ImageClassifier.layer_states``
    states: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, model) -> Self:
        """Return the configuration of an ``ImageClassifier``."""
        return cls(
            model.architecture,
            model.options(),
            model.preprocessing,
            model.labels,
            model.layer_states(),
        )

    def to_json(self) -> str:
        """Return the text of config.json."""
        import nf_zoo

        labels = None if self.labels is None else list(self.labels)
        document = {
            "nf_zoo_version": nf_zoo.__version__,
            "architecture": self.architecture,
            "options": dict(self.options),
            "preprocessing": self.preprocessing.to_dict(),
            "labels": labels,
            **self.states,
        }
        return json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False) + "\n"

    def arguments(self) -> dict[str, Any]:
        """Return the keyword arguments for ``build_model(architecture, ...)``."""
        arguments = {**self.options, "preprocessing": self.preprocessing}
        return arguments if self.labels is None else {**arguments, "labels": self.labels}

    def build(self, origin: str | Path = CONFIG_FILE):
        """Build the model, freshly initialized; ``InvalidConfig`` names ``origin``."""
        from nf_zoo.models.classifier import build_model

        def make(architecture: str, **arguments):
            model = build_model(architecture, **arguments)
            model.set_layer_states(**self.states)
            return model

        return self._made_by(make, origin)

    def blueprint(self, origin: str | Path = CONFIG_FILE):
        """Build the model without allocating its weights. Raises as ``build``."""
        return without_values(lambda: self.build(origin))

    def check_blocks(self, origin: str | Path, stored: int) -> None:
        """Refuse more residual blocks than ``stored`` arrays. Raises as ``build``.

        A backbone of the first maps stores fewer arrays than it has blocks: it may have as many as
        the network of its name, if that is in the tables.
        """
        from nf_zoo.models.registry import architecture, architectures

        def count(name: str, depths=None, **_) -> int:
            return sum(depths or architecture(name).config.depths)

        blocks = self._made_by(count, origin)
        if self.options.get("features_only") and self.architecture in architectures():
            stored = max(stored, count(self.architecture))
        if blocks > stored:
            raise InvalidConfig(
                f"{origin} asks for {blocks} residual blocks, but its weights are {stored} arrays "
                "in all."
            )

    def _made_by(self, make: Callable, origin: str | Path):
        try:
            return make(self.architecture, **self.arguments())
        # Layers raise what they happen to raise; impossible sizes overflow, or exhaust the memory.
        except Exception as error:
            if is_out_of_memory(error) and not isinstance(error, MemoryError):
                raise
            raise InvalidConfig(
                f"{origin} does not describe a model of nf_zoo: {printable(error, LONGEST_MESSAGE)}"
            ) from error


def read_config(path: Path) -> ModelConfig:
    """Read config.json as nf_zoo or timm writes it."""
    try:
        document = read_json(path)
    except (OSError, ValueError) as error:
        raise InvalidConfig(f"{path} cannot be read as JSON: {printable(error)}") from error
    try:
        if isinstance(document.get("pretrained_cfg"), dict):
            return _from_timm(document)
        return parse_config(document)
    except (ValueError, TypeError, KeyError) as error:
        raise InvalidConfig(f"{path}: {printable(error, LONGEST_MESSAGE)}") from error


def is_readable_config(path: Path) -> bool:
    """Check that a config.json is ours or timm's, not another library's."""
    return bool({"nf_zoo_version", "pretrained_cfg"} & fields_of(path))


def is_keras_config(path: Path) -> bool:
    """Check that a config.json is the one Keras writes when it saves a model as a folder."""
    return {"class_name", "registered_name"} <= fields_of(path)


def parse_config(document: dict[str, Any]) -> ModelConfig:
    """Check every field of nf_zoo's config.json and return them."""
    states = {name: document[name] for name in ("trainable", "parts") if name in document}
    unknown = sorted(set(document) - set(_FIELDS) - set(states))
    missing = sorted(set(_FIELDS) - set(document))
    if missing or unknown:
        raise ValueError(
            f"not a config.json of nf_zoo: missing fields: {', '.join(missing) or 'none'}; "
            f"unknown fields: {first_few(unknown) or 'none'}"
        )
    for name, wanted in _FIELDS.items():
        if not isinstance(document[name], wanted):
            raise TypeError(f"{name!r} is of the wrong type. Received: {_shown(document[name])}")
    _check_states(**states)
    config = _checked(
        document["architecture"], document["options"], document["preprocessing"], document["labels"]
    )
    return dataclasses.replace(config, states=states)


def _check_states(trainable: Any = True, parts: Any = None) -> None:
    """Check the settings of layers, by path, and that there are not too many."""
    if not isinstance(trainable, bool):
        raise TypeError(f"'trainable' must be true or false. Received: {_shown(trainable)}")
    if not isinstance(parts, dict | None) or len(parts or {}) > MOST_PARTS:
        raise TypeError(f"'parts' must be an object of {MOST_PARTS} entries at most")
    for path, state in (parts or {}).items():
        kinds = {name: _PART_FIELDS.get(name) for name in state} if isinstance(state, dict) else {}
        fits = all(kind and isinstance(state[name], kind) for name, kind in kinds.items())
        numbers = [value for value in state.values() if not isinstance(value, str)] if kinds else []
        if not kinds or not fits or not all(0 <= n <= LARGEST_OTHERWISE for n in numbers):
            raise TypeError(
                f"part {_shown(path)} cannot have this state. Received: {_shown(state)}"
            )


def _checked(
    architecture: str, options: dict[str, Any], preprocessing: dict[str, Any], labels: Any
) -> ModelConfig:
    if len(architecture) > LONGEST_NAME:
        raise ValueError(f"no architecture has such a long name. Received: {_shown(architecture)}")
    _check_options(options)
    labels, classes = _labels(labels), options.get("num_classes")
    if labels is not None and classes is not None and len(labels) != classes:
        raise ValueError(f"{len(labels)} labels for {classes} classes")
    preparation = Preprocessing.from_dict(preprocessing)
    if max(preparation.input_size) > LARGEST_OTHERWISE:
        raise ValueError(f"no picture is that large. Received: {preparation.input_size}")
    return ModelConfig(architecture, options, preparation, labels)


def _from_timm(document: dict[str, Any]) -> ModelConfig:
    """Read timm's config.json, with its settings for evaluation."""
    if not isinstance(document["architecture"], str):
        raise TypeError(f"'architecture' must be a name. Received: {document['architecture']!r}")
    options = timm_config.options(document)
    _check_options(options)  # before any labels are listed for an impossible number of classes
    return _checked(
        document["architecture"],
        options,
        timm_config.preprocessing(document),
        timm_config.labels(document, options["num_classes"]),
    )


def _labels(labels: Any) -> tuple[str, ...] | None:
    if labels is None:
        return None
    if not isinstance(labels, list) or not all(isinstance(label, str) for label in labels):
        raise TypeError("'labels' must be a list of strings, or null for ImageNet's")
    if any(len(label) > LONGEST_LABEL for label in labels):
        raise ValueError(f"a label is longer than {LONGEST_LABEL} characters")
    check_lines(labels)
    return tuple(labels)


def _check_options(options: dict[str, Any]) -> None:
    """Accept only plain values of plausible size: none can exhaust memory or run code."""
    for name, value in options.items():
        entries = value if isinstance(value, list) else [value]
        largest = LARGEST.get(name, LARGEST_OTHERWISE)
        if len(entries) > MOST_ENTRIES:
            raise ValueError(
                f"option {name!r} must have at most {MOST_ENTRIES} entries. "
                f"Received: {len(entries)} entries"
            )
        for entry in entries:
            if entry is not None and not isinstance(entry, bool | int | float | str):
                raise TypeError(f"option {name!r} must be a plain value. Received: {_shown(entry)}")
            if isinstance(entry, int | float) and not abs(entry) <= largest:
                raise ValueError(
                    f"option {name!r} must be at most {largest}. Received: {_shown(entry)}"
                )
        is_misplaced_bool = name in _COUNTS and any(isinstance(entry, bool) for entry in entries)
        if is_misplaced_bool or not isinstance(value, _OPTIONS.get(name, object)):
            raise TypeError(f"option {name!r} is of the wrong type. Received: {_shown(value)}")


def _shown(value: Any) -> str:
    return printable(repr(value))


def build_blueprint(name: str, **options: Any):
    """Build the graph of a model; its variables have names and shapes but no memory.

    It takes the arguments of ``build_model``. A blueprint answers questions of sizes and shapes; it
    cannot predict, be saved or be trained.
    """
    from nf_zoo.models.classifier import build_model

    return without_values(lambda: build_model(name, **options))


def without_values(make: Callable):
    """Return the model that ``make()`` builds, with variables that are not allocated."""
    import keras

    def made():
        with keras.StatelessScope(initialize_variables=False):
            return make()

    # Keras remembers per thread which variables await initialization: a short-lived thread forgets.
    with ThreadPoolExecutor(1) as executor:
        return executor.submit(made).result()


def count_parameters(model) -> int:
    """Count the trainable parameters of a model or of its blueprint."""
    return sum(math.prod(variable.shape) for variable in model.trainable_variables)
