"""Random variations of batches of pictures: one table of operations, on any backend.

An operation is a function that stands in the table with its fields. From them follow the options
of ``finetune``, with their flags, help and checks, and the ``augmentation`` block of the recipes
of training/.

All randomness is in the ``draws``. NumPy makes them for the pictures of a whole step, from the seed
and the step, so that neither replicas nor restarts change what happens to a picture. A pair of
neighbors in the batch is mixed, the first with the second and so on, so that no pair is cut apart
between replicas of an even number of pictures.
"""

import dataclasses
import functools
import itertools
import math
import operator
import types
import zlib
from collections.abc import Callable, Iterator

from nf_zoo.options import Kind, Options, choice, number, option
from nf_zoo.pictures.randaugment import CHANGES, change, whole
from nf_zoo.pictures.resampling import each, ops, rectangle, resample

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
    """Return ``changed()`` where ``chosen`` (N,) is true; for one picture only what is needed."""
    if images.shape[0] == 1:
        return ops.cond(chosen[0], changed, lambda: images)
    return ops.where(each(chosen), changed(), images)


class Augmentation:
    """The operations that some :class:`Settings` ask for.

    ``batch_size`` is that of a whole step, ``mean`` of the channels, on the scale 0..1.
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
    """Take a window of each picture, at an aspect ratio of 3/4 to 4/3 (Szegedy et al. 2015).

    In a picture whose shape is far from that, the largest such window is less than all of it.
    """
    height, width = images.shape[1:3]
    size = given.size or height
    if given.crop == "none" and size == height:
        return images
    return resample(images, window(draws, height, width, given), size)


def window(draws, height: int, width: int, given, shape: float = 1.0, xp=ops):
    """Return (top, left, height, width) of the windows of ``crop``, in pixels.

    ``draws`` are four numbers in [0, 1), or arrays (N,); ``shape`` is the width of the result
    divided by its height; ``xp`` is NumPy, or ``keras.ops`` for tensors.
    """
    area, aspect, top, left = draws[:4]
    tall, wide = xp.full_like(top, height), xp.full_like(left, width)
    if given.crop == "none":
        return xp.zeros_like(top), xp.zeros_like(left), tall, wide
    if given.crop == "shift":
        top = xp.floor(top * (2 * (height // 8) + 1)) - height // 8
        left = xp.floor(left * (2 * (width // 8) + 1)) - width // 8
        return top, left, tall, wide
    area = _linear(area, given.smallest_area, 1.0) * (height * width)
    aspect = _ratio(aspect, 3 / 4, 4 / 3, xp) * shape
    area = xp.minimum(area, xp.minimum(height**2 * aspect, width**2 / aspect))
    tall = xp.minimum(xp.sqrt(area / aspect), float(height))
    wide = xp.minimum(xp.sqrt(area * aspect), float(width))
    return top * (height - tall), left * (width - wide), tall, wide


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
    images, strength = whole(images), given.randaugment_magnitude / 30.0
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
        inside = rectangle(height, width, top, left, tall, wide)
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
    mixup=option(0.0, "alpha of MixUp, which blends two pictures; 0.2 is usual, 0 is off", ALPHA),
    cutmix=option(
        0.0, "alpha of CutMix, which pastes in a piece of another; 1.0 is usual, 0 is off", ALPHA
    ),
)
def mix(images, targets, draws, given):
    """Mix neighbors by MixUp (Zhang et al. 2018) or CutMix (Yun et al. 2019)."""
    cut, ratio, top, left = draws
    height, width = images.shape[1:3]
    side, cut = ops.sqrt(1.0 - ratio), cut > 0.5
    tall, wide = side * height, side * width
    # Around a center drawn over the whole picture, cut off at its border.
    top, left = top * height - tall / 2, left * width - wide / 2
    kept = 1.0 - ops.cast(rectangle(height, width, top, left, tall, wide), "float32")
    share = ops.where(cut, ops.mean(kept, (1, 2, 3)), ratio)
    kept = ops.where(each(cut), kept, each(ratio))
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


def _neighbors(values):
    """Swap neighbors in pairs; the last of an odd number stays."""
    count = values.shape[0]
    order = [min(place ^ 1, count - 1) for place in range(count)]
    return ops.take(values, ops.convert_to_tensor(order, "int32"), axis=0)


def _linear(chance, low: float, high: float):
    return low + (high - low) * chance


def _ratio(chance, low: float, high: float, xp=ops):
    """Return a ratio from ``low`` to ``high``, uniform on a logarithmic scale."""
    return xp.exp(_linear(chance, math.log(low), math.log(high)))
