"""The base of the engines of both backends: state, batches, evaluation."""

import keras
import numpy as np

from training.recipe import RecipeError


def named_variables(model, optimizer) -> list[tuple[str, object]]:
    """Return (key, variable) of model and optimizer, random states and averages included.

    The keys are numbered, since paths need not differ.
    """
    return [
        (f"{kind}/{index:04d}/{variable.path}", variable)
        for kind, owner in (("model", model), ("optimizer", optimizer))
        for index, variable in enumerate(owner.variables)
    ]


def _place(key: str) -> str:
    return "/".join(key.split("/")[:2])


def innermost(optimizer):
    """Return the optimizer inside all wrappers."""
    while hasattr(optimizer, "inner_optimizer"):
        optimizer = optimizer.inner_optimizer
    return optimizer


def averages_of(optimizer) -> list:
    """Return the averaged weights that an optimizer with ``use_ema`` keeps."""
    return innermost(optimizer)._model_variables_moving_average


class Engine:
    """Steps of one model."""

    hosts = 1

    def __init__(self, recipe, model, optimizer, replicas: int = 1):
        self.recipe, self.model, self.optimizer = recipe, model, optimizer
        batch, parts = recipe.batch_size, replicas * recipe.accumulate
        if batch % parts:
            near = [n for n in (batch // parts * parts, -(-batch // parts) * parts) if n]
            raise RecipeError(
                f"batch_size must be a multiple of replicas x accumulate = {replicas} x "
                f"{recipe.accumulate}: {' or '.join(map(str, near))} would do. Received: {batch}"
            )
        self.replicas, self.replica_batch = replicas, batch // replicas
        self.scaled = isinstance(optimizer, keras.optimizers.LossScaleOptimizer)

    def state(self) -> list[tuple[str, np.ndarray]]:
        """Return every value that the next step depends on, except the pictures."""
        return [(k, np.asarray(v.value)) for k, v in named_variables(self.model, self.optimizer)]

    def restore(self, state: dict[str, np.ndarray]) -> None:
        """Restore the values that :meth:`state` returned, in this process or in another.

        Paths in the keys may differ: Keras numbers the names of random states within a process.
        """
        values = {_place(key): value for key, value in state.items()}
        for key, variable in named_variables(self.model, self.optimizer):
            variable.assign(values[_place(key)])

    def evaluate(self, batches) -> dict[str, float]:
        """Return loss and accuracies (%) over batches of (images, classes, weights)."""
        total = sum(self.sums(batch) for batch in batches)
        loss, top1, top5, pictures = np.asarray(total, "float64")
        pictures = max(pictures, 1.0)
        return {
            "loss": loss / pictures,
            "top1": 100.0 * top1 / pictures,
            "top5": 100.0 * top5 / pictures,
        }

    def agree(self, value: float) -> float:
        """Return the largest of the values that the hosts hold."""
        return value
