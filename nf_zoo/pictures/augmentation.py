"""Random variations of batches of pictures: one table of operations, on any backend.

An operation is a function that stands in the table with its fields. From them follow the options
of ``finetune``, with their flags, help and checks, and the ``augmentation`` block of the recipes
of training/.

All chance is in the ``draws``, which NumPy makes for the pictures of a whole step by the seed and
their place in it: neither replicas nor restarts change what happens to a picture. A pair of
neighbors in the batch is mixed, the first with the second and so on, so that no pair is cut apart
between replicas of an even number of pictures.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import math
import operator
import types
import zlib
from collections.abc import Callable, Iterator

from nf_zoo.options import Kind, Options, choice, number, option
from nf_zoo.pictures.preprocessing import LUMA


class _Late:
    """``keras.ops``, imported at its first use: the command line reads the table for its help."""

    def __getattr__(self, name: str):
        import keras

        return getattr(keras.ops, name)


ops = _Late()

GRAY = 128.0
"""The pixels around a picture."""

SHARE = number("in [0, 1]", lambda x: 0 <= x <= 1, "SHARE")
AREA = number("in [0.001, 1]", lambda x: 1e-3 <= x <= 1)
LAYERS = Kind("an integer in [0, 16]", None, lambda x: 0 <= x <= 16, operator.index)
MAGNITUDE = number("in [0, 30]", lambda x: 0 <= x <= 30)
ALPHA = number("0 (off) or more", lambda x: 0 <= x < math.inf, "ALPHA")


_recipe_field = functools.partial(option, finetune=False)


@dataclasses.dataclass(frozen=True)
class Operation:
    """A row of the table: a function, what it draws, when it is on, and its fields by name."""

    apply: Callable
    draw: Callable
    active: Callable
    mixes: bool
    fields: dict[str, dataclasses.Field]


OPERATIONS: list[Operation] = []
"""In the order in which they are applied; those that mix pictures come last."""


def operation(draws: int | Callable, active: Callable | None = None, mixes=False, **fields):
    """Put a function in the table.

    The function takes pictures (N, H, W, 3), float32 in 0..255, a list of what was drawn, each
    (N,), and ``given``, which has every field of the table, the ``size`` of a side that the
    pictures are to have, or None, and their ``mean`` color. It returns the pictures.

    Args:
        draws: how many numbers in [0, 1) a picture draws, or (NumPy generator, N, given) -> array
            (N, columns).
        active: given -> whether it has anything to do; by default if the first field is not 0.
        mixes: whether it mixes pictures, and takes and returns their targets, (N, classes), too.
        **fields: of :func:`nf_zoo.options.option`; those with ``finetune=False`` are of recipes
            alone.

    Example:
        >>> @operation(draws=1, inverting=option(0.0, "share of the pictures inverted", SHARE))
        ... def invert(images, draws, given):
        ...     return where(draws[0] < given.inverting, lambda: 255.0 - images, images)
    """
    first = next(iter(fields))

    def register(function):
        draw = draws if callable(draws) else lambda rng, count, _: _uniform(rng, count, draws)
        switch = active or (lambda given: getattr(given, first))
        OPERATIONS.append(Operation(function, draw, switch, mixes, fields))
        return function

    return register


def _uniform(rng, count: int, columns: int):
    return rng.random((count, columns), "float32")


def where(chosen, changed: Callable, images):
    """The pictures, of which some (N,) are what ``changed()`` gives; one alone costs no more."""
    if images.shape[0] == 1:
        return ops.cond(chosen[0], changed, lambda: images)
    return ops.where(_each(chosen), changed(), images)


class Augmentation:
    """The operations that some settings ask for.

    Args:
        settings: a :class:`Settings`.
        seed: any integer.
        batch_size: pictures of a whole step.
        mean: of the channels, on the scale 0..1.

    Example:
        >>> augment = Augmentation(Settings(crop="none", mixup=0.2), seed=0, batch_size=4)
        >>> images, draws = np.zeros((4, 8, 8, 3), "uint8"), augment.draws(step=0)
        >>> images, targets = augment.mix(augment(images, draws), np.eye(4, dtype="float32"), draws)
        >>> images.shape, targets.shape
        (TensorShape([4, 8, 8, 3]), TensorShape([4, 4]))
    """

    def __init__(self, settings, seed: int, batch_size: int, mean=(0.5, 0.5, 0.5)):
        self.settings, self.batch_size, self._seed = settings, batch_size, seed % 2**64
        self._mean = [255.0 * value for value in mean]
        self._operations = [one for one in OPERATIONS if one.active(settings)]
        widths = [part.shape[1] for part in self._drawn(0, 0)]
        self._ends = list(itertools.accumulate(widths, initial=0))
        self.width = self._ends[-1]

    def _drawn(self, step: int, count: int) -> Iterator:
        import numpy as np

        for one in self._operations:
            # By its name, so that no operation changes what another draws.
            key = self._seed, int(step), zlib.crc32(one.apply.__name__.encode())
            yield one.draw(np.random.default_rng(key), count, self.settings)

    def draws(self, step: int, first: int = 0, count: int | None = None):
        """Return the chances of some pictures of a step, (count, ``width``) float32."""
        import numpy as np

        end = self.batch_size if count is None else first + count
        return np.concatenate([*self._drawn(step, self.batch_size)], 1, dtype="float32")[first:end]

    def __call__(self, images, draws, size: int | None = None):
        """Vary pictures (N, H, W, 3) by ``draws`` (N, ``width``), to float32 in 0..255.

        ``size`` is that of a side of the result, in pixels; None: that of ``images``.
        """
        given = types.SimpleNamespace(**vars(self.settings), size=size, mean=self._mean)
        images = ops.cast(images, "float32")
        for one, chances in self._with_draws(draws, mixes=False):
            images = one.apply(images, chances, given)
        return images

    def mix(self, images, targets, draws):
        """Mix the pictures of a batch, (N, H, W, 3), and their targets, (N, classes)."""
        for one, chances in self._with_draws(draws, mixes=True):
            images, targets = one.apply(images, targets, chances, self.settings)
        return images, targets

    def _with_draws(self, draws, mixes: bool) -> Iterator:
        for one, span in zip(self._operations, itertools.pairwise(self._ends), strict=True):
            if one.mixes == mixes:
                yield one, [draws[:, column] for column in range(*span)]


# --- the table --------------------------------------------------------------------------------


@operation(
    draws=4,
    active=lambda given: True,
    crop=_recipe_field(
        "resized",
        '"resized" takes a part of the picture, "shift" moves it by up to an eighth',
        choice("resized", "shift", "none"),
    ),
    smallest_area=_recipe_field(0.08, "share of the picture that a resized crop keeps", AREA),
)
def crop(images, draws, given):
    """Take a window of each picture, at an aspect ratio of 3/4 to 4/3 (Szegedy et al. 2015)."""
    height, width = images.shape[1:3]
    size = given.size or height
    if given.crop == "none" and size == height:
        return images
    area, aspect, top, left = draws
    tall, wide = ops.full_like(top, height), ops.full_like(left, width)
    if given.crop == "none":
        top, left = ops.zeros_like(top), ops.zeros_like(left)
    elif given.crop == "shift":
        top = ops.floor(top * (2 * (height // 8) + 1)) - height // 8
        left = ops.floor(left * (2 * (width // 8) + 1)) - width // 8
    else:
        area, aspect = _linear(area, given.smallest_area, 1.0), _ratio(aspect, 3 / 4, 4 / 3)
        tall = ops.minimum(ops.sqrt(area / aspect), 1.0) * height
        wide = ops.minimum(ops.sqrt(area * aspect), 1.0) * width
        top, left = top * (height - tall), left * (width - wide)
    return resample(images, (top, left, tall, wide), size)


@operation(
    draws=1,
    flip=option(
        True, "mirror half of the training pictures. Switch off where left and right matter"
    ),
)
def flip(images, draws, given):
    return where(draws[0] < 0.5, lambda: ops.flip(images, 2), images)


@operation(
    draws=lambda rng, count, given: _uniform(rng, count, 2 * given.randaugment_layers),
    randaugment_layers=_recipe_field(0, "operations of RandAugment for each picture", LAYERS),
    randaugment_magnitude=_recipe_field(10.0, "how strong they are, of 30", MAGNITUDE),
)
def randaugment(images, draws, given):
    """Apply operations drawn with equal chance, to one side or the other (Cubuk et al. 2020)."""
    images, strength = _whole(images), given.randaugment_magnitude / 30.0
    for chosen, side in zip(draws[::2], draws[1::2], strict=True):
        amount = ops.where(side < 0.5, -strength, strength)
        images = change(images, ops.floor(chosen * len(CHANGES)), amount)
    return images


@operation(
    draws=5,
    erasing=option(0.0, "share of the pictures with a rectangle grayed out; 0 is off", SHARE),
)
def erase(images, draws, given):
    """Give a rectangle the mean color (Zhong et al. 2020, "Random erasing")."""
    chance, area, aspect, top, left = draws
    height, width = images.shape[1:3]
    area, aspect = _linear(area, 0.02, 0.2), _ratio(aspect, 0.3, 1 / 0.3)
    tall = ops.minimum(ops.sqrt(area * aspect) * height, float(height))
    wide = ops.minimum(ops.sqrt(area / aspect) * width, float(width))
    top, left = ops.round(top * (height - tall)), ops.round(left * (width - wide))

    def erased():
        inside = _rectangle(height, width, top, left, tall, wide)
        return ops.where(inside, ops.convert_to_tensor(given.mean, "float32"), images)

    return where(chance < given.erasing, erased, images)


def _mixing_draws(rng, count, given):
    """Cut or not, how much of its own picture stays, and two numbers for the place of the cut."""
    import numpy as np

    cut, ratio, *place = rng.random((4, count))
    cut = cut < (0.5 if given.mixup and given.cutmix else 1.0 if given.cutmix else 0.0)
    for alpha, rows in ((given.mixup, ~cut), (given.cutmix, cut)):
        if alpha:
            ratio = np.where(rows, rng.beta(alpha, alpha, count), ratio)
    return np.stack([cut, ratio, *place], 1)


@operation(
    draws=_mixing_draws,
    active=lambda given: given.mixup or given.cutmix,
    mixes=True,
    mixup=option(0.0, "alpha of the mixing of pictures; 0.2 is usual, 0 is off", ALPHA),
    cutmix=option(0.0, "the same for pasted pieces; 1.0 is usual, 0 is off", ALPHA),
)
def mix(images, targets, draws, given):
    """MixUp (Zhang et al. 2018) or CutMix (Yun et al. 2019) of each picture with its neighbor."""
    cut, ratio, top, left = draws
    height, width = images.shape[1:3]
    side, cut = ops.sqrt(1.0 - ratio), cut > 0.5
    tall, wide = side * height, side * width
    # Around a center drawn over the whole picture, cut off at its border.
    top, left = top * height - tall / 2, left * width - wide / 2
    kept = 1.0 - ops.cast(_rectangle(height, width, top, left, tall, wide), "float32")
    share = ops.where(cut, ops.mean(kept, (1, 2, 3)), ratio)
    kept = ops.where(_each(cut), kept, _each(ratio))
    others, other_targets = _neighbors(images), _neighbors(targets)
    images = others + kept * (images - others)
    return images, other_targets + share[:, None] * (targets - other_targets)


def _record(name: str, fields: dict[str, dataclasses.Field]) -> type[Options]:
    rows = [(key, type(field.default).__name__, field) for key, field in fields.items()]
    return dataclasses.make_dataclass(name, rows, bases=(Options,), frozen=True)


FIELDS = {name: field for one in OPERATIONS for name, field in one.fields.items()}
Settings = _record("Settings", FIELDS)
"""Every field of the table, as a record that checks them."""

FineTuning = _record(
    "FineTuning", {k: f for k, f in FIELDS.items() if f.metadata.get("finetune", True)}
)
"""Those that are options of ``finetune``."""


# --- the operations of RandAugment -------------------------------------------------------------

CHANGES = (
    *("rotate", "shear_x", "shear_y", "translate_x", "translate_y"),
    *("auto_contrast", "equalize", "invert", "posterize", "solarize", "solarize_add"),
    *("contrast", "brightness", "color", "sharpness"),
)
"""Those of the paper's search space, with the inversion and the addition of later versions."""


