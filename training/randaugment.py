"""RandAugment (Cubuk et al. 2020) of one picture at a time, for tf.data.

``keras.layers.RandAugment`` varies about 20 pictures a second and core at 224 px, because it
computes every operation for every picture. Here a picture takes the operations drawn for it and
no other.
"""

from __future__ import annotations

import math

import tensorflow as tf

LARGEST = 30.0
"""Magnitudes are on the paper's scale of 0 to 30."""

GRAY = 128.0


def vary(pixels: tf.Tensor, seed: tf.Tensor, layers: int, magnitude: float) -> tf.Tensor:
    """Applies ``layers`` operations drawn with equal chance.

    Args:
        pixels: (H, W, 3) uint8.
        seed: (2,) int64; decides everything.
        layers: number of operations.
        magnitude: of all of them, in 0..30.

    Returns:
        (H, W, 3) uint8.

    Example:
        >>> vary(tf.zeros((8, 8, 3), tf.uint8), tf.constant([0, 1], tf.int64), 2, 10.0).shape
        TensorShape([8, 8, 3])
    """
    strength = magnitude / LARGEST
    for one in tf.unstack(tf.random.split(seed, layers)):
        chances = tf.random.stateless_uniform((2,), one)
        choice = tf.cast(chances[0] * len(OPERATIONS), tf.int32)
        sign = tf.where(chances[1] < 0.5, -1.0, 1.0)
        branches = [_branch(operation, pixels, sign, strength) for operation in OPERATIONS]
        pixels = tf.ensure_shape(tf.switch_case(choice, branches), pixels.shape)
    return pixels


def _branch(operation, pixels, sign, strength):
    return lambda: operation(pixels, sign, strength)


def rotate(pixels, sign, strength):
    """By up to 30 degrees."""
    angle = sign * strength * math.pi / 6
    return _transformed(pixels, [tf.cos(angle), tf.sin(angle), -tf.sin(angle), tf.cos(angle)])


def shear_x(pixels, sign, strength):
    """By up to 0.3."""
    return _transformed(pixels, [1.0, 0.3 * sign * strength, 0.0, 1.0])


def shear_y(pixels, sign, strength):
    return _transformed(pixels, [1.0, 0.0, 0.3 * sign * strength, 1.0])


def translate_x(pixels, sign, strength):
    """By up to 0.45 of the width."""
    return _transformed(pixels, [1.0, 0.0, 0.0, 1.0], shift_x=0.45 * sign * strength)


def translate_y(pixels, sign, strength):
    return _transformed(pixels, [1.0, 0.0, 0.0, 1.0], shift_y=0.45 * sign * strength)


def _transformed(pixels, matrix, shift_x=0.0, shift_y=0.0):
    """The picture under a linear map around its center and a shift, in shares of its sides."""
    a, b, c, d = (tf.cast(value, tf.float32) for value in matrix)
    height, width = (tf.cast(side, tf.float32) for side in tf.unstack(tf.shape(pixels)[:2]))
    middle_x, middle_y = (width - 1.0) / 2.0, (height - 1.0) / 2.0
    x = middle_x - a * middle_x - b * middle_y + shift_x * width
    y = middle_y - c * middle_x - d * middle_y + shift_y * height
    transforms = tf.stack([a, b, x, c, d, y, 0.0, 0.0])[None]
    result = tf.raw_ops.ImageProjectiveTransformV3(
        images=pixels[None],
        transforms=transforms,
        output_shape=tf.shape(pixels)[:2],
        interpolation="NEAREST",
        fill_mode="CONSTANT",
        fill_value=GRAY,
    )
    return result[0]


def auto_contrast(pixels, sign, strength):
    """Each channel stretched to 0..255."""
    values = tf.cast(pixels, tf.float32)
    low, high = tf.reduce_min(values, (0, 1)), tf.reduce_max(values, (0, 1))
    scale = tf.where(high > low, 255.0 / tf.maximum(high - low, 1.0), 1.0)
    return _bytes((values - tf.where(high > low, low, 0.0)) * scale)


