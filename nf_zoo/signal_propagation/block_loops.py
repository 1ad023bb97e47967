"""What runs and differentiates repeated blocks: loops, update, and the backend's own transforms."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import keras
from keras import ops

MOMENTUM = 0.9


@dataclasses.dataclass(frozen=True)
class Segment:
    """A stretch of a network: layers that run once, or one block that is repeated.

    Attributes:
        layers: of the template, in order; a single one where it is repeated.
        repeated: whether the weights are stacked and the layer runs over them.
    """

    layers: tuple[keras.layers.Layer, ...]
    repeated: bool = False

    @property
    def variables(self) -> list[keras.Variable]:
        """The trainable ones, in the order in which ``weights`` are given."""
        return [v for layer in self.layers for v in layer.trainable_variables]

    def __call__(self, weights: list, x, beta=None):
        """The output, as in training, with these weights instead of the layers' own."""
        # What BatchNorm writes to its moving statistics is dropped with the scope.
        with keras.StatelessScope(list(zip(self.variables, weights, strict=True))):
            for layer in self.layers:
                with _with_beta(layer, beta):
                    x = layer(x, training=True)
        return x


@contextlib.contextmanager
def _with_beta(layer, beta) -> Iterator[None]:
    """A normalizer-free block's beta differs from block to block; it is no variable."""
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
    """The output of the turns, and what every one of them got."""

    def turn(i, x, inputs):
        return i + 1, segment(_pick(weights, i), x, betas[i]), put(inputs, x, i)

    start = (ops.zeros((), "int32"), x, ops.zeros((betas.shape[0], *x.shape), x.dtype))
    _, x, inputs = ops.while_loop(lambda i, *_: i < turns, turn, start)
    return x, inputs


def back(segment: Segment, weights, velocities, beta, x, upstream, rate):
    """Gradient by the input; weights and velocities after the update."""
    _, pull = vector_jacobian(lambda w, x: segment(w, x, beta), weights, x)
    gradient, upstream = pull(upstream)
    return upstream, *momentum(weights, velocities, gradient, rate)


def back_through_turns(segment: Segment, weights, velocities, betas, inputs, upstream, turns, rate):
    """The same for all turns, last first, with the gradient norm by the input of each."""
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
    """Weights and velocities after an update of Keras's SGD with that momentum."""
    velocities = [MOMENTUM * v + g for v, g in zip(velocities, gradients, strict=True)]
    return [w - rate * v for w, v in zip(weights, velocities, strict=True)], velocities


def loss_of(logits, labels):
    """Mean cross-entropy of logits (N, classes) and integer labels (N,)."""
    losses = keras.losses.sparse_categorical_crossentropy(labels, logits, from_logits=True)
    return ops.mean(losses)


def norm_of(gradient):
    """Of shape (1,); what is small enough for its square to underflow counts too."""
    largest = ops.max(ops.abs(gradient))
    scale = ops.where(largest > 0, largest, ops.ones_like(largest))
    return ops.reshape(scale * ops.sqrt(ops.sum(ops.square(gradient / scale))), (1,))


def _pick(stacks, i) -> list:
    return [stack[i] for stack in stacks]


def put(stack, value, i):
    """The stack with ``value`` in place ``i`` of its first axis."""
    start = ops.stack([i] + [ops.zeros((), "int32")] * (len(stack.shape) - 1))
    return ops.slice_update(stack, start, ops.reshape(value, (1, *stack.shape[1:])))


def vector_jacobian(function: Callable, *primals) -> tuple[Any, Callable]:
    """``function(*primals)``, and what takes a cotangent back to the primals."""
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


def compiled(function: Callable) -> Callable:
    """The function as one XLA program."""
    if keras.backend.backend() == "jax":
        import jax

        return jax.jit(function)
    import tensorflow as tf

    return tf.function(function, jit_compile=True, autograph=False)
