"""Training of very deep networks, in which the equal blocks of a stage share one traced body.

Tracing a thousand layers takes minutes. But the blocks of a stage after its first are one layer
with different weights. Here these weights are stacked, and a loop runs the layer that
``nf_zoo.models`` made over them: forward, and backward by its vector-Jacobian product, which also
gives the gradient at every block. The number of turns is an argument, so one program serves every
depth.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import keras
import numpy as np
from keras import ops

from nf_zoo.backend import compiled
from nf_zoo.models import registry
from nf_zoo.models.norm_free import variance_ledger

MOMENTUM = 0.9


@dataclasses.dataclass
class State:
    """A network in training."""

    turns: Any  # number of turns of every repeated block, int32 scalar
    # per segment, the arrays of its variables; stacked if the segment is repeated
    weights: list[list[Any]]
    velocities: list[list[Any]]  # velocities of the momentum, likewise
    betas: list[Any]  # beta per segment; (largest number of turns,) if the segment is repeated


class RepeatedBlocks:
    """Wide ResNet of up to ``most`` blocks per stage, trained by plain SGD with momentum.

    The layers that run are those of the template, with two blocks per stage.
    """

    def __init__(self, template: keras.Model, most: int):
        if set(template.config.depths) != {2}:
            raise ValueError(
                "The template must have two blocks in every stage. "
                f"Received: depths={template.config.depths}"
            )
        self.template, self.room = template, max(most - 1, 1)
        self.segments = _segments_of(template)
        self._run = compiled(self._updates)

    def draw(self, depth: int, seed: int) -> State:
        """Draw weights for ``depth`` blocks per stage from the layers' own initializers."""
        depths = (depth,) * len(self.template.config.depths)
        config = dataclasses.replace(self.template.config, depths=depths)
        seeds = iter(np.random.SeedSequence(seed).generate_state(1 << 16) >> 1)
        weights = [self._draw_segment(segment, config, seeds) for segment in self.segments]
        return self.state(config, weights)

    def state(self, config, weights: list[list[np.ndarray]]) -> State:
        """Return the state of weights, (depth - 1, ...) per variable of a repeated block."""
        turns = config.depths[0] - 1
        betas = self._betas(config)
        arrays = [
            [self._padded(array) if segment.repeated else array for array in own]
            for segment, own in zip(self.segments, weights, strict=True)
        ]
        tensors = keras.tree.map_structure(lambda a: ops.convert_to_tensor(a, "float32"), arrays)
        still = keras.tree.map_structure(ops.zeros_like, tensors)
        return State(ops.convert_to_tensor(turns, "int32"), tensors, still, betas)

    def train(self, state: State, images, labels, batches: np.ndarray, rate: float):
        """Make one update per row of ``batches``, indices (updates, batch size) of pictures.

        Return (losses, gradient norms, new state). There is one loss per update, from before it.
        The gradient norms are means over the updates of the norm of the loss's gradient with
        respect to the input of every block, in depth order, and the output of the last.
        """
        images, rate = (ops.convert_to_tensor(x, "float32") for x in (images, rate))
        labels, rows = (ops.convert_to_tensor(x, "int32") for x in (labels, batches))
        before = (state.turns, state.betas, state.weights, state.velocities)
        losses, norms, weights, velocities = self._run(*before, images, labels, rows, rate)
        turns = int(state.turns)
        norms = [
            ops.convert_to_numpy(norm)[: turns if segment.repeated else 1]
            for segment, norm in zip(self.segments[1:], norms, strict=True)
        ]
        new = dataclasses.replace(state, weights=weights, velocities=velocities)
        return ops.convert_to_numpy(losses), np.concatenate(norms) / len(batches), new

    def _draw_segment(self, segment: Segment, config, seeds: Iterator[int]) -> list[np.ndarray]:
        count = config.depths[0] - 1
        arrays = []
        for layer in segment.layers:
            fresh = self._like(layer, config)
            for variable, own in zip(fresh.trainable_variables, _initializers(fresh), strict=True):
                value = ops.convert_to_numpy(variable)
                copies = [
                    value if own is None else _draw(own, value.shape, int(next(seeds)))
                    for _ in range(count if segment.repeated else 1)
                ]
                empty = np.zeros((0, *value.shape), "float32")
                arrays.append(np.stack(copies) if copies else empty)
        return arrays if segment.repeated else [array[0] for array in arrays]

    def _like(self, layer, config):
        """Return a fresh layer for the network of ``config``, whose depth sets its scales."""
        own = layer.get_config()
        if "num_blocks" in own:
            own["num_blocks"] = sum(config.depths)
        if own.get("skip_gain"):
            family = registry.architecture(self.template.architecture).record
            own["skip_gain"] = family.resolve(config)[1].initial_gain
        fresh = type(layer).from_config(own)
        fresh.build(layer.input.shape)
        return fresh

    def _betas(self, config) -> list:
        """Return 1 / the expected deviation before every block, per segment."""
        ledger = variance_ledger(config.depths, getattr(config, "alpha", 0.0))
        betas = [ops.ones(())]
        for stage in range(len(config.depths)):
            own = [row.beta for row in ledger if row.stage == stage + 1]
            betas += [
                ops.convert_to_tensor(own[0], "float32"),
                ops.convert_to_tensor(self._padded(np.array(own[1:])), "float32"),
            ]
        return [*betas, ops.ones(())]

    def _padded(self, stack: np.ndarray) -> np.ndarray:
        room = np.zeros((self.room - len(stack), *stack.shape[1:]), "float32")
        return np.concatenate([stack, room])

    def _updates(self, turns, betas, weights, velocities, images, labels, batches, rate):
        structure = (weights, velocities)
        count = batches.shape[0]
        room = [self.room if segment.repeated else 1 for segment in self.segments[1:]]
        norms = [ops.zeros((n,)) for n in room]

        def update(i, losses, norms, *arrays):
            weights, velocities = keras.tree.pack_sequence_as(structure, list(arrays))
            x, y = (ops.take(a, batches[i], axis=0) for a in (images, labels))
            loss, gradients, weights, velocities = self._update(
                turns, betas, weights, velocities, x, y, rate
            )
            norms = [a + b for a, b in zip(norms, gradients, strict=True)]
            arrays = keras.tree.flatten((weights, velocities))
            return i + 1, put(losses, loss, i), norms, *arrays

        start = (ops.zeros((), "int32"), ops.zeros((count,)), norms)
        _, losses, norms, *arrays = ops.while_loop(
            lambda i, *_: i < count, update, (*start, *keras.tree.flatten(structure))
        )
        return losses, norms, *keras.tree.pack_sequence_as(structure, list(arrays))

    def _update(self, turns, betas, weights, velocities, x, y, rate):
        """Make one step; return the loss, gradient norms behind the stem, weights, velocities."""
        inputs = []
        for segment, own, beta in zip(self.segments[:-1], weights, betas, strict=False):
            inputs.append(x)
            if segment.repeated:
                x, inputs[-1] = repeat(segment, own, beta, turns, x)
            else:
                x = segment(own, x, beta)
        tail = self.segments[-1]
        loss, pull = vector_jacobian(lambda w, x: loss_of(tail(w, x), y), weights[-1], x)
        gradient, upstream = pull(ops.ones_like(loss))
        moved = [momentum(weights[-1], velocities[-1], gradient, rate)]
        norms = [norm_of(upstream)]
        for k in reversed(range(len(inputs))):
            arguments = (self.segments[k], weights[k], velocities[k], betas[k], inputs[k], upstream)
            if self.segments[k].repeated:
                upstream, norm, *pair = back_through_turns(*arguments, turns, rate)
            else:
                upstream, *pair = back(*arguments, rate)
                norm = norm_of(upstream)
            moved.append(tuple(pair))
            norms.append(norm)
        weights, velocities = (list(side) for side in zip(*reversed(moved), strict=True))
        # The last norm is that of the pictures.
        return loss, norms[-2::-1], weights, velocities


