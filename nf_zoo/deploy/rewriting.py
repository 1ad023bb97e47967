"""Rewriting that moves factors and terms of an inference graph into convolutions where it can.

An affine node is first offered to the node before it. Otherwise it sinks towards each of its
consumers, through poolings and (its factor only) through homogeneous activations, until a
convolution or matrix product takes it. A node that nothing takes stays in the graph.
"""

from __future__ import annotations

import collections

import numpy as np

from nf_zoo.deploy.inference_graph import (
    Activation,
    Add,
    Affine,
    Gate,
    Linear,
    Node,
    Pool,
    Sink,
    upwards,
)

LARGEST_FACTOR = 2.0**14
"""Factors above it or below its inverse are never divided by: half precision would overflow."""


def rewrite(sink: Sink) -> None:
    """Simplify the graph above ``sink`` in place without changing its results."""
    _drop_unused(sink)
    _activate_before_pooling(sink)
    affines = [node for node in upwards(sink) if isinstance(node, Affine)]
    # Nodes that can be taken upwards go first, so that a sum then sees the convolutions it adds.
    waiting = collections.deque(affine for affine in affines if not _taken_above(affine))
    while waiting:
        affine = waiting.popleft()
        if affine.consumers and not _taken_above(affine):
            waiting.extend(_sink(affine))
    for node in upwards(sink):
        if isinstance(node, Gate):
            _move_gate_scale(node)


def _drop_unused(sink: Sink) -> None:
    """Drop the consumers that the outputs do not need."""
    used = set(upwards(sink))
    for node in used:
        node.consumers = [consumer for consumer in node.consumers if consumer in used]


def _activate_before_pooling(sink: Sink) -> None:
    """Move a ReLU behind a max-pool before it, next to the convolution that it then joins."""
    for pool in upwards(sink):
        if not (isinstance(pool, Pool) and pool.is_maximum) or pool.anchored:
            continue
        relus = list(dict.fromkeys(pool.consumers))
        if all(isinstance(node, Activation) and node.activation == "relu" for node in relus):
            first, *others = relus
            first.replace_by(pool)
            for other in others:
                other.replace_by(pool)
                other.remove()
            before = pool.input
            first.redirect(pool, before)
            pool.redirect(before, first)


def _taken_above(affine: Affine) -> bool:
    """Remove the node if it does nothing or the node before it takes it; return True if so."""
    does_nothing = np.all(affine.scale == 1) and not np.any(affine.offset)
    if affine.anchored or not (does_nothing or _pull(affine)):
        return False
    _leave_out(affine)
    return True


def _leave_out(affine: Affine) -> None:
    affine.replace_by(affine.input)
    affine.remove()


def _sink(affine: Affine) -> list[Affine]:
    """Move a node one step down every path; return the affine nodes that may move further."""
    if affine.anchored:
        return []
    moved = []
    for consumer in list(dict.fromkeys(affine.consumers)):
        moved += _push(affine, consumer)
    if not affine.consumers:
        affine.remove()
    elif _pull_through_activation(affine):
        _leave_out(affine)
    return moved


def _pull(affine: Affine) -> bool:
    """Give the affine to the node before it; return True if that takes it."""
    before = affine.input
    passes = isinstance(before, Pool) and before.is_maximum and not before.anchored
    if passes and before.has_one_consumer and np.all(affine.scale > 0):
        before = before.input
    if not before.has_one_consumer:
        return False
    if isinstance(before, Linear):
        before.absorb_after(affine.scale, affine.offset)
        return True
    if isinstance(before, Gate) and not np.any(affine.offset):
        before.output_scale = before.output_scale * affine.scale
        return True
    return False


def _pull_through_activation(affine: Affine) -> bool:
    """Move a factor that found no place below up through a homogeneous activation."""
    middle = affine.input
    passes = isinstance(middle, Activation) and middle.is_homogeneous and middle.has_one_consumer
    if not passes or np.any(affine.offset) or not np.all(affine.scale > 0):
        return False
    above = middle.input
    if not (isinstance(above, Linear) and above.has_one_consumer):
        return False
    above.absorb_after(affine.scale, affine.offset)
    return True


