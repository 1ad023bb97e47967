"""Random variations of a batch, computed on the accelerator that trains.

All chance is in ``draws``, made on the host for the pictures of the whole step by their place in
it: neither replicas nor hosts nor an interruption change what happens to a picture. Pictures are
mixed with their neighbor in the batch, the first with the second and so on, so that a pair is
never cut apart between replicas.
"""

from __future__ import annotations

import math

import numpy as np
from keras import ops
from PIL import Image

COLUMNS = ("flip", "erase", "area", "aspect", "top", "left", "cut", "ratio", "cut_top", "cut_left")
"""Columns of ``draws``."""

ERASED_AREA = (0.02, 0.2)
ERASED_ASPECT = (0.3, 1 / 0.3)


def make_draws(recipe, step: int, first: int, count: int) -> np.ndarray:
    """The chances of pictures ``first`` to ``first + count`` of one step.

    Args:
        recipe: a :func:`training.recipe.default`.
        step: of the optimizer, from 0.
        first: place in the whole batch.
        count: number of pictures.

    Returns:
        (count, len(COLUMNS)) float32 in [0, 1].
    """
    generator = np.random.Generator(np.random.Philox(key=(recipe.seed, step)))
    draws = generator.random((recipe.batch_size, len(COLUMNS)), dtype="float32")
    mixup, cutmix = recipe.augmentation.mixup, recipe.augmentation.cutmix
    cut = draws[:, 6] < (0.5 if mixup and cutmix else 1.0 if cutmix else 0.0)
    ratio = np.ones(recipe.batch_size)
    for alpha, rows in ((mixup, ~cut), (cutmix, cut)):
        if alpha:
            ratio[rows] = generator.beta(alpha, alpha, recipe.batch_size)[rows]
    draws[:, 6], draws[:, 7] = cut, ratio
    return draws[first : first + count]


def vary(recipe, images, classes, draws, num_classes: int, size: int | None = None):
    """The pictures and targets that a step trains on.

    Args:
        recipe: a :func:`training.recipe.default`.
        images: (N, H, W, 3) uint8, cropped.
        classes: (N,) integers.
        draws: (N, len(COLUMNS)), from :func:`make_draws`.
        num_classes: length of a target.
        size: pixels of a side that they are shrunk to; None for those they have.

    Returns:
        Normalized pictures, (N, H, W, 3) or (N, size, size, 3), and targets with label smoothing,
        (N, num_classes), both float32.
    """
    given = recipe.augmentation
    images = ops.cast(images, "float32")
    chance = {name: draws[:, index] for index, name in enumerate(COLUMNS)}
    if given.flip:
        flipped = _each(chance["flip"] < 0.5)
        images = ops.where(flipped, images[:, :, ::-1], images)
    images = normalize(recipe, images)
    if size:
        images = shrink(images, size)
    if given.erasing:
        erased = _rectangle_of_area(images, chance) & _each(chance["erase"] < given.erasing)
        images = ops.where(erased, 0.0, images)
    targets = ops.one_hot(classes, num_classes, dtype="float32")
    if given.mixup or given.cutmix:
        images, targets = _mix(images, targets, chance)
    smoothing = recipe.regularization.label_smoothing
    if smoothing:
        targets = targets * (1.0 - smoothing) + smoothing / num_classes
    return images, targets


def normalize(recipe, images):
    """Pixels in 0..255 -> ``(pixel / 255 - mean) / std``, float32."""
    mean = ops.convert_to_tensor(recipe.data.mean, "float32")
    std = ops.convert_to_tensor(recipe.data.std, "float32")
    return (ops.cast(images, "float32") / 255.0 - mean) / std


def shrink(images, size: int):
    """(N, H, W, C) -> (N, size, size, C), as Pillow's bilinear filter does it: without aliasing.

    Resizing is linear, so that a matrix for each axis does it, on any device.
    """
    rows, columns = (_resizing_matrix(length, size) for length in images.shape[1:3])
    return ops.einsum("ah,bw,nhwc->nabc", rows, columns, images)


def _resizing_matrix(length: int, size: int) -> np.ndarray:
    """(size, length): what Pillow makes of each unit vector."""
    units = Image.fromarray(np.eye(length, dtype="float32"))
    return np.asarray(units.resize((length, size), Image.Resampling.BILINEAR))


def _mix(images, targets, chance):
    """MixUp (Zhang et al. 2018) or CutMix (Yun et al. 2019) of each picture with its neighbor."""
    height, width = images.shape[1:3]
    ratio, cut = chance["ratio"], chance["cut"] > 0.5
    side = ops.sqrt(1.0 - ratio)
    inside = _rectangle(
        height, width, chance["cut_top"], chance["cut_left"], side * height, side * width
    )
    covered = ops.mean(ops.cast(inside, "float32"), (1, 2, 3))
    share = ops.where(cut, 1.0 - covered, ratio)
    others, other_targets = _neighbors(images), _neighbors(targets)
    kept = ops.where(_each(cut), ops.cast(~inside, "float32"), _each(ratio))
    images = others + kept * (images - others)
    targets = other_targets + share[:, None] * (targets - other_targets)
    return images, targets


def _neighbors(values):
    """Entry 1 in the place of 0 and 0 in that of 1, and so on; the last of an odd number stays."""
    count = values.shape[0]
    order = np.minimum(np.arange(count) ^ 1, count - 1)
    return ops.take(values, order, axis=0)


def _rectangle_of_area(images, chance):
    """(N, H, W, 1): the rectangle to erase (Zhong et al. 2020, "Random erasing")."""
    height, width = images.shape[1:3]
    area = ERASED_AREA[0] + (ERASED_AREA[1] - ERASED_AREA[0]) * chance["area"]
    low, high = (math.log(bound) for bound in ERASED_ASPECT)
    aspect = ops.exp(low + (high - low) * chance["aspect"])
    rows = ops.minimum(ops.sqrt(area * aspect) * height, float(height))
    columns = ops.minimum(ops.sqrt(area / aspect) * width, float(width))
    top = ops.round(chance["top"] * (height - rows))
    left = ops.round(chance["left"] * (width - columns))
    return _within(height, top, rows, 1) & _within(width, left, columns, 2)


def _rectangle(height: int, width: int, top, left, rows, columns):
    """(N, H, W, 1): around a center drawn over the whole picture, cut off at its border."""
    first_row, first_column = top * height - rows / 2, left * width - columns / 2
    return _within(height, first_row, rows, 1) & _within(width, first_column, columns, 2)


def _within(length: int, first, extent, axis: int):
    place = ops.arange(length, dtype="float32") + 0.5
    inside = (place[None] >= first[:, None]) & (place[None] < (first + extent)[:, None])
    return inside[:, :, None, None] if axis == 1 else inside[:, None, :, None]


def _each(values):
    """(N,) -> (N, 1, 1, 1)."""
    return values[:, None, None, None]