def _segments_of(template: keras.Model) -> tuple[Segment, ...]:
    """Return the stem, the first and the repeated block of every stage, and the layers after."""
    layers, blocks = template.layers[1:], template.blocks
    first, last = (layers.index(blocks[i]) for i in (0, -1))
    stages = [
        segment
        for entry, body in zip(blocks[::2], blocks[1::2], strict=True)
        for segment in (Segment((entry,)), Segment((body,), repeated=True))
    ]
    return (Segment(tuple(layers[:first])), *stages, Segment(tuple(layers[last + 1 :])))


def _initializers(layer) -> list:
    """Return the random initializer of each trainable variable; None if it starts constant."""
    kernels = {
        id(part.kernel): part.kernel_initializer
        for part in layer._flatten_layers()
        if hasattr(part, "kernel_initializer")
    }
    found = [kernels.get(id(variable)) for variable in layer.trainable_variables]
    return [own if own is not None and "seed" in own.get_config() else None for own in found]


def _draw(initializer, shape: tuple[int, ...], seed: int) -> np.ndarray:
    own = type(initializer).from_config({**initializer.get_config(), "seed": seed})
    return ops.convert_to_numpy(own(shape))


@dataclasses.dataclass(frozen=True)
class Segment:
    """A stretch of a network: layers that run once, or one block that is repeated."""

    # layers of the template, in order; a single one if it is repeated
    layers: tuple[keras.layers.Layer, ...]
    repeated: bool = False  # whether the weights are stacked and the layer runs over them

    @property
    def variables(self) -> list[keras.Variable]:
        """Trainable variables, in the order of ``weights``."""
        return [v for layer in self.layers for v in layer.trainable_variables]

    def __call__(self, weights: list, x, beta=None):
        """Return the output, as in training, with these weights instead of the layers' own."""
        # BatchNorm's updates of its moving statistics are dropped with the scope.
        with keras.StatelessScope(list(zip(self.variables, weights, strict=True))):
            for layer in self.layers:
                with _with_beta(layer, beta):
                    x = layer(x, training=True)
        return x


