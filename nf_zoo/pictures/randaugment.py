"""The operations of RandAugment (Cubuk et al. 2020), on batches and any backend."""

import math
from collections.abc import Callable

from nf_zoo.pictures.preprocessing import LUMA
from nf_zoo.pictures.resampling import GRAY, each, ops

CHANGES = (
    *("rotate", "shear_x", "shear_y", "translate_x", "translate_y"),
    *("auto_contrast", "equalize", "invert", "posterize", "solarize", "solarize_add"),
    *("contrast", "brightness", "color", "sharpness"),
)
"""Those of the paper's search space, with the inversion and the addition of later versions."""


def change(images, chosen, amount):
    """Apply one of ``CHANGES`` to each picture.

    A change is computed only if a picture of the batch drew it. Maps of the plane are computed
    together, and so are tables of the 256 levels. Images and result are (N, H, W, 3) float32, whole
    numbers in 0..255; ``chosen`` (N,) says which change, and ``amount`` (N,) how much, in [-1, 1].
    """

    def drew(*names: str):
        places = [CHANGES.index(name) for name in names]
        return (chosen >= min(places)) & (chosen <= max(places))

    def amount_of(name: str):
        return ops.where(drew(name), amount, 0.0)

    images = _if_any(drew("rotate", "translate_y"), lambda: _moved(images, amount_of), images)
    images = _if_any(
        drew("auto_contrast", "brightness"), lambda: _looked_up(images, drew, amount), images
    )
    colored, sharpened = amount_of("color"), amount_of("sharpness")
    images = _if_any(drew("color"), lambda: _blended(images, _gray(images), colored), images)
    return _if_any(drew("sharpness"), lambda: _blended(images, _blurred(images), sharpened), images)


def _if_any(some, changed: Callable, images):
    return ops.cond(ops.any(some), changed, lambda: images)


def _moved(images, amount_of):
    """Map the pictures linearly about their centers and shift them, by nearest pixels."""
    count, height, width, channels = images.shape
    angle = amount_of("rotate") * (math.pi / 6)
    cosine, sine = each(ops.cos(angle)), ops.sin(angle)
    # One of these is not 0.
    to_x = each(sine + 0.3 * amount_of("shear_x"))
    to_y = each(0.3 * amount_of("shear_y") - sine)
    right, down = 0.45 * amount_of("translate_x"), 0.45 * amount_of("translate_y")
    middle_x, middle_y = (width - 1) / 2, (height - 1) / 2
    x = ops.reshape(ops.arange(width, dtype="float32") - middle_x, (1, 1, width, 1))
    y = ops.reshape(ops.arange(height, dtype="float32") - middle_y, (1, height, 1, 1))
    column = ops.round(cosine * x + to_x * y + each(middle_x + right * width))
    row = ops.round(to_y * x + cosine * y + each(middle_y + down * height))
    inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
    first = each(ops.arange(count, dtype="int32") * (height * width))
    place = first + ops.cast(row * width + column, "int32")
    # A gray pixel behind the last picture stands for what is outside.
    pixels = ops.pad(ops.reshape(images, (-1, channels)), ((0, 1), (0, 0)), constant_values=GRAY)
    place = ops.where(inside, place, count * height * width)
    return _taken(pixels, place[..., 0])


def _looked_up(images, drew, amount):
    """Replace each level of each channel by the entry of a table."""
    levels = ops.arange(256, dtype="float32")[None, None]
    total, count = images.shape[1] * images.shape[2], images.shape[0]
    # A table of its own for each channel of each picture, one after the other.
    offset = ops.reshape(ops.arange(count * 3, dtype="int32") * 256, (-1, 1, 1, 3))
    places = ops.cast(images, "int32") + offset
    counts = _counted(ops.reshape(places, (-1,)), count * 768)
    counts = ops.cast(ops.reshape(counts, (-1, 3, 256)), "float32")
    there = ops.cast(counts > 0, "float32")
    low = ops.cast(ops.argmax(there, -1), "float32")[..., None]
    high = 255.0 - ops.cast(ops.argmax(ops.flip(there, -1), -1), "float32")[..., None]
    below = ops.cumsum(counts, -1)
    lowest = ops.take_along_axis(counts, ops.cast(low, "int32"), -1)
    means = ops.sum(counts * levels, -1, keepdims=True) / total
    gray = ops.sum(means * ops.convert_to_tensor(LUMA, "float32")[None, :, None], 1, keepdims=True)
    amount = amount[:, None, None]
    strength, factor = ops.abs(amount), 1.0 + 0.9 * amount
    kept = 2.0 ** ops.round(4.0 * strength)
    threshold = ops.minimum(ops.round(256.0 * (1.0 - strength)), 255.0)
    tables = {
        "auto_contrast": ops.where(
            high > low, (levels - low) * (255.0 / ops.maximum(high - low, 1.0)), levels
        ),
        "equalize": ops.where(
            lowest < total, (below - lowest) * 255.0 / ops.maximum(total - lowest, 1.0), levels
        ),
        "invert": 255.0 - levels,
        "posterize": ops.floor(levels / kept) * kept,
        "solarize": ops.where(levels >= threshold, 255.0 - levels, levels),
        "solarize_add": ops.where(levels < 128, levels + ops.round(110.0 * strength), levels),
        "contrast": gray + factor * (levels - gray),
        "brightness": factor * levels,
    }
    table = ops.zeros_like(counts) + levels
    for name, other in tables.items():
        table = ops.where(drew(name)[:, None, None], other, table)
    return _taken(ops.reshape(whole(table), (-1,)), places)


def _on_tensorflow() -> bool:
    import keras

    return keras.backend.backend() == "tensorflow"


def _counted(values, count: int):
    """Count each whole number below ``count``."""
    if _on_tensorflow():  # five times as fast on a processor
        import tensorflow as tf

        return tf.raw_ops.DenseBincount(input=values, size=count, weights=[], binary_output=False)
    return ops.segment_sum(ops.ones_like(values), values, num_segments=count)


def _taken(values, places):
    """Return the rows at some places."""
    if _on_tensorflow():  # where Keras spends as long again on negative places
        import tensorflow as tf

        return tf.gather(values, places)
    return ops.take(values, places, axis=0)


def _blended(images, others, amount):
    """Blend with the other pictures: towards them, or away from them, by up to 0.9."""
    return whole(others + each(1.0 + 0.9 * amount) * (images - others))


def _gray(images):
    return sum(share * images[..., i : i + 1] for i, share in enumerate(LUMA))


def _blurred(images):
    """Return means of 3 x 3 pixels, whose middle counts five times; the border stays."""
    rows = images[:, :-2] + images[:, 1:-1] + images[:, 2:]
    sums = rows[:, :, :-2] + rows[:, :, 1:-1] + rows[:, :, 2:]
    inner = images[:, 1:-1, 1:-1]
    change = (sums + 4.0 * inner) / 13.0 - inner
    return images + ops.pad(change, ((0, 0), (1, 1), (1, 1), (0, 0)))


def whole(values):
    return ops.round(ops.clip(values, 0.0, 255.0))