def _push(affine: Affine, consumer: Node) -> list[Affine]:
    """Move the affine into or below one consumer, if possible."""
    if isinstance(consumer, Linear):
        return _into_linear(affine, consumer)
    if isinstance(consumer, Affine):
        consumer.offset = consumer.offset + consumer.scale * affine.offset
        consumer.scale = consumer.scale * affine.scale
        consumer.redirect(affine, affine.input)
        return [consumer]
    if isinstance(consumer, Pool):
        if consumer.is_maximum and not np.all(affine.scale > 0):
            return []
        return _below(affine, consumer, affine.scale, affine.offset)
    if isinstance(consumer, Activation):
        return _below_activation(affine, consumer)
    if isinstance(consumer, Add):
        return _below_sum(affine, consumer)
    if isinstance(consumer, Gate) and affine.scale.ndim == 0 and not np.any(affine.offset):
        consumer.redirect(affine, affine.input)
        consumer.input_scale = consumer.input_scale * affine.scale
        consumer.output_scale = consumer.output_scale * affine.scale
    return []


def _into_linear(affine: Affine, linear: Linear) -> list[Affine]:
    if not np.any(affine.offset) or not linear.pads_with_zeros:
        linear.absorb_before(affine.scale, affine.offset)
        linear.redirect(affine, affine.input)
    elif _splits(affine):
        linear.absorb_before(affine.scale, np.zeros(()))
        linear.redirect(affine, _shift(affine))
    return []


def _below_activation(affine: Affine, activation: Activation) -> list[Affine]:
    if not activation.is_homogeneous or not np.all(affine.scale > 0):
        return []
    if not np.any(affine.offset):
        return _below(affine, activation, affine.scale, affine.offset)
    if not _splits(affine):
        return []
    moved = _below(affine, activation, affine.scale, np.zeros(()))
    activation.redirect(affine.input, _shift(affine))
    return moved


def _below(affine: Affine, node: Node, scale, offset) -> list[Affine]:
    """Turn ``node(affine(x))`` into ``affine(node(x))``."""
    node.redirect(affine, affine.input)
    moved = Affine(affine.name, [node], affine.policy, scale=scale, offset=offset)
    node.replace_by(moved)
    if getattr(node, "anchored", False):
        # The wanted result keeps its name.
        moved.name, node.name = node.name, f"{node.name}_unscaled"
        moved.anchored, node.anchored = True, False
    return [moved]


def _splits(affine: Affine) -> bool:
    """Return True if ``scale * (x + offset / scale)`` is of use and stays in range."""
    size = np.abs(affine.scale)
    if np.all(affine.scale == 1) or not np.all(size > 1 / LARGEST_FACTOR):
        return False
    return bool(np.all(np.abs(affine.offset / affine.scale) < LARGEST_FACTOR))


def _shift(affine: Affine) -> Affine:
    """Return the ``x + offset / scale`` of a split node, which all its consumers share."""
    for node in affine.input.consumers:
        if isinstance(node, Affine) and node.name == f"{affine.name}_shift":
            return node
    offset = affine.offset / affine.scale
    return Affine(f"{affine.name}_shift", [affine.input], affine.policy, offset=offset)


def _below_sum(affine: Affine, total: Add) -> list[Affine]:
    """Turn ``a(x) + y`` into ``s (x + y')`` if the node that makes ``y`` can be rescaled."""
    others = [node for node in total.inputs if node is not affine]
    if len(others) != 1 or len(total.inputs) != 2:
        return []
    other = others[0]
    if not isinstance(other, Linear | Gate) or not other.has_one_consumer:
        return []
    if isinstance(other, Linear) and max(affine.scale.size, affine.offset.size) > other.bias.size:
        return []  # the sum repeats its one channel
    if np.any(affine.offset) and isinstance(other, Linear):
        other.bias = other.bias + affine.offset
        rest = Affine(affine.name, [affine.input], affine.policy, scale=affine.scale)
        total.redirect(affine, rest)
        return [rest]
    size = np.abs(affine.scale)
    in_range = np.all((size > 1 / LARGEST_FACTOR) & (size < LARGEST_FACTOR))
    if np.any(affine.offset) or not in_range:
        return []
    if isinstance(other, Linear):
        other.absorb_after(1 / affine.scale, np.zeros(()))
    else:
        other.output_scale = other.output_scale / affine.scale
    return _below(affine, total, affine.scale, affine.offset)


def _move_gate_scale(gate: Gate) -> None:
    """Move the scale into the convolution before the gate; the gate's first layer is divided by it.

    That layer is linear, so the result stays the same unless the factor is 0. ECA's kernel serves
    all channels, so it takes only a single factor.
    """
    before, scale = gate.input, gate.output_scale
    if not (isinstance(before, Linear) and before.has_one_consumer):
        return
    if gate.kind == "eca" and scale.ndim:
        return
    size = np.abs(scale)
    if not np.all((size > 1 / LARGEST_FACTOR) & (size < LARGEST_FACTOR)):
        return
    before.absorb_after(scale, np.zeros(()))
    gate.input_scale, gate.output_scale = gate.input_scale / scale, np.ones(())
