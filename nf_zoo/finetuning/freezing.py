"""Parts of a network that fine-tuning leaves as they are."""

import re
from collections.abc import Sequence

import keras

from nf_zoo.models.classifier import variable_names

BATCH_NORM = "batch_norm"


def flags_of(model) -> list[tuple]:
    """Return every layer and every variable of a model that could be trained, with ``trainable``.

    Outer layers come first, since each sets the layers and variables inside it too; variables come
    last, since under TensorFlow a layer that is trainable already does not set them.
    """
    layers = list(model._flatten_layers(include_self=False))
    variables = [v for layer in layers for v in layer._trainable_variables]
    return [(one, one.trainable) for one in (*layers, *variables)]


def set_trainable(model, flags: list[tuple], body: bool) -> None:
    """Make the head trainable, or everything as ``flags`` has it, which :func:`flags_of` made."""
    for one, flag in flags:
        one.trainable = flag
    for layer in model.layers:
        if not body and layer is not model.head:
            layer.trainable = False


def freeze(model, patterns: Sequence[str]) -> None:
    """Freeze variables, and layers of which all variables are: their statistics stay too.

    A pattern is ``"batch_norm"``, or a regular expression for published names of variables, as
    ``variable_names`` has them, or for a part that they begin with, such as ``"stage1"``.
    """
    names = {id(variable): name for name, variable in variable_names(model).items()}
    layers = list(model._flatten_layers(include_self=False, recursive=True))
    for pattern in patterns:
        if pattern == BATCH_NORM:
            # A network without batch normalization has none to freeze, and that is no mistake.
            for layer in layers:
                if isinstance(layer, keras.layers.BatchNormalization):
                    layer.trainable = False
            continue
        inside = re.compile(f"(?:{pattern})(?:/.*)?")
        frozen = {key for key, name in names.items() if inside.fullmatch(name)}
        if not frozen:
            parts = sorted({name.partition("/")[0] for name in names.values()})
            raise ValueError(
                "freeze must name parts or variables of the network: "
                f"{', '.join(parts)}, {BATCH_NORM} or a regular expression. Received: {pattern!r}"
            )
        for layer in layers:
            variables = (*layer._trainable_variables, *layer._non_trainable_variables)
            own = [v for v in variables if id(v) in names]
            if own and all(id(v) in frozen for v in own):
                layer.trainable = False
            for variable in own:
                if id(variable) in frozen:
                    variable.trainable = False


def has_batch_statistics(model) -> bool:
    """Return True if some layer normalizes by the statistics of the batch in training."""
    kind = keras.layers.BatchNormalization
    return any(isinstance(layer, kind) and layer.trainable for layer in model._flatten_layers())
