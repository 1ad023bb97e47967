"""Variables that the next step depends on."""

from __future__ import annotations

import numpy as np


def named_variables(model, optimizer) -> list[tuple[str, object]]:
    """Return (key, variable) of model and optimizer, random states and averages included.

    The keys are numbered, since paths need not differ.
    """
    return [
        (f"{kind}/{index:04d}/{variable.path}", variable)
        for kind, owner in (("model", model), ("optimizer", optimizer))
        for index, variable in enumerate(owner.variables)
    ]


def read_state(model, optimizer) -> list[tuple[str, np.ndarray]]:
    """Return the values of :func:`named_variables`."""
    return [(key, np.asarray(v.value)) for key, v in named_variables(model, optimizer)]


def write_state(model, optimizer, state: dict[str, np.ndarray]) -> None:
    """Restore the values that :func:`read_state` returned."""
    for key, variable in named_variables(model, optimizer):
        variable.assign(state[key])


def innermost(optimizer):
    """Return the optimizer inside all wrappers."""
    while hasattr(optimizer, "inner_optimizer"):
        optimizer = optimizer.inner_optimizer
    return optimizer


def averages_of(optimizer) -> list:
    """Return the averaged weights that an optimizer with ``use_ema`` keeps."""
    return innermost(optimizer)._model_variables_moving_average