def change(images, chosen, amount):
    """Apply one of ``CHANGES`` to each picture.

    Each is computed where a picture of the batch drew it, and for many at once: those that are
    maps of the plane, those that are tables of the 256 levels, and two more.

    Args:
        images: (N, H, W, 3) float32, whole numbers in 0..255, as is the result.
        chosen: (N,) which one.
        amount: (N,) how much, in [-1, 1]; the sign matters to those that have two sides.

    Example:
        >>> images, chosen = np.full((1, 2, 2, 3), 9.0, "float32"), [CHANGES.index("invert")]
        >>> float(change(images, np.array(chosen), np.float32([1]))[0, 0, 0, 0])
        246.0
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
    """The pictures under linear maps around their centers and shifts, of the nearest pixels."""
    count, height, width, channels = images.shape
    angle = amount_of("rotate") * (math.pi / 6)
    cosine, sine = _each(ops.cos(angle)), ops.sin(angle)
    # One of these is not 0.
    to_x = _each(sine + 0.3 * amount_of("shear_x"))
    to_y = _each(0.3 * amount_of("shear_y") - sine)
    right, down = 0.45 * amount_of("translate_x"), 0.45 * amount_of("translate_y")
    middle_x, middle_y = (width - 1) / 2, (height - 1) / 2
    x = ops.reshape(ops.arange(width, dtype="float32") - middle_x, (1, 1, width, 1))
    y = ops.reshape(ops.arange(height, dtype="float32") - middle_y, (1, height, 1, 1))
    column = ops.round(cosine * x + to_x * y + _each(middle_x + right * width))
    row = ops.round(to_y * x + cosine * y + _each(middle_y + down * height))
    inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
    first = _each(ops.arange(count, dtype="int32") * (height * width))
    place = first + ops.cast(row * width + column, "int32")
    # A gray pixel behind the last picture stands for what is outside.
    pixels = ops.pad(ops.reshape(images, (-1, channels)), ((0, 1), (0, 0)), constant_values=GRAY)
    place = ops.where(inside, place, count * height * width)
    return _taken(pixels, place[..., 0])


def _looked_up(images, drew, amount):
    """The pictures, with each level of each channel replaced by what a table says."""
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
    return _taken(ops.reshape(_whole(table), (-1,)), places)


def _on_tensorflow() -> bool:
    import keras

    return keras.backend.backend() == "tensorflow"


def _counted(values, count: int):
    """How many there are of each whole number below ``count``."""
    if _on_tensorflow():  # five times as fast on a processor
        import tensorflow as tf

        return tf.raw_ops.DenseBincount(input=values, size=count, weights=[], binary_output=False)
    return ops.segment_sum(ops.ones_like(values), values, num_segments=count)


def _taken(values, places):
    """The rows at some places."""
    if _on_tensorflow():  # where Keras spends as long again on negative places
        import tensorflow as tf

        return tf.gather(values, places)
    return ops.take(values, places, axis=0)


def _blended(images, others, amount):
    """Away from the other pictures, or towards them, by up to 0.9."""
    return _whole(others + _each(1.0 + 0.9 * amount) * (images - others))


def _gray(images):
    return sum(share * images[..., i : i + 1] for i, share in enumerate(LUMA))


def _blurred(images):
    """The mean of 3 x 3 pixels, in which their middle counts five times; the border stays."""
    rows = images[:, :-2] + images[:, 1:-1] + images[:, 2:]
    sums = rows[:, :, :-2] + rows[:, :, 1:-1] + rows[:, :, 2:]
    inner = images[:, 1:-1, 1:-1]
    change = (sums + 4.0 * inner) / 13.0 - inner
    return images + ops.pad(change, ((0, 0), (1, 1), (1, 1), (0, 0)))


def _whole(values):
    return ops.round(ops.clip(values, 0.0, 255.0))


# --- geometry ----------------------------------------------------------------------------------


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
    # A center on the border is outside, however it is rounded.
    return weights, (centers > 1e-4) & (centers < length - 1e-4)


def _rectangle(height: int, width: int, top, left, tall, wide):
    """(N, H, W, 1): whether a pixel's center is inside of it."""

    def within(length, first, extent):
        place = ops.arange(length, dtype="float32")[None] + 0.5
        return (place >= first[:, None]) & (place < (first + extent)[:, None])

    rows, columns = within(height, top, tall), within(width, left, wide)
    return rows[:, :, None, None] & columns[:, None, :, None]


def _neighbors(values):
    """Entry 1 in the place of 0 and 0 in that of 1, and so on; the last of an odd number stays."""
    count = values.shape[0]
    order = [min(place ^ 1, count - 1) for place in range(count)]
    return ops.take(values, ops.convert_to_tensor(order, "int32"), axis=0)


def _linear(chance, low: float, high: float):
    return low + (high - low) * chance


def _ratio(chance, low: float, high: float):
    """From ``low`` to ``high``, even in the logarithm."""
    return ops.exp(_linear(chance, math.log(low), math.log(high)))


def _each(values):
    """(N,) -> (N, 1, 1, 1)."""
    return values[:, None, None, None]
