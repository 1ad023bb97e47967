"""Errors that end a run with one line."""

from __future__ import annotations

import keras


def expected_errors() -> tuple[type[Exception], ...]:
    """Return the errors of a run that are no fault of the program."""
    from training.loop import Diverged
    from training.recipe import RecipeError

    if keras.backend.backend() != "tensorflow":
        return (RecipeError, Diverged, OSError)
    import tensorflow as tf

    return (
        RecipeError,
        Diverged,
        OSError,
        tf.errors.UnavailableError,
        tf.errors.AbortedError,
        tf.errors.ResourceExhaustedError,
    )
