"""Networks with BatchNormalization that are converted: those of Keras, and small ones."""

from __future__ import annotations

import functools

import keras

LAYERS = keras.layers
SIDE = 64
"""Side in pixels of the noise that the large networks see."""


def application(name: str) -> keras.Model:
    """Return a network of keras.applications, with fresh weights."""
    make = getattr(keras.applications, name)
    return make(weights=None, input_shape=(SIDE, SIDE, 3), classes=10)


def unet(side: int = SIDE, levels: int = 4, width: int = 16) -> keras.Model:
    """Return a network for segmentation: down, up, and the maps of each level joined."""
    x = inputs = LAYERS.Input((side, side, 3))
    skips = []
    for level in range(levels):
        x = _convolved(_convolved(x, width << level), width << level)
        if level < levels - 1:
            skips.append(x)
            x = LAYERS.MaxPooling2D()(x)
    for level in reversed(range(levels - 1)):
        x = LAYERS.Conv2DTranspose(width << level, 2, strides=2)(x)
        x = LAYERS.Concatenate(name=f"join{level + 1}")([skips[level], x])
        x = _convolved(_convolved(x, width << level), width << level)
    return keras.Model(inputs, LAYERS.Conv2D(2, 1)(x), name="unet")


SIGNALS = {
    **{
        name: functools.partial(application, name)
        for name in ("ResNet50V2", "ResNet50", "MobileNetV2", "EfficientNetB0", "DenseNet121")
    },
    "U-Net": unet,
}
"""Name -> function that makes the network whose signal is measured."""


def _normed(x, layer, activation: str | None = "relu"):
    x = LAYERS.BatchNormalization()(layer(x))
    return LAYERS.Activation(activation)(x) if activation else x


def _convolved(x, filters: int, size: int = 3, strides: int = 1, activation: str | None = "relu"):
    options = {"strides": strides, "padding": "same", "use_bias": False}
    return _normed(x, LAYERS.Conv2D(filters, size, **options), activation)


def _classified(inputs, x, name: str) -> keras.Model:
    return keras.Model(inputs, LAYERS.Dense(10)(LAYERS.GlobalAveragePooling2D()(x)), name=name)


def resnet(side: int) -> keras.Model:
    """Return ResNet-14: three stages of two basic blocks, post-activation."""
    inputs = LAYERS.Input((side, side, 3))
    x = _convolved(inputs, 16)
    for stage, block in ((stage, block) for stage in range(3) for block in range(2)):
        width, strides = 16 << stage, 2 if stage and not block else 1
        skip = x if strides == 1 else _convolved(x, width, 1, strides, activation=None)
        branch = _convolved(_convolved(x, width, 3, strides), width, activation=None)
        x = LAYERS.ReLU()(LAYERS.Add()([skip, branch]))
    return _classified(inputs, x, "resnet")


def mobilenet(side: int) -> keras.Model:
    """Return MobileNetV2 of six inverted bottlenecks."""
    inputs = LAYERS.Input((side, side, 3))
    x = _convolved(inputs, 16, activation="relu6")
    for width, strides in ((16, 1), (24, 2), (24, 1), (48, 2), (48, 1), (48, 1)):
        branch = _convolved(x, 4 * x.shape[-1], 1, activation="relu6")
        depthwise = LAYERS.DepthwiseConv2D(3, strides, padding="same", use_bias=False)
        branch = _convolved(_normed(branch, depthwise, "relu6"), width, 1, activation=None)
        x = LAYERS.Add()([x, branch]) if x.shape == branch.shape else branch
    return _classified(inputs, _convolved(x, 192, 1, activation="relu6"), "mobilenet")


def densenet(side: int, growth: int = 12) -> keras.Model:
    """Return DenseNet of three dense blocks of four layers."""
    inputs = LAYERS.Input((side, side, 3))
    x = LAYERS.Conv2D(2 * growth, 3, padding="same", use_bias=False)(inputs)
    for stage in range(3):
        for _ in range(4):
            new = _convolved(_activated(x), 4 * growth, 1)
            new = LAYERS.Conv2D(growth, 3, padding="same", use_bias=False)(new)
            x = LAYERS.Concatenate()([x, new])
        x = _activated(x)
        if stage < 2:
            x = LAYERS.Conv2D(x.shape[-1] // 2, 1, use_bias=False)(x)
            x = LAYERS.AveragePooling2D(2)(x)
    return _classified(inputs, x, "densenet")


def _activated(x):
    return LAYERS.ReLU()(LAYERS.BatchNormalization()(x))


TRAINED = {"MobileNetV2": mobilenet, "DenseNet": densenet, "ResNet": resnet}
"""Name -> function from a side in pixels to the small network that is trained."""
