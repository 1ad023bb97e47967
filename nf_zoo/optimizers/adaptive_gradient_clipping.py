"""Adaptive gradient clipping (AGC) for any Keras optimizer.

A unit of a variable is the weights that one output is made with. The published code knows matrices
(I, O) and kernels (H, W, I, O); the other layers of Keras follow the same rule here.

Source: Brock, De, Smith & Simonyan, ICML 2021, section 4; DeepMind nfnets ``agc_optax.py``.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import keras
from keras import ops

from nf_zoo.optimizers.update_wrapper import UpdateWrapper
from nf_zoo.optimizers.variables import Mark, describe, find, missing, owners

SMALLEST_NORM = 1e-6
"""Keeps the division by the norm of a zero gradient finite."""


def unitwise_norm(value, axes: Sequence[int] | None = None):
    """The norm of each unit, kept in a shape that broadcasts against ``value``.

    Args:
        value: of any shape.
        axes: those that the norm of a unit runs over, from 0. None takes them from the shape as the
            published code does: (), (O,), (I, O) or (H, W, I, O); see
            :func:`published_axes`.

    Returns:
        Norms: () for a single unit, (1, ..., O) for a matrix or kernel, float32 (float64 for
        float64 values).

    Raises:
        ValueError: without axes on a value of another rank.

    Source: DeepMind nfnets ``agc_optax.py``.

    Example:
        >>> import numpy as np
        >>> unitwise_norm(np.full((2, 2, 1, 5), 3.0)).shape
        TensorShape([1, 1, 1, 5])
    """
    axes = published_axes(value.shape) if axes is None else tuple(axes)
    double = keras.backend.standardize_dtype(value.dtype) == "float64"
    squares = ops.square(ops.cast(value, "float64" if double else "float32"))
    return ops.sqrt(ops.sum(squares, axes, keepdims=len(axes) < len(value.shape)))


@keras.saving.register_keras_serializable("nf_zoo")
class AdaptiveGradientClipping(UpdateWrapper):
    """Clips each unit's gradient to a share of the norm of the unit's weights.

    ``G_i <- G_i * min(1, clipping * max(||W_i||, eps) / ||G_i||)`` for every output unit i; a
    bias or a vector of gains is one unit. The gradient is that of the whole step, so that neither
    replicas nor loss scaling nor accumulation change what is clipped. Works in ``compile`` and in a
    loop of one's own, with every optimizer and backend of Keras.

    What a unit is follows from the type of the variable's layer: one output of a dense, recurrent
    or convolutional layer of Keras's, transposed and depthwise ones too, and one row of an
    Embedding. Of other layers, matrices are taken as (I, O), kernels of rank 4 as (H, W, I, O).

    Args:
        optimizer: the Keras optimizer that receives the clipped gradients.
        clipping: lambda, the largest ratio of the norms; above 0. 0.01 at batch 4096, more at
            smaller ones.
        eps: least norm a unit is taken to have, so that zero weights can move; above 0.
        exclude: variables, or layers with all their variables, that are not clipped. The paper
            does not clip the classifier; DeepMind's code leaves out its kernel alone:
            ``exclude=model.head.kernel``. It stays excluded in a model that is saved and loaded or
            cloned; a frozen one is excluded if it is trained later.
        name: of the optimizer.

    Raises:
        ValueError: if clipping or eps is not above 0, or an excluded layer is not built. When this
            is built: if something excluded is neither among the variables nor frozen, or the units
            of a variable are not known.
        TypeError: if ``optimizer`` is not a Keras optimizer, or something excluded is neither a
            variable nor a layer nor a path.

    Source: Brock, De, Smith & Simonyan, ICML 2021, section 4; DeepMind nfnets ``agc_optax.py``.

    Example:
        >>> import nf_zoo
        >>> model = nf_zoo.NFResNet26(num_classes=10)
        >>> optimizer = nf_zoo.AdaptiveGradientClipping(
        ...     keras.optimizers.SGD(0.1, momentum=0.9, nesterov=True),
        ...     clipping=0.01,
        ...     exclude=model.head.kernel,
        ... )
        >>> loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        >>> model.compile(optimizer, loss)
    """

    def __init__(
        self,
        optimizer,
        clipping: float = 0.01,
        eps: float = 1e-3,
        exclude=(),
        name: str = "adaptive_gradient_clipping",
    ):
        for field, value in {"clipping": clipping, "eps": eps}.items():
            if not value > 0.0:
                raise ValueError(f"{field} must be above 0. Received: {value!r}")
        super().__init__(optimizer, name=name)
        self.clipping, self.eps = float(clipping), float(eps)
        self._marks = _marks(exclude)
        self._unclipped: set[int] = set()
        self._axes: tuple[tuple[int, ...] | None, ...] = ()

    def prepare(self, variables):
        if lost := missing(self._marks, variables):
            raise ValueError(
                "exclude takes trainable variables of the model, or its layers, such as "
                f"model.head.kernel. Received: {lost}"
            )
        self._unclipped = set(find(self._marks, variables)) - {None}
        self._axes = _axes_of(variables, self._unclipped)

    def adjust(self, index, gradient, variable, learning_rate):
        if index not in self._unclipped:
            weights = ops.convert_to_tensor(variable)
            if hasattr(gradient, "indices"):  # of some rows alone, which may come more than once
                gradient = ops.add(gradient, ops.zeros_like(weights))
            gradient = self.clip(gradient, weights, self._axes[index])
        return gradient, variable, learning_rate

    def clip(self, gradient, weights, axes: Sequence[int] | None = None):
        """Return the clipped gradient of a variable; axes are those of :func:`unitwise_norm`."""
        limit = self.clipping * ops.maximum(unitwise_norm(weights, axes), self.eps)
        norm = unitwise_norm(gradient, axes)
        scale = ops.where(norm > limit, limit / ops.maximum(norm, SMALLEST_NORM), 1.0)
        return gradient * ops.cast(scale, gradient.dtype)

    def get_config(self):
        excluded = describe(self._marks, self.trained_variables() if self._marks else None)
        own = {"clipping": self.clipping, "eps": self.eps, "exclude": excluded}
        return {**super().get_config(), **own}


def _axes_of(variables, unclipped) -> tuple[tuple[int, ...] | None, ...]:
    """Of each variable the axes of a unit's norm; None if it is not clipped."""
    axes, unknown = [], []
    for index, (variable, layers) in enumerate(zip(variables, owners(variables), strict=True)):
        try:
            axes.append(None if index in unclipped else unit_axes(variable, layers))
        except ValueError as error:
            unknown.append(f"{variable.path}, shape {tuple(variable.shape)}: {error}")
    if unknown:
        raise ValueError(
            "Adaptive gradient clipping does not know the units of some variables: exclude them, "
            "or their layers. Received:\n" + "\n".join(unknown)
        )
    return tuple(axes)


