"""A model without values: what it would be, at the cost of none of its weights."""

from __future__ import annotations

import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any


def build_blueprint(name: str, **options: Any):
    """The graph of a model, its variables known by name and shape but not allocated.

    It answers questions of sizes and shapes; it cannot predict, be saved or be trained.

    Args:
        name: Architecture, such as "nfnet_f6".
        **options: As for :func:`~nf_zoo.models.classifier.build_model`.

    Returns:
        An :class:`~nf_zoo.models.classifier.ImageClassifier`.

    Raises:
        ValueError: on an unknown architecture or variant, or an illegal value.
        TypeError: on a field that the family does not have.

    Example:
        >>> build_blueprint("nfnet_f6", variant="paper").output_shape
        (None, 1000)
    """
    from nf_zoo.models.classifier import build_model

    return without_values(lambda: build_model(name, **options))


def without_values(make: Callable):
    """What ``make()`` returns, a model, with variables that are not allocated."""
    # Keras remembers what is still to be initialized, by thread: a thread of its own forgets it.
    with ThreadPoolExecutor(1) as executor:
        return executor.submit(_in_stateless_scope, make).result()


def _in_stateless_scope(make: Callable):
    import keras

    with keras.StatelessScope(initialize_variables=False):
        return make()


def count_parameters(model) -> int:
    """Trainable parameters of a model, or of a blueprint of one.

    Example:
        >>> count_parameters(build_blueprint("nfnet_f6", variant="paper"))
        438359116
    """
    return sum(math.prod(variable.shape) for variable in model.trainable_variables)
