"""Identity of variables, their layers, and the model that an optimizer is compiled into.

A path alone does not identify a variable. Keras numbers names within a process, drops the name of
a Sequential on loading, and prepends the names of scopes and outer models. So a variable is known
by identity; in a config by its position in the list that the optimizer is built with; and if that
list has changed, for example because layers were frozen, by the part of its path that still fits.

Keras gives an optimizer bare variables, which know neither their layer nor its type, and has no
hook that tells an optimizer its model. Both are searched for among the living objects. This takes
about a tenth of a second, once when an optimizer is built and once when one is saved unbuilt. A
variable without a layer, or whose layer is not found (after ``gc.freeze()``), is no error here.
"""

import dataclasses
import gc
import re
from collections.abc import Sequence
from typing import Any, Self

import keras


@dataclasses.dataclass(frozen=True, eq=False)
class Mark:
    """Record that identifies one variable."""

    path: str  # path of the variable, or the one that a config or the user gives
    shape: tuple[int, ...] | None = None  # shape of the variable; None if only the path is known
    # place in the list that the optimizer was built with; None if it was not there
    position: int | None = None
    of: int | None = None  # length of that list; None if the optimizer was not built
    frozen: bool = False  # whether the variable was not trained, and so need not be found
    variable: keras.Variable | None = None  # the variable itself; None if the mark is from a config

    @classmethod
    def make(cls, known: keras.Variable | str | dict[str, Any]) -> Self:
        """Make the mark of a variable, of a path, or of a record from :func:`describe`."""
        if isinstance(known, str):
            return cls(known)
        if isinstance(known, dict):
            shape = known["shape"]
            return cls(**{**known, "shape": shape if shape is None else tuple(shape)})
        return cls(known.path, tuple(known.shape), variable=known)

    @property
    def may_be_absent(self) -> bool:
        return self.frozen if self.variable is None else not self.variable.trainable

    def fits(self, variable: keras.Variable) -> bool:
        """Return True if the variable has this shape and this name within its layer."""
        names = [_unnumbered(path.rpartition("/")[2]) for path in (self.path, variable.path)]
        return names[0] == names[1] and self.shape in (None, tuple(variable.shape))

    def stands(self, variables: Sequence[keras.Variable]) -> bool:
        """Return True if the position is valid: the list is as long, and the variable fits."""
        if self.of != len(variables):
            return False
        return self.position is None or self.fits(variables[self.position])


def find(marks: Sequence[Mark], variables: Sequence[keras.Variable]) -> list[int | None]:
    """Return the position of each marked variable in an optimizer's list; None if it is absent."""
    positions = {id(variable): index for index, variable in enumerate(variables)}
    found = [positions.get(id(mark.variable)) for mark in marks]
    loaded = [number for number, mark in enumerate(marks) if mark.variable is None]
    if not all(marks[number].stands(variables) for number in loaded):
        _find_by_path(marks, loaded, found, variables)
        return found
    return [
        one if mark.variable is not None else mark.position
        for mark, one in zip(marks, found, strict=True)
    ]


def describe(marks: Sequence[Mark], variables: Sequence[keras.Variable] | None) -> list[dict]:
    """Return the marks for a config, JSON-able; ``variables`` is None if they are unknown."""
    rows = []
    found = find(marks, variables) if variables is not None else [None] * len(marks)
    for mark, position in zip(marks, found, strict=True):
        if position is not None:
            mark = Mark.make(variables[position])
        if variables is not None:
            mark = dataclasses.replace(mark, position=position, of=len(variables))
        shape = None if mark.shape is None else list(mark.shape)
        row = {"path": mark.path, "shape": shape, "position": mark.position, "of": mark.of}
        rows.append({**row, "frozen": mark.may_be_absent})
    return rows


def missing(marks: Sequence[Mark], variables: Sequence[keras.Variable]) -> str:
    """Return a sentence on the marks that are missing in the list; "" if none is."""
    lost = [
        mark
        for mark, position in zip(marks, find(marks, variables), strict=True)
        if position is None and not mark.may_be_absent
    ]
    if not lost:
        return ""
    like = [v.path for v in variables if any(mark.fits(v) for mark in lost)]
    return (
        f"{[mark.path for mark in lost[:5]]}, which matches none of the trained variables, or "
        f"several. Variables of that name and shape: {like[:8]}"
    )


def _find_by_path(marks, loaded, found, variables) -> None:
    """Fill in the positions of the loaded marks, the closest paths first."""
    free = set(range(len(variables))) - set(found)
    for close in (str.__eq__, _one_ends_with_the_other, _alike_but_for_numbers):
        for number in loaded:
            mark = marks[number]
            # A variable that was in a list, or was frozen, may be absent now. Another one with a
            # similar name must not take its place.
            strict = mark.frozen or mark.of is not None
            if found[number] is not None or (strict and close is _alike_but_for_numbers):
                continue
            near = [
                i for i in free if mark.fits(variables[i]) and close(mark.path, variables[i].path)
            ]
            if len(near) == 1:
                found[number] = near[0]
                free.remove(near[0])


def _one_ends_with_the_other(one: str, other: str) -> bool:
    """Compare whole names, and not only the name of the attribute."""
    shorter, longer = sorted((one, other), key=len)
    return longer == shorter or ("/" in shorter and longer.endswith(f"/{shorter}"))


def _alike_but_for_numbers(one: str, other: str) -> bool:
    return _one_ends_with_the_other(_unnumbered(one), _unnumbered(other))


def _unnumbered(path: str) -> str:
    """Turn ``"model_1/dense_3/kernel"`` into ``"model/dense/kernel"``."""
    return re.sub(r"_\d+(?=/|$)", "", path)


def owners(variables: Sequence[keras.Variable]) -> list[list[keras.layers.Layer]]:
    """Return for each variable the layers that hold it directly: several if it is shared."""
    found: dict[int, list[keras.layers.Layer]] = {id(variable): [] for variable in variables}
    for layer in _living(keras.layers.Layer):
        # Keras has no public list of a layer's own variables without its sublayers' variables.
        for variable in vars(layer).get("_trainable_variables", ()):
            if id(variable) in found:
                found[id(variable)].append(layer)
    return [found[id(variable)] for variable in variables]


def compiled_model(optimizer: keras.optimizers.Optimizer) -> keras.Model | None:
    """Return the model that uses this optimizer, alone or inside another one."""
    for model in _living(keras.Model):
        outer = vars(model).get("optimizer")
        while outer is not None:
            if outer is optimizer:
                return model
            outer = getattr(outer, "inner_optimizer", None)
    return None


def _living(kind: type) -> list:
    # isinstance would wake proxies and modules that load on first use; type() does not.
    return [thing for thing in gc.get_objects() if issubclass(type(thing), kind)]