def equalize(pixels, sign, strength):
    """Each channel's values replaced by the share of pixels below them."""
    channels = tf.cast(tf.reshape(pixels, (-1, 3)), tf.int32)
    tables = []
    for channel in range(3):
        histogram = tf.math.bincount(channels[:, channel], minlength=256, maxlength=256)
        below = tf.cast(tf.cumsum(histogram), tf.float32)
        lowest = tf.cast(histogram[tf.reduce_min(channels[:, channel])], tf.float32)
        spread = below[-1] - lowest
        levels = (below - lowest) * 255.0 / tf.maximum(spread, 1.0)
        tables.append(tf.where(spread > 0, levels, tf.range(256.0)))
    places = channels + tf.constant([0, 256, 512])
    return tf.reshape(tf.gather(_bytes(tf.concat(tables, 0)), places), tf.shape(pixels))


def invert(pixels, sign, strength):
    return 255 - pixels


def posterize(pixels, sign, strength):
    """Keeps 8 to 4 bits."""
    dropped = round(4 * strength)
    return tf.bitwise.left_shift(
        tf.bitwise.right_shift(pixels, tf.constant(dropped, tf.uint8)),
        tf.constant(dropped, tf.uint8),
    )


def solarize(pixels, sign, strength):
    """Inverts what is above a threshold of 256 to 0."""
    threshold = min(round(256 * (1.0 - strength)), 255)
    above = tf.cast(pixels >= tf.constant(threshold, tf.uint8), tf.uint8)
    return tf.bitwise.bitwise_xor(pixels, 255 * above)


def solarize_add(pixels, sign, strength):
    """Adds up to 110 to what is below 128."""
    below = tf.cast(pixels < 128, tf.uint8)
    return pixels + tf.constant(round(110 * strength), tf.uint8) * below


def color(pixels, sign, strength):
    """Towards gray or away from it, by up to 0.9."""
    return _blend(pixels, _gray(pixels), sign, strength)


def contrast(pixels, sign, strength):
    """Towards the mean gray or away from it, by up to 0.9."""
    return _blend(pixels, tf.reduce_mean(_gray(pixels)), sign, strength)


def brightness(pixels, sign, strength):
    """Times 0.1 to 1.9."""
    return _blend(pixels, 0.0, sign, strength)


def sharpness(pixels, sign, strength):
    """Towards a 3 x 3 blur or away from it, by up to 0.9; the border stays."""
    values = tf.cast(pixels, tf.float32)
    kernel = tf.constant([[1.0, 1.0, 1.0], [1.0, 5.0, 1.0], [1.0, 1.0, 1.0]]) / 13.0
    kernel = tf.tile(kernel[:, :, None, None], (1, 1, 3, 1))
    blurred = tf.nn.depthwise_conv2d(values[None], kernel, (1, 1, 1, 1), "VALID")[0]
    inner = tf.pad(blurred - values[1:-1, 1:-1], [[1, 1], [1, 1], [0, 0]])
    return _blend(pixels, values + inner, sign, strength)


def _factor(sign, strength):
    return 1.0 + 0.9 * strength * sign


def _blend(pixels, other, sign, strength):
    values = tf.cast(pixels, tf.float32)
    return _bytes(other + _factor(sign, strength) * (values - other))


def _gray(pixels):
    return tf.tensordot(tf.cast(pixels, tf.float32), tf.constant([0.299, 0.587, 0.114]), 1)[
        ..., None
    ]


def _bytes(values):
    return tf.cast(tf.round(tf.clip_by_value(values, 0.0, 255.0)), tf.uint8)


OPERATIONS = (
    rotate,
    shear_x,
    shear_y,
    translate_x,
    translate_y,
    auto_contrast,
    equalize,
    invert,
    posterize,
    solarize,
    solarize_add,
    color,
    contrast,
    brightness,
    sharpness,
)
"""Those of the paper's search space, with the inversion and the addition of later versions."""
