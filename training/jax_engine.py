"""Training and evaluation steps on one accelerator under JAX, for sets that fit in memory."""

import contextlib
import functools
import time
from concurrent.futures import ThreadPoolExecutor

import jax
import jax.numpy as jnp
import keras
import numpy as np
from absl import logging

from nf_zoo.layers import ScaledWSConv2D, given_kernels
from training import augmentation
from training.engine import Engine, averages_of, innermost


class JaxEngine(Engine):
    """Steps of one model.

    The training pictures, (N, H, W, 3) uint8, are kept on the accelerator where they fit
    (``resident``), and a batch then has their rows instead of images.
    """

    def __init__(self, recipe, model, optimizer, pictures=None):
        super().__init__(recipe, model, optimizer)
        self._standardized = [
            layer for layer in model._flatten_layers() if isinstance(layer, ScaledWSConv2D)
        ]
        self._read_variables()
        self.resident = pictures is not None and _fits(pictures)
        self._pictures = jnp.asarray(pictures) if self.resident else None
        self._iterations = _place(optimizer, innermost(optimizer).iterations)
        self._step = jax.jit(self._train_step, donate_argnums=(0, 1, 2), static_argnames="size")
        self._evaluate = jax.jit(self._evaluation_step)
        self._compiled: dict = {}

    def train_step(self, batch, size: int | None = None):
        """Update once, on pictures shrunk to ``size`` pixels; return the mean loss."""
        if size in self._compiled:
            step = self._compiled[size].result()
        else:
            step = functools.partial(self._step, size=size)
        *state, loss = step(*self._state, self._pictures, *batch)
        self._state = state
        return loss

    def compile_ahead(self, batch, sizes, test_batch) -> None:
        """Compile the step of the first size; start to compile other sizes and the evaluation."""
        started = time.monotonic()
        trainable, other, _ = self._state
        pool = ThreadPoolExecutor()
        for size in dict.fromkeys(sizes):
            lowered = self._step.lower(*self._state, self._pictures, *batch, size=size)
            self._compiled[size] = pool.submit(lowered.compile)
        evaluation = self._evaluate.lower(trainable, other, *test_batch)
        evaluate = pool.submit(evaluation.compile)
        self._evaluate = lambda *values: evaluate.result()(*values)
        pool.shutdown(wait=False)
        traced = time.monotonic()
        self._compiled[sizes[0]].result()
        logging.info(
            "Traced in %.0f s; compiled %.0f s later",
            *(traced - started, time.monotonic() - traced),
        )

    def iterations(self) -> int:
        """Return the position of the next step on the learning-rate schedule."""
        return int(self._state[2][self._iterations])

    def set_iterations(self, step: int) -> None:
        """Move to a step of the learning-rate schedule."""
        optimizer = self._state[2]
        optimizer[self._iterations] = jnp.asarray(step, optimizer[self._iterations].dtype)

    def sums(self, batch):
        """Return sums over a batch: loss, right at first, right among five, pictures."""
        return self._evaluate(*self._state[:2], *batch)

    @contextlib.contextmanager
    def averaged(self):
        """Give the model the averaged weights inside a ``with`` block."""
        raw = self._state[0]
        places = [_place(self.optimizer, variable) for variable in averages_of(self.optimizer)]
        self._state[0] = [self._state[2][place] for place in places]
        try:
            self.write_variables()
            yield
        finally:
            self._state[0] = raw
            self.write_variables()

    def state(self) -> list[tuple[str, np.ndarray]]:
        self.write_variables()
        return super().state()

    def restore(self, state: dict[str, np.ndarray]) -> None:
        super().restore(state)
        self._read_variables()

    def write_variables(self) -> None:
        """Write the values of the last step to the model and the optimizer."""
        for variables, values in zip(self._owners, self._state, strict=True):
            for variable, value in zip(variables, values, strict=True):
                variable.assign(value)

    def _read_variables(self) -> None:
        # Copies: the step gives the memory of its arguments to its results.
        self._state = [
            [jnp.array(variable.value) for variable in variables] for variables in self._owners
        ]

    @property
    def _owners(self) -> tuple:
        model = self.model
        return model.trainable_variables, model.non_trainable_variables, self.optimizer.variables

    def _kernels(self, trainable, other):
        """Return the standardized kernels, computed once a step, not for every micro-batch."""
        owners = zip(
            (*self.model.trainable_variables, *self.model.non_trainable_variables),
            (*trainable, *other),
            strict=True,
        )
        with keras.StatelessScope(state_mapping=list(owners)):
            return [layer.effective_kernel() for layer in self._standardized]

    def _loss(self, sources, constant, other, scale, images, targets):
        free, kernels = sources
        trainable = [a if b is None else b for a, b in zip(constant, free, strict=True)]
        with given_kernels(dict(zip(self._standardized, kernels, strict=True))):
            logits, other = self.model.stateless_call(trainable, other, images, training=True)
        logits = jnp.asarray(logits, "float32")
        losses = -jnp.sum(targets * jax.nn.log_softmax(logits), -1)
        loss = jnp.sum(losses) / self.recipe.batch_size
        return loss * scale, (loss, other)

    def _gradient(self, trainable, other, scale, images, targets):
        """Return ``(other, loss, gradients)`` of the batch, micro-batch by micro-batch."""
        kernels, back = jax.vjp(lambda trainable: self._kernels(trainable, other), trainable)
        inside = {id(v) for layer in self._standardized for v in (layer.kernel, layer.gain)}
        variables = zip(self.model.trainable_variables, trainable, strict=True)
        sources = [None if id(v) in inside else value for v, value in variables], kernels
        gradient = jax.grad(self._loss, has_aux=True)

        def add(carried, micro):
            other, total, sums = carried
            gradients, (loss, other) = gradient(sources, trainable, other, scale, *micro)
            return (other, total + loss, jax.tree.map(jnp.add, sums, gradients)), None

        start = (other, jnp.float32(0.0), jax.tree.map(jnp.zeros_like, sources))
        if self.recipe.accumulate == 1:
            (other, loss, gradients), _ = add(start, (images[0], targets[0]))
        else:
            (other, loss, gradients), _ = jax.lax.scan(add, start, (images, targets))
        free, upstream = gradients
        (through,) = back(upstream)
        return other, loss, [b if a is None else a for a, b in zip(free, through, strict=True)]

    def _train_step(self, trainable, other, optimizer, pictures, images, classes, draws, size=None):
        if pictures is not None:
            images = jnp.take(pictures, images, axis=0)
        images, targets = augmentation.vary(
            self.recipe, images, classes, draws, self.model.num_classes, size
        )
        count = self.recipe.accumulate
        images = images.reshape((count, -1, *images.shape[1:]))
        targets = targets.reshape((count, -1, *targets.shape[1:]))
        scale = 1.0
        if self.scaled:
            scale = optimizer[_place(self.optimizer, self.optimizer.dynamic_scale)]
        other, loss, gradients = self._gradient(trainable, other, scale, images, targets)
        updated = self.optimizer.stateless_apply(optimizer, gradients, trainable)
        if self.scaled:  # loss scaling itself skips steps with infinities
            return updated[0], other, updated[1], loss
        finite = jnp.isfinite(loss)
        for one in gradients:
            finite &= jnp.isfinite(jnp.max(jnp.abs(one)))
        keep = functools.partial(jnp.where, finite)
        trainable, optimizer = jax.tree.map(keep, updated, (trainable, optimizer))
        return trainable, other, optimizer, keep(loss, jnp.nan)

    def _evaluation_step(self, trainable, other, images, classes, weights):
        images = augmentation.for_test(self.recipe, images)
        logits, _ = self.model.stateless_call(trainable, other, images, training=False)
        logits = jnp.asarray(logits, "float32")
        chosen = jnp.take_along_axis(logits, classes[:, None], 1)
        losses = -jnp.take_along_axis(jax.nn.log_softmax(logits), classes[:, None], 1)[:, 0]
        # An answer that is not finite is wrong, as TensorFlow's in_top_k has it.
        finite = jnp.all(jnp.isfinite(logits), 1)
        rank = jnp.where(finite, jnp.sum(logits > chosen, 1), logits.shape[1])
        columns = [losses, rank < 1, finite & (rank < 5), jnp.ones_like(losses)]
        return jnp.sum(jnp.stack(columns, 1) * weights[:, None], 0)


def _place(optimizer, variable) -> int:
    """Return the index of a variable among the optimizer's."""
    return next(place for place, one in enumerate(optimizer.variables) if one is variable)


def _fits(pictures) -> bool:
    """Return True if the pictures take at most a quarter of the accelerator's memory."""
    memory = jax.devices()[0].memory_stats() or {}
    return pictures.nbytes <= memory.get("bytes_limit", np.inf) / 4