@contextlib.contextmanager
def _with_beta(layer, beta) -> Iterator[None]:
    """Set the beta of a normalizer-free block, which is not a variable, until exit."""
    if beta is None or not hasattr(layer, "alpha"):
        yield
        return
    own = layer.beta
    layer.beta = beta
    try:
        yield
    finally:
        layer.beta = own


def repeat(segment: Segment, weights, betas, turns, x):
    """Return the output of the turns, and the input of every turn."""

    def turn(i, x, inputs):
        return i + 1, segment(_pick(weights, i), x, betas[i]), put(inputs, x, i)

    start = (ops.zeros((), "int32"), x, ops.zeros((betas.shape[0], *x.shape), x.dtype))
    _, x, inputs = ops.while_loop(lambda i, *_: i < turns, turn, start)
    return x, inputs


def back(segment: Segment, weights, velocities, beta, x, upstream, rate):
    """Return the gradient of the input, and weights and velocities after the update."""
    _, pull = vector_jacobian(lambda w, x: segment(w, x, beta), weights, x)
    gradient, upstream = pull(upstream)
    return upstream, *momentum(weights, velocities, gradient, rate)


def back_through_turns(segment: Segment, weights, velocities, betas, inputs, upstream, turns, rate):
    """Do the same as ``back`` for all turns, last first; also return each input's gradient norm."""
    count = len(weights)

    def turn(i, upstream, norms, *stacks):
        own = _pick(stacks, i)
        upstream, weights, velocities = back(
            segment, own[:count], own[count:], betas[i], inputs[i], upstream, rate
        )
        stacks = [put(s, a, i) for s, a in zip(stacks, weights + velocities, strict=True)]
        return i - 1, upstream, put(norms, norm_of(upstream), i), *stacks

    start = (turns - 1, upstream, ops.zeros(betas.shape))
    _, upstream, norms, *stacks = ops.while_loop(
        lambda i, *_: i >= 0, turn, (*start, *weights, *velocities)
    )
    return upstream, norms, stacks[:count], stacks[count:]


def momentum(weights, velocities, gradients, rate):
    """Return weights and velocities after an update of Keras's SGD with momentum."""
    velocities = [MOMENTUM * v + g for v, g in zip(velocities, gradients, strict=True)]
    return [w - rate * v for w, v in zip(weights, velocities, strict=True)], velocities


def loss_of(logits, labels):
    """Return the mean cross-entropy of logits (N, classes) and integer labels (N,)."""
    losses = keras.losses.sparse_categorical_crossentropy(labels, logits, from_logits=True)
    return ops.mean(losses)


def norm_of(gradient):
    """Return the norm, shape (1,), scaled so that squares of small values do not underflow."""
    largest = ops.max(ops.abs(gradient))
    scale = ops.where(largest > 0, largest, ops.ones_like(largest))
    return ops.reshape(scale * ops.sqrt(ops.sum(ops.square(gradient / scale))), (1,))


def _pick(stacks, i) -> list:
    return [stack[i] for stack in stacks]


def put(stack, value, i):
    """Return the stack with ``value`` at place ``i`` of its first axis."""
    start = ops.stack([i] + [ops.zeros((), "int32")] * (len(stack.shape) - 1))
    return ops.slice_update(stack, start, ops.reshape(value, (1, *stack.shape[1:])))


def vector_jacobian(function: Callable, *primals) -> tuple[Any, Callable]:
    """Return ``function(*primals)``, and a function from a cotangent to the primals' gradients."""
    if keras.backend.backend() == "jax":
        import jax

        return jax.vjp(function, *primals)
    import tensorflow as tf

    with tf.GradientTape() as tape:
        tape.watch(primals)
        y = function(*primals)

    def pull(cotangent):
        zero = tf.UnconnectedGradients.ZERO
        return tape.gradient(y, primals, cotangent, unconnected_gradients=zero)

    return y, pull
