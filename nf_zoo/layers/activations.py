"""Activations and gamma, the constant that gives them unit variance.

gamma makes ``gamma * activation(z)`` have variance 1 for z ~ N(0, 1); see Brock, De & Smith,
ICLR 2021, section 4 and appendix D.
"""

import functools
import math
from collections.abc import Callable

import keras
import numpy as np
from keras import ops

from nf_zoo.layers.gradients import with_own_gradient
from nf_zoo.layers.recorded import RecordedLayer

GAMMA: dict[str, float] = {
    "identity": 1.0,
    "linear": 1.0,
    "relu": 1.7139588594436646,
    "gelu": 1.7015043497085571,
    "gelu_tanh": 1.7015043497085571,
    "silu": 1.7881293296813965,
    "swish": 1.7881293296813965,
}
"""Published gammas (DeepMind's nfnets code); any other gamma is integrated on demand."""


def _gelu_tanh(x):
    return ops.gelu(x, approximate=True)


def _silu(x):
    """Return SiLU without TensorFlow's own gradient, which leaks: nf_zoo/layers/gradients.py."""
    return x * ops.sigmoid(x)


@functools.cache
def _keeping_the_input_alone(function: Callable) -> Callable:
    """Return the same function for TensorFlow, with a gradient that keeps only the input.

    Exact GELU and SiLU are chains of operations, each of which keeps a map for its gradient.
    """
    import tensorflow as tf

    def silu(x):
        def gradient(upstream):
            gate = tf.sigmoid(x)
            return upstream * gate * (1.0 + x * (1.0 - gate))

        return x * tf.sigmoid(x), gradient

    def gelu(x):
        def gradient(upstream):
            density = tf.exp(-0.5 * x * x) * tf.cast(1.0 / math.sqrt(2.0 * math.pi), x.dtype)
            below = 0.5 * (1.0 + tf.math.erf(x * tf.cast(math.sqrt(0.5), x.dtype)))
            return upstream * (below + x * density)

        return tf.nn.gelu(x, approximate=False), gradient

    return with_own_gradient({keras.activations.gelu: gelu, _silu: silu}[function])


def activation_function(activation: str | Callable) -> Callable:
    """Return the callable of a name; ``"gelu"`` is exact, ``"gelu_tanh"`` its approximation."""
    if callable(activation):
        return activation
    if activation == "gelu_tanh":
        return _gelu_tanh
    if activation in ("silu", "swish"):
        return _silu
    if activation == "identity":
        activation = "linear"
    try:
        return keras.activations.get(activation)
    except ValueError as error:
        raise ValueError(
            f"Unknown activation. Names with a published gamma: {', '.join(sorted(GAMMA))}; "
            f"any name in keras.activations or a callable works too. Received: {activation!r}"
        ) from error


def mean_of(activation: str | Callable) -> float:
    """Return E[activation(z)] for z ~ N(0, 1), integrated as in :func:`gamma_of`."""
    return float(_moments_of(activation)[0])


def _moments_of(
    activation: str | Callable, points: int = 8001, limit: float = 10.0
) -> tuple[float, float]:
    """Mean and variance of the activation of a standard normal variable."""
    z = np.linspace(-limit, limit, points)
    step = z[1] - z[0]
    simpson = np.full(points, 2.0)
    simpson[1::2] = 4.0
    simpson[[0, -1]] = 1.0
    density = np.exp(-0.5 * z**2) / np.sqrt(2 * np.pi) * simpson * step / 3
    function = activation_function(activation)
    values = np.asarray(ops.convert_to_numpy(function(ops.convert_to_tensor(z, "float32"))))
    values = values.astype("float64")
    mean = np.sum(density * values)
    return mean, np.sum(density * (values - mean) ** 2)


