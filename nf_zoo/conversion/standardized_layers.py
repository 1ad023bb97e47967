"""Standardized forms of Keras's layers, and activations by the names that gamma is known for."""

from __future__ import annotations

import dataclasses
from typing import Any

import keras
import numpy as np

from nf_zoo import layers
from nf_zoo.conversion.editable_model import inner
from nf_zoo.conversion.signals import moments_of
from nf_zoo.deploy.lowering import weights_of
from nf_zoo.signal_propagation import theory


@dataclasses.dataclass
class Form:
    """The standardized form of a layer, or one of two that follow each other."""

    kind: type
    own: dict[str, Any]  # arguments of the class
    kernel: np.ndarray  # the original's kernel, in the shape of the new one


def _one(pair):
    """Return a pair of equal numbers as one."""
    pair = tuple(pair)
    return pair[0] if len(set(pair)) == 1 else pair


def _convolution(layer, kernel) -> Form:
    own = {"filters": layer.filters, "groups": layer.groups, **_placement(layer)}
    return Form(layers.ScaledWSConv2D, own, kernel)


def _placement(layer) -> dict[str, Any]:
    if isinstance(layer, layers.Conv2D):
        names = ("kernel_size", "strides", "padding", "dilation")
        return {name: getattr(layer, name) for name in names}
    return {
        "kernel_size": _one(layer.kernel_size),
        "strides": layer.strides[0],
        "padding": layer.padding,
        "dilation": layer.dilation_rate[0],
    }


def _depthwise(layer, kernel) -> Form:
    own = {"depth_multiplier": layer.depth_multiplier, **_placement(layer)}
    *sides, channels, multiplier = kernel.shape
    kernel = kernel.reshape(*sides, 1, channels * multiplier)
    return Form(layers.ScaledWSDepthwiseConv2D, own, kernel)


def _separable(layer) -> list[Form]:
    kernel = weights_of(layer.pointwise_kernel)
    last = Form(layers.ScaledWSConv2D, {"filters": layer.filters, "kernel_size": 1}, kernel)
    return [_depthwise(layer, weights_of(layer.depthwise_kernel)), last]


FORMS = {
    keras.layers.Conv2D: lambda x: [_convolution(x, weights_of(x.kernel))],
    layers.Conv2D: lambda x: [_convolution(x, weights_of(x.kernel))],
    keras.layers.DepthwiseConv2D: lambda x: [_depthwise(x, weights_of(x.kernel))],
    keras.layers.SeparableConv2D: _separable,
    keras.layers.Dense: lambda x: [
        Form(layers.ScaledWSDense, {"units": x.units}, weights_of(x.kernel))
    ],
}
"""Exact class -> function of a built layer that returns its standardized forms."""

_LIMITS = (
    *("kernel_constraint", "bias_constraint", "depthwise_constraint", "pointwise_constraint"),
    *("bias_regularizer", "lora_enabled", "quantization_mode"),
)
"""Attributes that a standardized layer does not have."""


def forms_of(layer) -> list[Form]:
    """Return the standardized forms of a layer, in order; none if it has none.

    A kernel with a single value per output has no deviation to divide by.
    """
    layer = inner(layer)
    if type(layer) not in FORMS or any(getattr(layer, name, None) for name in _LIMITS):
        return []
    if getattr(layer, "data_format", "channels_last") != "channels_last":
        return []
    pairs = (getattr(layer, name, 1) for name in ("strides", "dilation_rate"))
    sides = [_one(x) if isinstance(x, tuple) else x for x in pairs]
    if any(isinstance(side, tuple) for side in sides) or min(sides) > 1:
        return []  # of both above 1 no backend has a convolution, only Keras's depthwise layers
    forms = FORMS[type(layer)](layer)
    regularizers = [getattr(layer, f"{x}_regularizer", None) for x in ("kernel", "pointwise")]
    regularizer = next((x for x in regularizers if x is not None), None)
    for form in forms:
        depthwise = form.kind is layers.ScaledWSDepthwiseConv2D
        own = getattr(layer, "depthwise_regularizer", None) if depthwise else regularizer
        if own is not None:
            form.own["kernel_regularizer"] = own
        if getattr(layer, "activity_regularizer", None) is not None and form is forms[-1]:
            form.own["activity_regularizer"] = layer.activity_regularizer
    fans = [int(np.prod(form.kernel.shape[:-1])) for form in forms]
    return forms if min(fans) > 1 else []


_OPERATIONS = {
    **{"Relu": "relu", "Relu6": "relu6", "Silu": "silu", "HardSilu": "hard_silu", "Elu": "elu"},
    **{"Selu": "selu", "Softplus": "softplus", "Tanh": "tanh"},
}
"""Class of an operation without arguments of its own -> the activation's name."""

GATES = ("sigmoid", "hard_sigmoid")
_NOT_SCALED = (*GATES, "softmax", "log_softmax", "linear")


def activation_of(operation) -> Any:
    """Return the activation of a layer or operation that does nothing else, or None.

    Gates and the activations of classifiers are none. A layer with settings of its own, such as
    LeakyReLU, is itself the activation.
    """
    kind = type(operation)
    if kind in (keras.layers.LeakyReLU, keras.layers.ELU):
        return operation
    if kind is keras.layers.ReLU:
        if operation.negative_slope or operation.threshold:
            return operation
        return {None: "relu", 6: "relu6"}.get(operation.max_value, operation)
    if kind in (keras.layers.Activation, layers.ScaledActivation):
        return named(operation.activation)
    return _OPERATIONS.get(kind.__name__) if kind.__module__.startswith("keras.") else None


def named(activation) -> Any:
    """Return an activation by its name where Keras has one; None if gamma does not suit it.

    It may be any callable. Gamma does not suit a layer with weights, which training changes.
    """
    name = getattr(activation, "__name__", activation)
    has_weights = isinstance(activation, keras.Layer) and (
        activation.weights or not activation.built
    )
    if activation is None or name in _NOT_SCALED or has_weights:
        return None
    if isinstance(activation, str) or getattr(keras.activations, str(name), None) is activation:
        return {"swish": "silu"}.get(name, name)
    return activation


def is_sigmoid(operation) -> bool:
    """Return True if a layer or operation ends in a sigmoid."""
    activation = getattr(operation, "activation", None)
    name = getattr(activation, "__name__", activation) or type(operation).__name__
    return name in (*GATES, "Sigmoid", "HardSigmoid")


def border_effect(form, x, free: bool) -> float | None:
    """Return the share of the variance that zero padding leaves, or None if it is unknown.

    It is 1 without a border. What a depthwise convolution leaves depends on how alike
    neighboring pixels are; so does any, in pictures or with trained kernels.
    """
    own = form.own
    if form.kind is layers.ScaledWSDepthwiseConv2D or own.get("dilation", 1) > 1:
        return None
    if form.kind is layers.ScaledWSDense or free:
        return 1.0
    place = (own["kernel_size"], own.get("strides", 1), own.get("padding", "same"))
    moments = moments_of(x)
    shift = moments.squared_mean / max(moments.variance, 1e-30)
    return theory.border_factor(tuple(x.shape[1:3]), *place, shift, standardized=True)


def built(form, own: dict[str, Any], x, kernel):
    """Return a standardized layer for x, with a kernel or a fresh one."""
    # The distribution that standardization assumes: N(0, 1 / fan_in).
    fresh = keras.initializers.VarianceScaling(1.0, "fan_in", "untruncated_normal")
    layer = form.kind(kernel_initializer=fresh, **own)
    layer.build(x.shape)
    if kernel is not None:
        layer.kernel.assign(kernel)
    return layer
