"""Common base of all architecture records: fields, checks, JSON."""

import dataclasses
import functools
import math
import types
import typing
from typing import Any, Literal, Self

PUBLISHED_ACTIVATIONS = ("relu", "silu", "gelu", "gelu_tanh")
PROBABILITIES = ("drop_rate", "stochastic_depth_rate", "momentum")


def plain(value: Any) -> Any:
    """Return NumPy's numbers and arrays, and sequences that hold them, as Python's."""
    if hasattr(value, "tolist"):
        value = value.tolist()
    return tuple(map(plain, value)) if isinstance(value, list | tuple | range) else value


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _is_real(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


@dataclasses.dataclass(frozen=True)
class Config:
    """Fields of every architecture record; one frozen subclass per family.

    A field's annotation is its check: ``Literal`` lists the choices, ``int`` and ``float`` must be
    positive. Any activation that has a gamma is allowed.

    Attributes:
        depths: blocks per stage.
        widths: output channels per stage.
        activation: ``"relu"``, ``"silu"``, ``"gelu"``, ... (exact erf GELU; ``"gelu_tanh"``
            is the approximation).
        padding: zeros, as ``"symmetric"`` (PyTorch) or ``"same"`` (TensorFlow, surplus at the end);
            or the picture's own pixels, as ``"reflect"`` or ``"circular"``.
        drop_rate: dropout before the classifier.
        stochastic_depth_rate: rate of the deepest block; the others grow linearly from 0.
        stochastic_depth_rescale: divide by the keep rate.
        stochastic_depth_last: the last block has the full rate, else a rate one step below it.
        output_stride: 32, or 16 or 8 to keep larger maps: the later stages then dilate their
            convolutions instead of striding, with the same weights.
        rematerialize: recompute the inside of every residual branch in the backward pass instead
            of keeping it (gradient checkpointing): less memory, one more forward pass. Under
            TensorFlow ``keras.remat`` leaks: the weights of every model fitted this way stay in
            memory until the process ends.
    """

    depths: tuple[int, ...] = ()
    widths: tuple[int, ...] = ()
    activation: str = "relu"
    padding: Literal["symmetric", "same", "reflect", "circular"] = "symmetric"
    drop_rate: float = 0.0
    stochastic_depth_rate: float = 0.0
    stochastic_depth_rescale: bool = True
    stochastic_depth_last: bool = True
    output_stride: Literal[32, 16, 8] = 32
    rematerialize: bool = False

    def __post_init__(self):
        for name in field_types(type(self)):
            object.__setattr__(self, name, plain(getattr(self, name)))
        for name, kind in field_types(type(self)).items():
            allowed = _what_it_must_be(name, kind, getattr(self, name))
            if allowed:
                self._refuse(name, allowed)
        self._check_activation()
        if len(self.depths) != len(self.widths):
            self._refuse("widths", f"one per stage, {len(self.depths)} for depths={self.depths}")

    @property
    def features(self) -> int:
        """Channels of the pooled features."""
        return self.widths[-1]

    @property
    def gamma(self) -> float | None:
        """Factor after every activation; None for the one that keeps the variance at 1."""
        return 1.0

    def activation_layer(self, name: str):
        """Return the network's activation as a Keras layer."""
        from nf_zoo.layers import ScaledActivation

        return ScaledActivation(self.activation, gamma=self.gamma, name=name)

    def _check_activation(self):
        if self.activation in PUBLISHED_ACTIVATIONS:
            return
        if not isinstance(self.activation, str):
            self._refuse("activation", "a name, so that the record can be saved")
        # The rarer names need Keras, which reading the tables must not import.
        from nf_zoo.layers import gamma_of

        try:
            gamma_of(self.activation)
        except ValueError as error:
            raise ValueError(f"activation={self.activation!r} cannot be used. {error}") from error

    def _refuse(self, name: str, allowed: str):
        raise ValueError(f"{name} must be {allowed}. Received: {name}={getattr(self, name)!r}")

    def to_dict(self) -> dict[str, Any]:
        """Return every field as a JSON-able value, so that a file outlives the tables."""
        return as_json(self)

    def changes_from(self, other: Self) -> dict[str, Any]:
        """Return the fields in which this record differs from ``other``, as JSON-able values."""
        theirs = other.to_dict()
        return {name: value for name, value in self.to_dict().items() if value != theirs[name]}


DEPTHS = {
    "18": (2, 2, 2, 2),
    "26": (2, 2, 2, 2),
    "34": (3, 4, 6, 3),
    "50": (3, 4, 6, 3),
    "101": (3, 4, 23, 3),
    "152": (3, 8, 36, 3),
    "200": (3, 24, 36, 3),
    "288": (24, 24, 24, 24),
    "600": (50, 50, 50, 50),
}
"""Layers of a ResNet -> blocks per stage."""

_SMALL = {"block": "basic", "stem": "3x3", "stem_width": 16}
SMALL = {
    "10": {"depths": (1, 1, 1, 1), "widths": (16, 64, 128, 256), **_SMALL},
    "14": {"depths": (2, 2, 2), "widths": (32, 64, 128), **_SMALL},
}
"""Layers -> shape, for pictures of about 32 pixels."""


@dataclasses.dataclass(frozen=True)
class ResNetShape(Config):
    """Fields of every network built like a ResNet.

    Attributes:
        block: ``"bottleneck"`` (1x1, 3x3, 1x1) or ``"basic"`` (3x3, 3x3).
        bottleneck_ratio: inner width of a bottleneck, divided by its output width.
        stem: ``"7x7_pool"`` (stride 4 in all) or ``"3x3"`` (stride 1, for small pictures).
        stem_width: channels of the stem.
        shortcut: ``"strided"`` (strided 1x1) or ``"average_pool"`` (2x2 average, then 1x1).

    The other fields are those of :class:`Config`.
    """

    depths: tuple[int, ...] = (3, 4, 6, 3)
    widths: tuple[int, ...] = (256, 512, 1024, 2048)
    block: Literal["bottleneck", "basic"] = "bottleneck"
    bottleneck_ratio: float = 0.25
    stem: Literal["7x7_pool", "3x3"] = "7x7_pool"
    stem_width: int = 64
    shortcut: Literal["strided", "average_pool"] = "strided"

    def __post_init__(self):
        super().__post_init__()
        if self.inner_width(min(self.widths)) < 1:
            self._refuse("bottleneck_ratio", f"at least 1 / {min(self.widths)} for these widths")

    def inner_width(self, filters: int) -> int:
        """Return the channels inside a block of ``filters``."""
        return int(filters * (1.0 if self.block == "basic" else self.bottleneck_ratio))

    def block_arguments(self, index: int, channels: int, filters: int) -> dict[str, Any]:
        """Return the arguments that every block of ``filters`` takes from the shape."""
        return {"width": self.inner_width(filters), "block": self.block}

    @property
    def stem_strides(self) -> int:
        """Strides of the stem's convolution, and of the pooling after it if there is one."""
        return 1 if self.stem == "3x3" else 2

    @property
    def stem_kernel_size(self) -> int:
        """Side of the stem's kernel, where it is one convolution."""
        return 7 if self.stem == "7x7_pool" else 3

    def pool(self, x):
        """Apply the stem's pooling, if it has one."""
        if self.stem == "3x3":
            return x
        from nf_zoo.layers import MaxPool2D

        padding = "same" if self.padding == "same" else "symmetric"  # never reflects or wraps
        return MaxPool2D(3, 2, padding=padding, name="stem_pool")(x)


def as_json(record) -> dict[str, Any]:
    """Return the fields of a dataclass, tuples as lists."""
    return {
        name: list(value) if isinstance(value, tuple) else value
        for name, value in dataclasses.asdict(record).items()
    }


@functools.cache
def field_types(config_class: type[Config]) -> dict[str, Any]:
    """Return every field of a record and its type, in order."""
    kinds = typing.get_type_hints(config_class)
    return {field.name: kinds[field.name] for field in dataclasses.fields(config_class)}


def choices(kind: Any) -> tuple:
    """Return the values that a field's type lists; empty if it lists none."""
    if kind is bool:
        return (True, False)
    if typing.get_origin(kind) is Literal:
        return typing.get_args(kind)
    return tuple(value for member in _members(kind) for value in choices(member))


def _members(kind: Any) -> tuple:
    is_union = typing.get_origin(kind) in (typing.Union, types.UnionType)
    return typing.get_args(kind) if is_union else ()


def _what_it_must_be(name: str, kind: Any, value: Any) -> str | None:
    """Describe the values that a field's type allows; return None if the value is one."""
    members, listed = _members(kind) or (kind,), choices(kind)
    is_optional = type(None) in members
    if (is_optional and value is None) or (listed and value in listed):
        return None
    if float in members:
        is_positive = members == (float,) and name not in PROBABILITIES
        if name in PROBABILITIES:
            fits = _is_real(value) and 0 <= value < 1
            return None if fits else "a probability in [0, 1)"
        if _is_real(value) and (value > 0 or not is_positive):
            return None
        words = [*map(repr, listed), *(["None"] if is_optional else [])]
        return "a positive number" if is_positive else " or ".join(["a number", *words])
    if listed:
        return f"one of {listed + ((None,) if is_optional else ())}"
    if kind is int and not _is_whole(value):
        return "a positive integer"
    if typing.get_origin(kind) is tuple and not (
        value and isinstance(value, tuple) and all(map(_is_whole, value))
    ):
        return "a sequence of positive integers, one per stage"
    return None


ELSEWHERE = {
    "act_layer": "activation=",
    "checkpoint_path": "pretrained=",
    "classes": "num_classes=",
    "dropout": "drop_rate=",
    "drop_path_rate": "stochastic_depth_rate=",
    "global_pool": "pooling=",
    "img_size": "input_shape=(height, width, channels)",
    "in_channels": "input_shape=(None, None, channels)",
    "in_chans": "input_shape=(None, None, channels)",
    "include_top": "num_classes=0 for pooled features, features_only=True for maps",
    "input_tensor": "model(tensor) afterwards",
    "weights": "pretrained=True, a tag or a path; False for fresh weights",
}
"""Argument names of keras.applications and timm -> what to write here."""


def make_config(config_class: type[Config], fields: dict[str, Any]) -> Config:
    """Return ``config_class(**fields)``; the error names unknown fields."""
    known = set(field_types(config_class))
    unknown = sorted(set(fields) - known)
    if unknown:
        habits = "".join(
            f"Instead of {name}= write {ELSEWHERE[name]}. " for name in unknown if name in ELSEWHERE
        )
        raise TypeError(
            f"{config_class.__name__} has no field {', '.join(unknown)}. {habits}"
            f"Fields: {', '.join(sorted(known))}. Received: {fields!r}"
        )
    return config_class(**fields)
