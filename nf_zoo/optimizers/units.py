"""What counts as one unit of a variable: the weights of one output.

Source: Brock, De, Smith & Simonyan, ICML 2021, section 4; DeepMind nfnets ``agc_optax.py``. The
published code knows matrices (I, O) and kernels (H, W, I, O); the other layers of Keras follow the
same rule, that a unit is what one output is made with.
"""

from __future__ import annotations

from collections.abc import Sequence

import keras


def published_axes(shape: Sequence[int]) -> tuple[int, ...]:
    """The axes that the norm of a unit runs over, as in the published code.

    Args:
        shape: (), (O,), (I, O) or (H, W, I, O). What has one axis longer than 1 at most is one
            unit, as are biases and gains; matrices and kernels have one unit for each output.

    Raises:
        ValueError: on another rank.
    """
    if is_one_unit(shape):
        return tuple(range(len(shape)))
    if len(shape) not in (2, 4):
        raise ValueError(
            "Units are known of scalars, vectors, (I, O) matrices and (H, W, I, O) kernels. "
            f"Received: shape {tuple(shape)}"
        )
    return tuple(range(len(shape) - 1))


def unit_axes(variable: keras.Variable, owners: Sequence[keras.layers.Layer]) -> tuple[int, ...]:
    """The axes that the norm of a unit runs over, by the type of the variable's layer.

    Args:
        variable: of any shape.
        owners: the layers that it is of. Where none is of a type of Keras's, the published rule
            holds.

    Raises:
        ValueError: if neither tells, or the layers disagree.
    """
    shape, name = tuple(variable.shape), variable.name
    if is_one_unit(shape) or name == "bias":
        return tuple(range(len(shape)))
    rules = [(layer, rule) for layer in owners if (rule := _rule(layer))]
    known = {rule(layer, name, len(shape)) for layer, rule in rules}
    if len(known) == 1:
        return known.pop()
    if known:
        kinds = sorted({type(layer).__name__ for layer, _ in rules})
        raise ValueError(f"It is shared by layers whose units differ: {kinds}.")
    return published_axes(shape)


def is_one_unit(shape: Sequence[int]) -> bool:
    return sum(side > 1 for side in shape) <= 1


def _inputs(layer, name, rank):
    """Of (..., I, O) all but the last axis."""
    return tuple(range(rank - 1))


def _transposed(layer, name, rank):
    """Of (..., O, I) all but the last but one."""
    return (*range(rank - 2), rank - 1)


def _depthwise(layer, name, rank):
    """Of (..., C, M) the positions: each channel has M outputs of its own."""
    return tuple(range(rank - 2))


def _separable(layer, name, rank):
    return (_depthwise if name == "depthwise_kernel" else _inputs)(layer, name, rank)


def _embedding(layer, name, rank):
    """Each row is the vector of one token; what leads back to tokens is a (D, V) matrix."""
    rows = name in ("embeddings", "lora_embeddings_a")
    return (1,) if rows else _inputs(layer, name, rank)


def _einsum(layer, name, rank):
    """The axes of the kernel that the output does not have: those that are summed over."""
    if name != "kernel":  # the two matrices of LoRA
        return _inputs(layer, name, rank)
    operands, output = layer.equation.replace(" ", "").split("->")
    kernel = operands.split(",")[1]
    summed = tuple(axis for axis, label in enumerate(kernel) if label not in output)
    return summed or _whole(layer, name, rank)


def _whole(layer, name, rank):
    """Gains: one unit."""
    return tuple(range(rank))


RULES = {
    **dict.fromkeys(("Dense", "Conv1D", "Conv2D", "Conv3D", "STFTSpectrogram"), _inputs),
    **dict.fromkeys(("SimpleRNNCell", "GRUCell", "LSTMCell", "ConvLSTMCell"), _inputs),
    **dict.fromkeys(("Conv1DTranspose", "Conv2DTranspose", "Conv3DTranspose"), _transposed),
    **dict.fromkeys(("DepthwiseConv1D", "DepthwiseConv2D"), _depthwise),
    **dict.fromkeys(("SeparableConv1D", "SeparableConv2D"), _separable),
    "Embedding": _embedding,
    "EinsumDense": _einsum,
    **dict.fromkeys(("PReLU", "LayerNormalization", "RMSNormalization"), _whole),
}
"""Name of a class of Keras's -> ``f(layer, name of the variable, rank)``, the axes of the norm.

By name, since some of the classes are not public and others are not in every version of Keras.
"""


def _rule(layer):
    """The rule of the nearest class of Keras's that the layer is of, or None."""
    for kind in type(layer).__mro__:
        if kind.__module__.partition(".")[0] == "keras" and kind.__name__ in RULES:
            return RULES[kind.__name__]
    return None
