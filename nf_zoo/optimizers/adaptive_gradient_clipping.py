"""Adaptive gradient clipping (AGC) for any Keras optimizer.

A unit of a variable is the set of weights that make one output. The published code knows matrices
(I, O) and kernels (H, W, I, O); the other layers of Keras follow the same rule here.

Source: Brock, De, Smith & Simonyan, ICML 2021, section 4; DeepMind nfnets ``agc_optax.py``.
"""

from collections.abc import Iterable, Sequence

import keras
from keras import ops

from nf_zoo.optimizers.update_wrapper import UpdateWrapper
from nf_zoo.optimizers.variables import Mark, describe, find, missing, owners

SMALLEST_NORM = 1e-6
"""Keeps the division by the norm of a zero gradient finite."""


def unitwise_norm(value, axes: Sequence[int] | None = None):
    """Return the norm of each unit, in a shape that broadcasts against ``value``.

    The norm of a unit runs over ``axes``, by default those of :func:`published_axes`.

    Source: DeepMind nfnets ``agc_optax.py``.
    """
    axes = published_axes(value.shape) if axes is None else tuple(axes)
    double = keras.backend.standardize_dtype(value.dtype) == "float64"
    squares = ops.square(ops.cast(value, "float64" if double else "float32"))
    return ops.sqrt(ops.sum(squares, axes, keepdims=len(axes) < len(value.shape)))


@keras.saving.register_keras_serializable("nf_zoo")
class AdaptiveGradientClipping(UpdateWrapper):
    """Optimizer that clips each unit's gradient to a share of the norm of the unit's weights.

    ``G_i <- G_i * min(1, clipping * max(||W_i||, eps) / ||G_i||)`` for every output unit i; a
    bias or a vector of gains is one unit. The gradient is that of the whole step, so replicas,
    loss scaling and accumulation do not change the clipping. It works in ``compile`` and in a
    custom loop, with every optimizer and backend of Keras.

    The type of the variable's layer defines the unit: one output of a dense, recurrent or
    convolutional layer of Keras (transposed and depthwise ones too), or one row of an Embedding.
    In other layers, matrices count as (I, O), kernels of rank 4 as (H, W, I, O).

    Args:
        optimizer: the Keras optimizer that receives the clipped gradients.
        clipping: lambda, the largest ratio of the norms; above 0. Use 0.01 at batch 4096, 0.1
            at 128, and nothing at 8 and below, where it would bound noise.
        eps: smallest norm that a unit counts with, so that zero weights can move; above 0.
        exclude: variables, or layers with all their variables, that are not clipped. The paper
            does not clip the classifier; DeepMind's code leaves out only its kernel:
            ``exclude=model.head.kernel``. Variables stay excluded in a model that is saved and
            loaded, or cloned. A frozen variable is excluded if it is trained later.
        name: name of the optimizer.

    Raises:
        ValueError: if clipping or eps is not above 0, or an excluded layer is not built; when the
            optimizer is built, if an excluded variable is neither among the variables nor frozen,
            or the units of a variable are unknown.
        TypeError: if ``optimizer`` is not a Keras optimizer, or an excluded object is not a
            variable, a layer or a path.

    Source: Brock, De, Smith & Simonyan, ICML 2021, section 4; DeepMind nfnets ``agc_optax.py``.

    Example:
        >>> import keras, nf_zoo
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
                "exclude must hold trainable variables or layers of the model, such as "
                f"model.head.kernel. Received: {lost}"
            )
        self._unclipped = set(find(self._marks, variables)) - {None}
        self._axes = _axes_of(variables, self._unclipped)

    def adjust(self, index, gradient, variable, learning_rate):
        if index not in self._unclipped:
            weights = ops.convert_to_tensor(variable)
            if hasattr(gradient, "indices"):  # the gradient of some rows, which may repeat
                gradient = ops.add(gradient, ops.zeros_like(weights))
            gradient = self.clip(gradient, weights, self._axes[index])
        return gradient, variable, learning_rate

    def clip(self, gradient, weights, axes: Sequence[int] | None = None):
        """Return the clipped gradient of a variable; ``axes`` as for :func:`unitwise_norm`."""
        limit = self.clipping * ops.maximum(unitwise_norm(weights, axes), self.eps)
        norm = unitwise_norm(gradient, axes)
        scale = ops.where(norm > limit, limit / ops.maximum(norm, SMALLEST_NORM), 1.0)
        return gradient * ops.cast(scale, gradient.dtype)

    def get_config(self):
        excluded = describe(self._marks, self.trained_variables() if self._marks else None)
        own = {"clipping": self.clipping, "eps": self.eps, "exclude": excluded}
        return {**super().get_config(), **own}


def _axes_of(variables, unclipped) -> tuple[tuple[int, ...] | None, ...]:
    """Return for each variable the axes of a unit's norm; None if it is not clipped."""
    axes, unknown = [], []
    for index, (variable, layers) in enumerate(zip(variables, owners(variables), strict=True)):
        try:
            axes.append(None if index in unclipped else unit_axes(variable, layers))
        except ValueError as error:
            unknown.append(f"{variable.path}, shape {tuple(variable.shape)}: {error}")
    if unknown:
        raise ValueError(
            "Adaptive gradient clipping does not know the units of some variables: exclude them "
            "or their layers. Received:\n" + "\n".join(unknown)
        )
    return tuple(axes)


