"""An optimizer that trains groups of parameters at rates of their own."""

from __future__ import annotations

import keras
from keras import ops

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
        groups: from :func:`~nf_zoo.parameter_groups`, every trainable variable in one.
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
        >>> model.compile(optimizer, "sparse_categorical_crossentropy")
    """

    def __init__(self, optimizer, groups, coupled: bool = False, name: str = "grouped_optimizer"):
        super().__init__(optimizer, name=name)
        if getattr(optimizer, "weight_decay", None):
            raise ValueError(
                "The groups say what is decayed: give the wrapped optimizer weight_decay=None. "
                f"Received: weight_decay={optimizer.weight_decay!r}"
            )
        self.coupled = bool(coupled)
        self._rows = [_row(group) for group in groups]
        self._settings: list[tuple[float, float]] = []

    def build(self, variables):
        super().build(variables)
        known = {key: row[1:] for row in self._rows for key in row[0]}
        unknown = [v.path for v in variables if not {id(v), v.path} & set(known)]
        if unknown:
            raise ValueError(
                "Every trainable variable belongs in a group: pass those of "
                f"nf_zoo.parameter_groups(model). Received none with: {unknown[:5]}"
            )
        self._settings = [known[id(v)] if id(v) in known else known[v.path] for v in variables]

    def adjust(self, index, gradient, variable, learning_rate):
        scale, decay = self._settings[index]
        rate = learning_rate * scale
        if decay:
            weights = ops.convert_to_tensor(variable)
            if self.coupled:
                gradient = gradient + decay * weights
            else:
                shrinkage = ops.cast(rate * decay, weights.dtype)
                self.inner_optimizer.assign_sub(variable, weights * shrinkage)
        return gradient, variable, rate

    def get_config(self):
        groups = [
            {
                "paths": [key for key in keys if isinstance(key, str)],
                "learning_rate_scale": scale,
                "weight_decay": decay,
            }
            for keys, scale, decay in self._rows
        ]
        return {**super().get_config(), "groups": groups, "coupled": self.coupled}


def _row(group: ParameterGroup | dict) -> tuple[list, float, float]:
    """How the variables of a group are known (identity and path), rate scale and decay."""
    if isinstance(group, dict):  # loaded from a file
        return list(group["paths"]), group["learning_rate_scale"], group["weight_decay"]
    keys = [key for variable in group.variables for key in (id(variable), variable.path)]
    return keys, group.learning_rate_scale, group.weight_decay
