"""The record of how pictures become the input of a network."""

import math
import numbers
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Self

CROP_MODES = ("center", "squash", "border")
INTERPOLATIONS = ("bicubic", "bilinear", "nearest", "lanczos")

LUMA = (0.299, 0.587, 0.114)
"""Shares of red, green and blue in gray, as Pillow's mode "L" and JPEG have them."""


@dataclass(frozen=True)
class Preprocessing:
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

    input_size: tuple[int, int] = (224, 224)
    crop_fraction: float = 0.875
    crop_mode: str = "center"
    interpolation: str = "bicubic"
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)

    def __post_init__(self):
        if not _is_real(self.crop_fraction) or not 0 < self.crop_fraction <= 1:
            raise ValueError(f"crop_fraction must be in (0, 1]. Received: {self.crop_fraction!r}")
        for field, choices in (("crop_mode", CROP_MODES), ("interpolation", INTERPOLATIONS)):
            if getattr(self, field) not in choices:
                raise ValueError(
                    f"{field} must be one of {', '.join(choices)}. "
                    f"Received: {getattr(self, field)!r}"
                )
        clean = {
            "input_size": _checked_size(self.input_size),
            "crop_fraction": float(self.crop_fraction),
            "mean": _checked_channels("mean", self.mean),
            "std": _checked_channels("std", self.std),
        }
        if min(clean["std"]) == 0:
            raise ValueError(f"std must be above 0. Received: {self.std!r}")
        for field, value in clean.items():
            object.__setattr__(self, field, value)

    @property
    def scale_size(self) -> tuple[int, int]:
        """(height, width) that pictures are resized towards before the crop."""
        height, width = self.input_size
        return math.floor(height / self.crop_fraction), math.floor(width / self.crop_fraction)

    @property
    def border_color(self) -> tuple[int, int, int]:
        """The mean color as pixel values: what "border" pads with."""
        red, green, blue = (round(255 * value) for value in self.mean)
        return red, green, blue

    def fitted_to(self, input_shape: Sequence[int | None]) -> Self:
        """The same, with the sides that a network of that (height, width, channels) is fixed to."""
        sides = zip(input_shape[:2], self.input_size, strict=True)
        return replace(self, input_size=tuple(fixed or own for fixed, own in sides))

    def averaged(self) -> Self:
        """The same, with the mean of ``mean`` and of ``std`` for every channel."""
        return replace(self, mean=(sum(self.mean) / 3,) * 3, std=(sum(self.std) / 3,) * 3)

    def to_dict(self) -> dict[str, Any]:
        """The fields as JSON-able values (lists for tuples)."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}

    @classmethod
    def from_dict(cls, settings: dict[str, Any]) -> Self:
        """The reverse of :meth:`to_dict`; absent fields take their default.

        Raises:
            ValueError: there is an unknown field, or a value is out of range.
        """
        known = [field.name for field in fields(cls)]
        unknown = sorted(set(settings) - set(known))
        if unknown:
            raise ValueError(f"Preprocessing has the fields {known}. Received: {unknown}")
        return cls(**settings)


def _is_real(value: Any) -> bool:
    return isinstance(value, numbers.Real) and not isinstance(value, bool)


def _checked_size(size: Any) -> tuple[int, int]:
    pair = (size, size) if isinstance(size, numbers.Integral) else size
    if (
        isinstance(pair, list | tuple)
        and len(pair) == 2
        and all(isinstance(n, numbers.Integral) and not isinstance(n, bool) for n in pair)
        and min(pair) > 0
    ):
        return int(pair[0]), int(pair[1])
    raise ValueError(
        "input_size must be (height, width) in whole pixels above 0, without the channels. "
        f"Received: {size!r}"
    )


def _checked_channels(field: str, values: Any) -> tuple[float, float, float]:
    if (
        isinstance(values, list | tuple)
        and len(values) == 3
        and all(_is_real(value) and 0 <= value <= 1 for value in values)
    ):
        return float(values[0]), float(values[1]), float(values[2])
    raise ValueError(
        f"{field} must be three numbers (RGB) on the scale 0..1; divide by 255 if they count gray "
        f"levels. Received: {values!r}"
    )
