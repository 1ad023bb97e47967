"""An optimizer that trains groups of parameters at rates of their own."""

from __future__ import annotations

import keras
from keras import ops

from nf_zoo.optimizers.identity import Mark, describe, find, missing
from nf_zoo.optimizers.parameter_groups import ParameterGroup
from nf_zoo.optimizers.wrapper import UpdateWrapper


@keras.saving.register_keras_serializable("nf_zoo")
class GroupedOptimizer(UpdateWrapper):
    """Gives each group of parameters its own learning rate and weight decay.

    The decay is decoupled, ``weights <- weights - rate * decay * weights`` before the update, with
    the group's own rate, or coupled: ``decay * weights`` is added to the gradient, and so goes
    through the momentum. The wrapped optimizer must therefore have none of its own.

    Args:
        optimizer: the Keras optimizer that does the updates, with ``weight_decay=None``.
        groups: from :func:`~nf_zoo.parameter_groups`, every trainable variable in one. A model that
            is saved and loaded, or cloned, keeps them.
        coupled: the decay is a part of the gradient, as in the published recipes with SGD
            (DeepMind nfnets ``optim.py``, PyTorch's ``SGD``).
        name: of the optimizer.

    Raises:
        ValueError: if the wrapped optimizer decays weights itself, or if it is built with a
            variable that is in none of the groups.

    Example:
        >>> import nf_zoo
        >>> model = nf_zoo.NFResNet26(num_classes=10)
        >>> groups = nf_zoo.parameter_groups(model, layer_decay=0.75, weight_decay=0.05)
        >>> optimizer = nf_zoo.GroupedOptimizer(keras.optimizers.SGD(0.01), groups)
        >>> loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        >>> model.compile(optimizer, loss)
    """

    def __init__(self, optimizer, groups, coupled: bool = False, name: str = "grouped_optimizer"):
        super().__init__(optimizer, name=name)
        if getattr(optimizer, "weight_decay", None):
            raise ValueError(
                "The groups say what is decayed: give the wrapped optimizer weight_decay=None, or "
                "AdamW weight_decay=0.0. "
                f"Received: weight_decay={optimizer.weight_decay!r}"
            )
        self.coupled = bool(coupled)
        self._rows = tuple(_row(group) for group in groups)
        self._settings: tuple[tuple[float, float], ...] = ()

    def prepare(self, variables):
        marks, settings = self._marked()
        known = dict(zip(find(marks, variables), settings, strict=True))
        unknown = [v.path for index, v in enumerate(variables) if index not in known]
        if unknown:
            lost = missing(marks, variables)
            raise ValueError(
                "Every trainable variable belongs in a group: pass those of "
                f"nf_zoo.parameter_groups(model). Received none with: {unknown[:5]}"
                + (f". Received groups with: {lost}" if lost else "")
            )
        self._settings = tuple(known[index] for index in range(len(variables)))

    def _marked(self) -> tuple[list[Mark], list[tuple[float, float]]]:
        """All variables of the groups, and the rate scale and decay of each."""
        marks = [mark for row in self._rows for mark in row[0]]
        return marks, [row[1:] for row in self._rows for _ in row[0]]

    def adjust(self, index, gradient, variable, learning_rate):
        scale, decay = self._settings[index]
        rate = learning_rate * scale
        if decay:
            weights = ops.convert_to_tensor(variable)
            if self.coupled:
                gradient = ops.add(gradient, decay * weights)
            else:
                shrinkage = ops.cast(rate * decay, weights.dtype)
                self.inner_optimizer.assign_sub(variable, weights * shrinkage)
        return gradient, variable, rate

    def get_config(self):
        rows = iter(describe(self._marked()[0], self.trained_variables()))
        groups = [
            {
                "variables": [next(rows) for _ in marks],
                "learning_rate_scale": scale,
                "weight_decay": decay,
            }
            for marks, scale, decay in self._rows
        ]
        return {**super().get_config(), "groups": groups, "coupled": self.coupled}


def _row(group: ParameterGroup | dict) -> tuple[tuple[Mark, ...], float, float]:
    """How the variables of a group are known, rate scale and decay."""
    if isinstance(group, dict):  # loaded from a file; those of version 0.1.0 say "paths"
        known = group["variables"] if "variables" in group else group["paths"]
        scale, decay = group["learning_rate_scale"], group["weight_decay"]
    else:
        known, scale, decay = group.variables, group.learning_rate_scale, group.weight_decay
    return tuple(Mark.make(one) for one in known), scale, decay
