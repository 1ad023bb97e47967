"""Networks of a user's own kind, with BatchNormalization whose statistics say something."""

from __future__ import annotations

import keras
import numpy as np

LAYERS = keras.layers


def norms_of(model) -> list:
    """Every BatchNormalization of a model, wherever it is."""
    found = (x for x in model._flatten_layers() if isinstance(x, LAYERS.BatchNormalization))
    return list({id(norm): norm for norm in found}.values())


def fill(model, seed: int = 0):
    """Draw scales, offsets and moving statistics, negative scales among them; return the model."""
    rng = np.random.default_rng(seed)
    for norm in norms_of(model):
        count = norm.moving_mean.shape
        norm.moving_mean.assign(rng.normal(0, 0.5, count))
        norm.moving_variance.assign(rng.uniform(0.5, 2, count))
        if norm.gamma is not None:
            norm.gamma.assign(rng.uniform(0.5, 1.5, count) * rng.choice([-1, 1], count))
        if norm.beta is not None:
            norm.beta.assign(rng.normal(0, 0.5, count))
    return model


def draw(model, batch: int = 2, seed: int = 1) -> list:
    """Inputs of a model, one array for each."""
    rng = np.random.default_rng(seed)
    shapes = [(batch, *x.shape[1:]) for x in model.inputs]
    return [rng.standard_normal(shape).astype("float32") for shape in shapes]


def answer(model, inputs: list):
    """Answers of a model of any number of inputs at inference, as a list of arrays."""
    outputs = model(inputs if len(inputs) > 1 else inputs[0], training=False)
    return [keras.ops.convert_to_numpy(x) for x in keras.tree.flatten(outputs)]


def _normed(layer, x, name: str):
    x = layer(x)
    x = LAYERS.BatchNormalization(name=f"{name}_norm")(x)
    return LAYERS.ReLU(name=f"{name}_relu")(x)


def unet():
    """Segmentation of 16x16 pictures: down, up, with concatenated skips. One norm must stay."""
    plain = {"padding": "same", "use_bias": False}
    x = inputs = LAYERS.Input((16, 16, 3), name="picture")
    x = wide = _normed(LAYERS.Conv2D(6, 3, name="down1", **plain), x, "down1")
    x = LAYERS.MaxPooling2D(name="pool")(x)
    x = _normed(LAYERS.SeparableConv2D(8, 3, name="down2", **plain), x, "down2")
    x = _normed(LAYERS.DepthwiseConv2D(3, name="middle", **plain), x, "middle")
    x = _normed(LAYERS.Conv2DTranspose(6, 2, strides=2, name="up", **plain), x, "up")
    x = LAYERS.Concatenate(name="skip")([x, wide])
    x = LAYERS.BatchNormalization(name="skip_norm")(x)
    x = LAYERS.ReLU(name="skip_relu")(x)
    return fill(keras.Model(inputs, LAYERS.Conv2D(2, 1, name="mask")(x), name="unet"))


def pairs():
    """Distance of two pictures, which one nested encoder sees; its parts are frozen in part."""
    encoder = keras.Sequential(
        [
            LAYERS.Input((12, 12, 3)),
            LAYERS.Conv2D(6, 3, use_bias=False, name="conv1"),
            LAYERS.BatchNormalization(name="norm1"),
            LAYERS.ReLU(name="relu1"),
            LAYERS.BatchNormalization(name="norm2"),
            LAYERS.Conv2D(6, 1, name="conv2"),
            LAYERS.GlobalAveragePooling2D(name="mean"),
        ],
        name="encoder",
    )
    encoder.get_layer("conv1").trainable = encoder.get_layer("norm1").trainable = False
    dense, norm = LAYERS.Dense(5, name="shared"), LAYERS.BatchNormalization(name="shared_norm")
    last = LAYERS.BatchNormalization(name="last_norm")
    one, other = (LAYERS.Input((12, 12, 3), name=name) for name in ("one", "other"))
    ends = [last(keras.ops.tanh(norm(dense(encoder(x))))) for x in (one, other)]
    outputs = {"distance": keras.ops.abs(ends[0] - ends[1]), "first": ends[0]}
    return fill(keras.Model([one, other], outputs, name="pairs"))
