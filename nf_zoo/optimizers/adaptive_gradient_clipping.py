"""Adaptive gradient clipping (AGC) for any Keras optimizer."""

from __future__ import annotations

from collections.abc import Iterable

import keras
from keras import ops

from nf_zoo.optimizers.wrapper import UpdateWrapper

SMALLEST_NORM = 1e-6
"""Keeps the division by the norm of a zero gradient finite."""


def unitwise_norm(value):
    """The norm of each output unit, kept in a shape that broadcasts against ``value``.

    Args:
        value: (), (O,), (I, O) or (H, W, I, O). What has one axis longer than 1 at most is one
            unit, as are biases and gains; matrices and kernels have one unit for each output.

    Returns:
        Norms: () or (1, ..., O), float32 (float64 for float64 values).

    Raises:
        ValueError: on a value of another rank.

    Source: DeepMind nfnets ``agc_optax.py``.

    Example:
        >>> import numpy as np
        >>> unitwise_norm(np.full((2, 2, 1, 5), 3.0)).shape
        TensorShape([1, 1, 1, 5])
    """
    double = keras.backend.standardize_dtype(value.dtype) == "float64"
    squares = ops.square(ops.cast(value, "float64" if double else "float32"))
    if sum(side > 1 for side in value.shape) <= 1:
        return ops.sqrt(ops.sum(squares))
    if len(value.shape) not in (2, 4):
        raise ValueError(
            "Units are known of scalars, vectors, (I, O) matrices and (H, W, I, O) kernels. "
            f"Received: shape {tuple(value.shape)}"
        )
    axes = tuple(range(len(value.shape) - 1))
    return ops.sqrt(ops.sum(squares, axes, keepdims=True))


@keras.saving.register_keras_serializable("nf_zoo")
class AdaptiveGradientClipping(UpdateWrapper):
    """Clips each unit's gradient to a share of the norm of the unit's weights.

    ``G_i <- G_i * min(1, clipping * max(||W_i||, eps) / ||G_i||)`` for every output unit i; a
    bias or a vector of gains is one unit. The gradient is that of the whole step, so that neither
    replicas nor loss scaling nor accumulation change what is clipped. Works in ``compile``, in a
    loop of one's own, and with every optimizer that updates variable by variable.

    Args:
        optimizer: the Keras optimizer that receives the clipped gradients.
        clipping: lambda, the largest ratio of the norms; above 0. 0.01 at batch 4096, more at
            smaller ones.
        eps: least norm a unit is taken to have, so that zero weights can move; above 0.
        exclude: variables, or layers with all their variables, that are not clipped. The paper
            does not clip the classifier; DeepMind's code leaves out its kernel alone:
            ``exclude=model.head.kernel``. After loading, they are known by their paths.
        name: of the optimizer.

    Raises:
        ValueError: if clipping or eps is not above 0.
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
        >>> model.compile(optimizer, "sparse_categorical_crossentropy")
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
        excluded = list(_variables_and_paths(exclude))
        self._excluded_ids = {id(one) for one in excluded if not isinstance(one, str)}
        self._excluded_paths = {one for one in excluded if isinstance(one, str)}
        self._paths = [one if isinstance(one, str) else one.path for one in excluded]
        self._unclipped: set[int] = set()

    def build(self, variables):
        super().build(variables)
        self._unclipped = {
            index
            for index, variable in enumerate(variables)
            if id(variable) in self._excluded_ids or variable.path in self._excluded_paths
        }

    def adjust(self, index, gradient, variable, learning_rate):
        if index not in self._unclipped:
            gradient = self.clip(gradient, ops.convert_to_tensor(variable))
        return gradient, variable, learning_rate

    def clip(self, gradient, weights):
        """The clipped gradient of one variable.

        Args:
            gradient: of the shape of ``weights``.
            weights: a tensor; see :func:`unitwise_norm` for its shape.

        Returns:
            A tensor of the gradient's dtype.
        """
        limit = self.clipping * ops.maximum(unitwise_norm(weights), self.eps)
        norm = unitwise_norm(gradient)
        scale = ops.where(norm > limit, limit / ops.maximum(norm, SMALLEST_NORM), 1.0)
        return gradient * ops.cast(scale, gradient.dtype)

    def get_config(self):
        own = {"clipping": self.clipping, "eps": self.eps, "exclude": self._paths}
        return {**super().get_config(), **own}


def _variables_and_paths(exclude) -> Iterable[keras.Variable | str]:
    if exclude is None:
        return
    if isinstance(exclude, keras.Variable | str):
        yield exclude
    elif isinstance(exclude, keras.layers.Layer):
        yield from exclude.trainable_variables
    elif isinstance(exclude, Iterable):
        for one in exclude:
            yield from _variables_and_paths(one)
    else:
        raise TypeError(
            "exclude takes variables, layers and lists of them, such as model.head.kernel. "
            f"Received: {exclude!r}"
        )