def _marks(exclude) -> tuple[Mark, ...]:
    found = tuple(_known(exclude))
    if not found and exclude not in (None, (), []):
        raise ValueError(
            f"exclude takes variables, or layers that have some. Received none in: {exclude!r}"
        )
    different = {id(one) if isinstance(one, keras.Variable) else repr(one): one for one in found}
    return tuple(Mark.make(one) for one in different.values())


def _known(exclude) -> Iterable[keras.Variable | str | dict]:
    """Variables, paths, and what a config says of variables."""
    if exclude is None:
        return
    if isinstance(exclude, keras.Variable | str | dict):
        yield exclude
    elif isinstance(exclude, keras.layers.Layer):
        if not exclude.built and not exclude.weights:
            raise ValueError(
                "An excluded layer must have its weights: build the model first. Received: "
                f"{type(exclude).__name__} named {exclude.name!r}, which is not built"
            )
        yield from exclude.weights
    elif isinstance(exclude, Iterable):
        for one in exclude:
            yield from _known(one)
    else:
        raise TypeError(
            "exclude takes variables, layers and lists of them, such as model.head.kernel. "
            f"Received: {exclude!r}"
        )


def published_axes(shape: Sequence[int]) -> tuple[int, ...]:
    """Return the axes that the norm of a unit runs over, as in the published code.

    What has one axis longer than 1 at most is one unit, as are biases and gains; matrices (I, O)
    and kernels (H, W, I, O) have one unit for each output.
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
    """Return the axes that the norm of a unit runs over, by the type of the variable's layers.

    Where none is of a type of Keras's, the published rule holds.
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


# The axes of the norm, of (layer, name of the variable, rank).


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