def _marks(exclude) -> tuple[Mark, ...]:
    found = tuple(_known(exclude))
    if not found and exclude not in (None, (), []):
        raise ValueError(
            f"exclude must hold variables, or layers that have some. Received none in: {exclude!r}"
        )
    different = {id(one) if isinstance(one, keras.Variable) else repr(one): one for one in found}
    return tuple(Mark.make(one) for one in different.values())


def _known(exclude) -> Iterable[keras.Variable | str | dict]:
    """Yield variables, paths, and the records of variables in a config."""
    if exclude is None:
        return
    if isinstance(exclude, keras.Variable | str | dict):
        yield exclude
    elif isinstance(exclude, keras.layers.Layer):
        if not exclude.built and not exclude.weights:
            raise ValueError(
                "An excluded layer must have weights: build the model first. Received: "
                f"{type(exclude).__name__} named {exclude.name!r}, which is not built"
            )
        yield from exclude.weights
    elif isinstance(exclude, Iterable):
        for one in exclude:
            yield from _known(one)
    else:
        raise TypeError(
            "exclude must hold variables, layers or lists of them, such as model.head.kernel. "
            f"Received: {exclude!r}"
        )


def published_axes(shape: Sequence[int]) -> tuple[int, ...]:
    """Return the axes that the norm of a unit runs over, as in the published code.

    A value with at most one axis longer than 1, such as a bias or gains, is one unit. Matrices
    (I, O) and kernels (H, W, I, O) have one unit for each output.
    """
    if is_one_unit(shape):
        return tuple(range(len(shape)))
    if len(shape) not in (2, 4):
        raise ValueError(
            "The value must be a scalar, a vector, an (I, O) matrix or an (H, W, I, O) kernel. "
            f"Received: shape {tuple(shape)}"
        )
    return tuple(range(len(shape) - 1))


def unit_axes(variable: keras.Variable, owners: Sequence[keras.layers.Layer]) -> tuple[int, ...]:
    """Return the axes that the norm of a unit runs over, by the type of the variable's layers.

    If no layer is of a Keras type, the published rule holds.
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


# Functions of (layer, name of the variable, rank) that return the axes of the norm.


def _inputs(layer, name, rank):
    """Return all axes of (..., I, O) except the last."""
    return tuple(range(rank - 1))


def _transposed(layer, name, rank):
    """Return all axes of (..., O, I) except the second to last."""
    return (*range(rank - 2), rank - 1)


def _depthwise(layer, name, rank):
    """Return the positions of (..., C, M): each channel has M outputs of its own."""
    return tuple(range(rank - 2))


def _separable(layer, name, rank):
    return (_depthwise if name == "depthwise_kernel" else _inputs)(layer, name, rank)


def _embedding(layer, name, rank):
    """Return the second axis of the rows of tokens; the way back is a (D, V) matrix."""
    rows = name in ("embeddings", "lora_embeddings_a")
    return (1,) if rows else _inputs(layer, name, rank)


def _einsum(layer, name, rank):
    """Return the axes of the kernel that the output does not have: they are summed over."""
    if name != "kernel":  # the two matrices of LoRA
        return _inputs(layer, name, rank)
    operands, output = layer.equation.replace(" ", "").split("->")
    kernel = operands.split(",")[1]
    summed = tuple(axis for axis, label in enumerate(kernel) if label not in output)
    return summed or _whole(layer, name, rank)


def _whole(layer, name, rank):
    """Return all axes: gains are one unit."""
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
"""Name of a Keras class -> ``f(layer, name of the variable, rank)`` that returns the axes.

Names are keys because some classes are not public and others are not in every version of Keras.
"""


def _rule(layer):
    """Return the rule of the layer's nearest Keras class, or None."""
    for kind in type(layer).__mro__:
        if kind.__module__.partition(".")[0] == "keras" and kind.__name__ in RULES:
            return RULES[kind.__name__]
    return None
