"""What the architecture records of all families share: fields, checks, JSON."""

from __future__ import annotations

import dataclasses
import math
from typing import Any, ClassVar

PUBLISHED_ACTIVATIONS = ("relu", "silu", "gelu", "gelu_tanh")
PROBABILITIES = ("drop_rate", "stochastic_depth_rate", "momentum")


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _is_real(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


@dataclasses.dataclass(frozen=True)
class Config:
    """Fields of every architecture record; one frozen subclass per family.

    ``choices`` lists what textual fields may be; the activation may be any that has a gamma.

    Attributes:
        depths: blocks per stage.
        widths: output channels per stage.
        activation: ``"relu"``, ``"silu"``, ``"gelu"``, ... (exact erf GELU; ``"gelu_tanh"``
            is the approximation).
        padding: ``"symmetric"`` (PyTorch) or ``"same"`` (TensorFlow, surplus at the end), both
            with zeros; or ``"reflect"`` or ``"circular"``, with the picture's own pixels.
        drop_rate: dropout before the classifier.
        stochastic_depth_rate: rate of the deepest block; the others grow linearly from 0.
        stochastic_depth_rescale: divide by the keep rate.
        stochastic_depth_last: the last block has the full rate; else one step below it.
        output_stride: 32, or 16 or 8 to keep larger maps: the later stages then dilate their
            convolutions instead of striding, with the same weights.
        rematerialize: recompute the inside of every residual branch in the backward pass instead
            of keeping it (gradient checkpointing): less memory, one more forward pass. Under
            TensorFlow ``keras.remat`` leaks: the weights of every model that was so fitted stay in
            memory until the process ends.

    Raises:
        ValueError: naming the field, what was received and what is allowed.
    """

    depths: tuple[int, ...] = ()
    widths: tuple[int, ...] = ()
    activation: str = "relu"
    padding: str = "symmetric"
    drop_rate: float = 0.0
    stochastic_depth_rate: float = 0.0
    stochastic_depth_rescale: bool = True
    stochastic_depth_last: bool = True
    output_stride: int = 32
    rematerialize: bool = False

    choices: ClassVar[dict[str, tuple]] = {
        "padding": ("symmetric", "same", "reflect", "circular"),
        "output_stride": (32, 16, 8),
        "stochastic_depth_rescale": (True, False),
        "stochastic_depth_last": (True, False),
        "rematerialize": (False, True),
    }

    def __post_init__(self):
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if isinstance(value, list):
                object.__setattr__(self, field.name, tuple(value))
        for name, allowed in self.choices.items():
            if getattr(self, name) not in allowed:
                self._refuse(name, f"one of {allowed}")
        for field in dataclasses.fields(self):
            self._check(field.name, field.type)
        self._check_activation()
        if len(self.depths) != len(self.widths):
            self._refuse("widths", f"one per stage, {len(self.depths)} for depths={self.depths}")

    def _check(self, name: str, annotation: str):
        """Whether the value is what the field's annotation promises."""
        value = getattr(self, name)
        if name in self.choices or (value is None and "None" in annotation):
            return
        if annotation == "int" and not _is_whole(value):
            self._refuse(name, "a positive integer")
        if annotation.startswith("tuple"):
            whole = isinstance(value, tuple) and all(map(_is_whole, value))
            if not whole or not value:
                self._refuse(name, "a sequence of positive integers, one per stage")
        if annotation.startswith("float") and not (isinstance(value, str) and "str" in annotation):
            if name in PROBABILITIES and not (_is_real(value) and 0 <= value < 1):
                self._refuse(name, "a probability in [0, 1)")
            if not _is_real(value) or (
                annotation == "float" and name not in PROBABILITIES and value <= 0
            ):
                self._refuse(
                    name, "a positive number" if annotation == "float" else "a number or None"
                )

    @property
    def features(self) -> int:
        """Channels of the pooled features."""
        return self.widths[-1]

    @property
    def pool_padding(self) -> str:
        """Padding of the stem's max pooling, which takes no pixels from elsewhere."""
        return "same" if self.padding == "same" else "symmetric"

    def _check_inner_widths(self, ratio: float):
        """Whether ``bottleneck_ratio`` leaves at least one channel inside the narrowest block."""
        if self.block == "bottleneck" and min(self.widths) * ratio < 1:
            self._refuse("bottleneck_ratio", f"at least 1 / {min(self.widths)} for these widths")

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
        """Every field, as JSON-able values: what a file keeps, so that it outlives the tables."""
        return {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in dataclasses.asdict(self).items()
        }

    def changes_from(self, other: Config) -> dict[str, Any]:
        """Fields in which this record differs from ``other``, as JSON-able values."""
        theirs = other.to_dict()
        return {name: value for name, value in self.to_dict().items() if value != theirs[name]}


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
"""What keras.applications and timm call it -> what to write here."""


def make_config(config_class: type[Config], fields: dict[str, Any]) -> Config:
    """``config_class(**fields)``, with unknown fields named in the error.

    Raises:
        TypeError: on a field that the architecture does not have.
        ValueError: on a value that it does not allow.
    """
    known = {field.name for field in dataclasses.fields(config_class)}
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
