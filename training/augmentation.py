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

from training.recipe import in_memory

MIXING = ("flip", "erase", "area", "aspect", "top", "left", "cut", "ratio", "cut_top", "cut_left")
WINDOW = ("window_area", "window_aspect", "window_top", "window_left")
COLUMNS = (*MIXING, *WINDOW)
"""Columns of ``draws``."""

GRAY = 128.0
"""The pixels around a picture."""

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
    draws = generator.random((recipe.batch_size, len(MIXING)), dtype="float32")
    mixup, cutmix = recipe.augmentation.mixup, recipe.augmentation.cutmix
    cut = draws[:, 6] < (0.5 if mixup and cutmix else 1.0 if cutmix else 0.0)
    ratio = np.ones(recipe.batch_size)
    for alpha, rows in ((mixup, ~cut), (cutmix, cut)):
        if alpha:
            ratio[rows] = generator.beta(alpha, alpha, recipe.batch_size)[rows]
    draws[:, 6], draws[:, 7] = cut, ratio
    window = generator.random((recipe.batch_size, len(WINDOW)), dtype="float32")
    return np.concatenate([draws, window], 1)[first : first + count]


def vary(recipe, images, classes, draws, num_classes: int, size: int | None = None):
    """The pictures and targets that a step trains on.

    Args:
        recipe: a :func:`training.recipe.default`.
        images: (N, H, W, 3) uint8; those of sets in memory are cropped here, others were before.
        classes: (N,) integers.
        draws: (N, len(COLUMNS)), from :func:`make_draws`.
        num_classes: length of a target.
        size: pixels of a side that they are resized to; None: the recipe's ``input_size``.

    Returns:
        Normalized pictures, (N, size, size, 3), and targets with label smoothing,
        (N, num_classes), both float32.
    """
    given = recipe.augmentation
    images = ops.cast(images, "float32")
    chance = {name: draws[:, index] for index, name in enumerate(COLUMNS)}
    if given.flip:
        flipped = _each(chance["flip"] < 0.5)
        images = ops.where(flipped, images[:, :, ::-1], images)
    crop = given.crop if in_memory(recipe) else "none"
    size = size or recipe.data.input_size or images.shape[1]
    if crop != "none" or size != images.shape[1]:
        window = _window(crop, given.smallest_area, images.shape[1:3], chance)
        images = resample(images, window, size)
    images = normalize(recipe, images)
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


def for_test(recipe, images):
    """The pictures of an evaluation, (N, H, W, 3), normalized and of the recipe's ``test_size``."""
    height, width = images.shape[1:3]
    size = recipe.data.test_size
    if in_memory(recipe) and (height, width) != (size, size):
        ones = ops.ones(images.shape[0])
        window = 0.0 * ones, 0.0 * ones, height * ones, width * ones
        images = resample(ops.cast(images, "float32"), window, size)
    return normalize(recipe, images)


def resample(images, window, size: int):
    """Resize a window of each picture bilinearly and without aliasing, as Pillow resizes a box.

    Resizing is linear, so that a matrix for each axis does it, on any device. What lies outside
    of the picture is gray.

    Args:
        images: (N, H, W, C).
        window: (top, left, height, width), each (N,), in pixels.
        size: pixels of a side of the result.

    Returns:
        (N, size, size, C) float32.
    """
    top, left, tall, wide = window
    rows, row_inside = _resizing_matrix(images.shape[1], top, tall, size)
    columns, column_inside = _resizing_matrix(images.shape[2], left, wide, size)
    pixels = ops.einsum("nah,nhwc->nawc", rows, images)
    pixels = ops.einsum("nbw,nawc->nabc", columns, pixels)
    inside = row_inside[:, :, None, None] & column_inside[:, None, :, None]
    return ops.where(inside, pixels, GRAY)


def _resizing_matrix(length: int, first, extent, size: int):
    """The weights (N, size, length) of each pixel of a line, and whether it is inside (N, size)."""
    scale = ops.cast(extent, "float32")[:, None] / size
    centers = (
        ops.cast(first, "float32")[:, None] + (ops.arange(size, dtype="float32") + 0.5) * scale
    )
    distance = ops.arange(length, dtype="float32") + 0.5 - centers[:, :, None]
    weights = ops.maximum(1.0 - ops.abs(distance) / ops.maximum(scale, 1.0)[:, :, None], 0.0)
    weights = weights / ops.maximum(ops.sum(weights, -1, keepdims=True), 1e-6)
    return weights, (centers > 0.0) & (centers < length)


def _window(crop: str, smallest_area: float, shape, chance):
    """What :func:`resample` takes of each picture.

    ``"shift"`` moves it by up to an eighth of its side. ``"resized"`` takes a share of the area
    at an aspect ratio of 3/4 to 4/3 (Szegedy et al. 2015).
    """
    height, width = shape
    top, left = chance["window_top"], chance["window_left"]
    whole = ops.full_like(top, height), ops.full_like(left, width)
    if crop == "none":
        return ops.zeros_like(top), ops.zeros_like(left), *whole
    if crop == "shift":
        rooms = height // 8, width // 8
        moves = [
            ops.floor(draw * (2 * room + 1)) - room
            for draw, room in zip((top, left), rooms, strict=True)
        ]
        return *moves, *whole
    area = smallest_area + (1.0 - smallest_area) * chance["window_area"]
    aspect = ops.exp(
        math.log(3 / 4) + (math.log(4 / 3) - math.log(3 / 4)) * chance["window_aspect"]
    )
    tall = ops.minimum(ops.sqrt(area / aspect), 1.0) * height
    wide = ops.minimum(ops.sqrt(area * aspect), 1.0) * width
    return top * (height - tall), left * (width - wide), tall, wide


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
