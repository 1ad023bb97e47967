"""The record of how pictures become the input of a network."""

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Self

from nf_zoo.options import Kind, Options, choice, number, option, picture_size

CROP_MODES = ("center", "squash", "border")
INTERPOLATIONS = ("bicubic", "bilinear", "nearest", "lanczos")

LUMA = (0.299, 0.587, 0.114)
"""Shares of red, green and blue in gray, as Pillow's mode "L" and JPEG have them."""


def _one_of(values: Sequence[str]) -> Kind:
    return replace(choice(*values), words=f"one of {', '.join(values)}")


def _channels(words: str, accepts: Callable[[float], bool]) -> Kind:
    return Kind(
        f"three numbers (RGB) {words}on the scale 0..1; divide by 255 if they count gray levels",
        accepts=lambda values: len(values) == 3 and all(accepts(x) and x <= 1 for x in values),
        convert=lambda values: tuple(map(float, values)),
    )


_SIZE = replace(
    picture_size(1), words="(height, width) in whole pixels above 0, without the channels"
)


@dataclass(frozen=True)
class Preprocessing(Options):
    """How pictures become the input of a network.

    A picture is resized to about ``input_size / crop_fraction``, the center of ``input_size`` is
    cut out, and pixels become ``(pixel / 255 - mean) / std``.

    Args:
        input_size: (height, width) in pixels; one integer for a square.
        crop_fraction: the part of the resized picture that the crop keeps, in (0, 1].
        crop_mode: what "resized" means.
            "center": the aspect ratio is kept and the picture covers the target, so that the
            longer side loses its ends. "squash": both sides are forced to the target. "border":
            the aspect ratio is kept and the picture fits inside; the rest has the mean color.
        interpolation: "bicubic", "bilinear", "nearest" or "lanczos", as Pillow defines them
            (antialiased when shrinking, except nearest).
        mean: per RGB channel, on the scale 0..1.
        std: per RGB channel, on the scale 0..1.

    Raises:
        ValueError: a field is out of range.

    Example:
        >>> import nf_zoo
        >>> nf_zoo.Preprocessing(input_size=288, crop_fraction=0.95).scale_size
        (303, 303)
    """

    input_size: tuple[int, int] = option((224, 224), "", _SIZE)
    crop_fraction: float = option(0.875, "", number("in (0, 1]", lambda x: 0 < x <= 1))
    crop_mode: str = option("center", "", _one_of(CROP_MODES))
    interpolation: str = option("bicubic", "", _one_of(INTERPOLATIONS))
    mean: tuple[float, float, float] = option(
        (0.485, 0.456, 0.406), "", _channels("", lambda x: x >= 0)
    )
    std: tuple[float, float, float] = option(
        (0.229, 0.224, 0.225), "", _channels("above 0, ", lambda x: x > 0)
    )

    @property
    def scale_size(self) -> tuple[int, int]:
        """(height, width) that pictures are resized toward before the crop."""
        height, width = self.input_size
        return math.floor(height / self.crop_fraction), math.floor(width / self.crop_fraction)

    @property
    def border_color(self) -> tuple[int, int, int]:
        """The mean color as pixel values: what "border" pads with."""
        red, green, blue = (round(255 * value) for value in self.mean)
        return red, green, blue

    def fitted_to(self, input_shape: Sequence[int | None]) -> Self:
        """Return the same with the sides that a network of that (height, width, channels) fixes."""
        sides = zip(input_shape[:2], self.input_size, strict=True)
        return replace(self, input_size=tuple(fixed or own for fixed, own in sides))

    def averaged(self) -> Self:
        """Return the same with the mean of ``mean`` and of ``std`` for every channel."""
        return replace(self, mean=(sum(self.mean) / 3,) * 3, std=(sum(self.std) / 3,) * 3)

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as JSON-able values (lists for tuples)."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}

    @classmethod
    def from_dict(cls, settings: dict[str, Any]) -> Self:
        """Return the record that :meth:`to_dict` wrote; absent fields take their default.

        Raises:
            ValueError: there is an unknown field, or a value is out of range.
        """
        known = [field.name for field in fields(cls)]
        unknown = sorted(set(settings) - set(known))
        if unknown:
            raise ValueError(f"Preprocessing has the fields {known}. Received: {unknown}")
        return cls(**settings)
