"""A model's graph, assembled around the trunk of its family: from images to outputs."""

import contextlib
import dataclasses
import numbers
from collections.abc import Iterator, Mapping, Sequence

import keras

from nf_zoo import layers
from nf_zoo.layers.channels import require_channels
from nf_zoo.models.configuration import plain
from nf_zoo.models.family import Family
from nf_zoo.models.residual_block import Level

POOLINGS = ("avg", "max", None)
ACTIVATIONS = ("softmax", "sigmoid", None)


@dataclasses.dataclass(frozen=True)
class Stage:
    """One feature map inside a network.

    Attributes:
        name: ``"stem"``, ``"stage1"``, ...
        channels: channels of the map.
        stride: pixels of the picture per pixel of the map.
    """

    name: str
    channels: int
    stride: int


@dataclasses.dataclass(frozen=True)
class GraphOptions:
    """Options of a model's graph besides its architecture record."""

    num_classes: int = 1000  # width of the classifier; 0 for none
    input_shape: tuple[int | None, ...] = (None, None, 3)  # (height, width, channels)
    classifier_activation: str | None = None  # None (or "linear"): logits; "softmax", "sigmoid"
    include_preprocessing: bool = False  # the graph takes raw pixels
    pooling: str | None = "avg"  # or "max", or None for the last map itself
    features_only: bool = False  # the outputs are maps of several strides instead
    out_indices: tuple[int, ...] | None = None  # indices of these maps among the stages

    def __post_init__(self):
        for name, value in vars(self).copy().items():
            object.__setattr__(self, name, plain(value))
        shape = self.input_shape
        is_triple = isinstance(shape, tuple) and len(shape) == 3
        if not is_triple or not isinstance(shape[-1], int) or shape[-1] < 1:
            raise ValueError(
                "input_shape must be (height, width, channels); height and width may be None. "
                f"Received: {shape}"
            )
        if self.classifier_activation == "linear":
            object.__setattr__(self, "classifier_activation", None)
        if self.classifier_activation not in ACTIVATIONS:
            raise ValueError(
                f"classifier_activation must be one of {ACTIVATIONS}, None for logits. "
                f"Received: {self.classifier_activation!r}"
            )
        if self.pooling not in POOLINGS:
            raise ValueError(f"pooling must be one of {POOLINGS}. Received: {self.pooling!r}")
        if self.pooling is None and self.num_classes:
            raise ValueError(
                "A classifier needs pooled features: pooling=None requires num_classes=0. "
                f"Received: num_classes={self.num_classes}"
            )
        if self.features_only and self.num_classes:
            raise ValueError(
                "features_only=True gives maps, not classes: leave num_classes out or set it to 0. "
                f"Received: num_classes={self.num_classes}"
            )
        if self.out_indices is not None and not self.features_only:
            raise ValueError(
                f"out_indices requires features_only=True. Received: out_indices={self.out_indices}"
            )


def build_graph(family: Family, config, options: GraphOptions, preprocessing, dtype: str | None):
    """Return the inputs, outputs, stages and dtype policy of a model, from its records."""
    with _dtype_policy(dtype) as policy:
        inputs = keras.Input(options.input_shape, name="images", dtype="float32")
        x = inputs
        if options.include_preprocessing:
            x = _normalization(preprocessing, options.input_shape[-1])(x)
        family, config = family.resolve(config)
        levels = family.build_trunk(config, x)
        stages = tuple(Stage(level.name, level.tensor.shape[-1], level.stride) for level in levels)
        if options.features_only:
            outputs = _feature_maps(family, config, levels, options.out_indices)
        else:
            # The softmax of half-precision logits is too coarse.
            precision = "float64" if policy.compute_dtype == "float64" else "float32"
            outputs = _classifier(family, config, options, levels[-1].tensor, precision)
    return inputs, outputs, stages, policy


def _feature_maps(family, config, levels: list[Level], indices: Sequence[int] | None) -> list:
    count = len(levels)
    wanted = tuple(range(count)) if indices is None else indices
    is_some = isinstance(wanted, tuple) and wanted
    if not is_some or not all(isinstance(i, int) and -count <= i < count for i in wanted):
        raise ValueError(
            f"out_indices must be indices of the {count} maps "
            f"{[f'{level.name}, stride {level.stride}' for level in levels]}. Received: {indices}"
        )
    maps = {}
    for level in (levels[index] for index in wanted):
        if level.name in maps:
            continue
        maps[level.name] = level.tensor
        # The last map is already activated, as the classifier needs it.
        if level is not levels[-1] and family.activates_features:
            activation = config.activation_layer(f"{level.name}_feature")
            maps[level.name] = activation(level.tensor)
    return [maps[levels[index].name] for index in wanted]


def _classifier(family, config, options: GraphOptions, x, precision: str):
    if options.pooling == "avg":
        x = keras.layers.GlobalAveragePooling2D("channels_last", name="pool")(x)
    elif options.pooling == "max":
        x = keras.layers.GlobalMaxPooling2D("channels_last", name="pool")(x)
    if not options.num_classes:
        return x
    if config.drop_rate:
        x = layers.Dropout(config.drop_rate, name="dropout")(x)
    if family.before_classifier is not None:
        x = family.before_classifier(x)
    stddev = family.classifier_stddev
    x = keras.layers.Dense(
        options.num_classes,
        kernel_initializer=keras.initializers.RandomNormal(stddev=stddev) if stddev else "zeros",
        dtype=precision,
        name="head",
    )(x)
    if options.classifier_activation is None:
        return x
    return keras.layers.Activation(
        options.classifier_activation, dtype=precision, name="prediction"
    )(x)


def count_classes(num_classes: int | None, labels: Sequence[str] | None, otherwise: int) -> int:
    """Return the width of a classifier, from the options given."""
    if isinstance(labels, str | Mapping | set | frozenset | Iterator):
        raise ValueError(
            "labels must be a list of class names, in the order of the outputs. "
            f"Received: {labels!r}"
        )
    if num_classes is None:
        num_classes = len(labels) if labels is not None else otherwise
    # NumPy's whole numbers too, as from classes.max() + 1
    if not isinstance(num_classes, numbers.Integral) or num_classes < 0:
        raise ValueError(
            "num_classes must be a positive integer, or 0 for pooled features. "
            f"Received: {num_classes!r}"
        )
    if labels is not None and len(labels) != num_classes:
        raise ValueError(
            f"labels must name each of the {num_classes} classes. Received: {len(labels)} labels"
        )
    return int(num_classes)


def _normalization(preprocessing, channels: int):
    mean, std = preprocessing.mean, preprocessing.std
    if channels != len(mean):
        average = preprocessing.averaged()
        mean, std = average.mean[:1] * channels, average.std[:1] * channels
    # A bare vector would follow Keras's global image_data_format.
    layer = keras.layers.Rescaling(
        scale=[[[1.0 / (255.0 * s) for s in std]]],
        offset=[[[-m / s for m, s in zip(mean, std, strict=True)]]],
        dtype="float32",
        name="normalization",
    )
    # The vectors would broadcast one input channel to three.
    require_channels(layer, channels, ndim=4)
    return layer


@contextlib.contextmanager
def _dtype_policy(dtype: str | None):
    """Give the layers made inside this policy; restore the global one afterwards."""
    before = keras.config.dtype_policy()
    try:
        if dtype is not None:
            keras.config.set_dtype_policy(keras.dtype_policies.get(dtype))
        yield keras.config.dtype_policy()
    finally:
        keras.config.set_dtype_policy(before)
