"""Which layer a variable is of, and which model an optimizer is compiled into.

Keras hands an optimizer bare variables. They know neither their layer nor its type, and no hook of
Keras tells an optimizer its model. Both are therefore looked for among the living objects, which
takes about a tenth of a second, once when an optimizer is built and once when one is saved unbuilt.
A variable without a layer, or whose layer is not found (after ``gc.freeze()``), is no error here.
"""

from __future__ import annotations

import gc
from collections.abc import Sequence

import keras


def owners(variables: Sequence[keras.Variable]) -> list[list[keras.layers.Layer]]:
    """For each variable the layers that hold it themselves: one, more if it is shared."""
    found: dict[int, list[keras.layers.Layer]] = {id(variable): [] for variable in variables}
    for layer in _living(keras.layers.Layer):
        # Keras has no public list of a layer's own variables without those of its sublayers.
        for variable in vars(layer).get("_trainable_variables", ()):
            if id(variable) in found:
                found[id(variable)].append(layer)
    return [found[id(variable)] for variable in variables]


def compiled_model(optimizer: keras.optimizers.Optimizer) -> keras.Model | None:
    """The model whose optimizer this is, alone or inside another one."""
    for model in _living(keras.Model):
        outer = vars(model).get("optimizer")
        while outer is not None:
            if outer is optimizer:
                return model
            outer = getattr(outer, "inner_optimizer", None)
    return None


def _living(kind: type) -> list:
    # The type is asked: isinstance would wake proxies and modules that load on first use.
    return [thing for thing in gc.get_objects() if issubclass(type(thing), kind)]