def gamma_of(activation: str | Callable, *, points: int = 8001, limit: float = 10.0) -> float:
    """Return gamma = 1 / sqrt(Var[activation(z)]) for z ~ N(0, 1), by numerical integration.

    The density is integrated with Simpson's rule on ``[-limit, limit]``. The published constants in
    :data:`GAMMA` were sampled and differ from the integral by up to 7e-4 (ReLU); networks use the
    published ones, to match the published code exactly.

    Args:
        activation: a name (``"relu"``) or an element-wise callable on tensors.
        points: number of grid points, odd, at least 3.
        limit: half-width of the interval, in standard deviations.

    Returns:
        gamma, a positive float.

    Raises:
        ValueError: if the activation is constant on N(0, 1) inputs, so that no gamma exists.

    Source: Brock, De & Smith, ICLR 2021, section 4 ("Scaled Weight Standardization").

    Example:
        >>> round(gamma_of("relu"), 4)
        1.714
        >>> round(gamma_of(lambda x: x * 2.0), 4)
        0.5
    """
    _, variance = _moments_of(activation, points, limit)
    if not variance > 1e-12:
        raise ValueError(
            "No gamma exists: the activation has no variance on N(0, 1) inputs. "
            f"Received: {activation!r} with variance {variance:.3g}"
        )
    return float(1.0 / np.sqrt(variance))


@keras.saving.register_keras_serializable("nf_zoo")
class ScaledActivation(keras.layers.Layer):
    """``gamma * activation(x)``: an activation that keeps the variance of N(0, 1) inputs at 1.

    Args:
        activation: a name or a callable.
        gamma: the constant; None takes the published value (:data:`GAMMA`) or integrates
            (:func:`gamma_of`). 1.0 gives the plain activation.

    Input and output: any shape, the same.

    Source: Brock, De & Smith, ICLR 2021, section 4; DeepMind nfnets ``base.py``.

    Example:
        >>> import numpy as np
        >>> ScaledActivation("relu")(np.ones((1, 2), "float32")).shape
        (1, 2)
    """

    def __init__(self, activation: str | Callable = "relu", gamma: float | None = None, **kwargs):
        super().__init__(**kwargs)
        self.activation = activation
        self._function = activation_function(activation)
        if gamma is None:
            known = GAMMA.get(activation) if isinstance(activation, str) else None
            gamma = known if known is not None else gamma_of(activation)
        self.gamma = float(gamma)
        self.built = True

    def call(self, x, training=None):
        function = self._function
        has_own = function in (keras.activations.gelu, _silu)
        if training and has_own and keras.backend.backend() == "tensorflow":
            function = _keeping_the_input_alone(function)
        x = function(x)
        return x if self.gamma == 1.0 else x * self.gamma

    def compute_output_shape(self, input_shape):
        return input_shape

    def get_config(self):
        activation = self.activation
        if callable(activation):
            activation = keras.saving.serialize_keras_object(activation)
        return {**super().get_config(), "activation": activation, "gamma": self.gamma}

    @classmethod
    def from_config(cls, config):
        config = dict(config)
        if isinstance(config["activation"], dict):
            config["activation"] = keras.saving.deserialize_keras_object(config["activation"])
        return cls(**config)


@keras.saving.register_keras_serializable("nf_zoo")
class Rectifier(RecordedLayer):
    """ReLU as ``maximum(x, 0)``, for inference on inputs that have other uses.

    TensorFlow's graph optimizer (2.21 with oneDNN) rewrites sums followed by a ReLU. Where the sum
    has another use, as between the blocks of a pre-activation network, the rewrite fails and the
    graph loses every fusion. The optimizer leaves a maximum alone.

    Input and output: any shape, the same.

    Example:
        >>> import numpy as np
        >>> Rectifier()(np.array([-1.0, 2.0], "float32")).numpy().tolist()
        [0.0, 2.0]
    """

    activation = "relu"

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.built = True

    def call(self, x):
        return ops.maximum(x, ops.cast(0, x.dtype))
