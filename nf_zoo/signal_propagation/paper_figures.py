"""The papers' figures on signal propagation, measured again, drawn and written with their data."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np

from nf_zoo import atomic
from nf_zoo.models.classifier import build_model
from nf_zoo.signal_propagation import plots, theory
from nf_zoo.signal_propagation.measure import signal_propagation
from nf_zoo.signal_propagation.result import FIELDS, SignalPropagation, writable_folder
from nf_zoo.signal_propagation.trainable_depth import Task, TrainableDepth, measure, synthetic_task

FORMATS = ("png", "svg")
AVERAGED = 4
"""Networks that a figure averages over, if the effect is smaller than their scatter."""
_OWN = (
    *("network", "setting", "inputs", "pictures", "block"),
    *("skip_variance", "predicted_skip_variance", "predicted_residual_variance"),
    *("skip_mean_square", "predicted_skip_mean_square"),
)


def reproduce(
    name: str,
    output: str | os.PathLike,
    *,
    images: Sequence[Any] | None = None,
    seed: int = 0,
    **sizes: int,
) -> list[Path]:
    """Measure a figure of the papers, and write NAME.png, NAME.svg and NAME.csv.

    This sets Keras's global random seed. Without images, which are as for
    :func:`nf_zoo.preprocess`, it measures noise; of more than it needs it takes evenly spaced ones.
    Sizes are ``depth`` (blocks, per stage if there are several), ``width`` (channels of the first
    stage, or features), ``pictures`` (or vectors) and ``size`` (pixels of a side).
    """
    if name not in FIGURES:
        raise ValueError(f"The figure must be one of {', '.join(FIGURES)}. Received: {name}")
    for key, value in sizes.items():
        if key not in ("depth", "width", "pictures", "size"):
            raise ValueError(f"A size must be depth, width, pictures or size. Received: {key}")
        if not isinstance(value, int) or value < 1:
            raise ValueError(f"{key} must be a positive integer. Received: {value!r}")
    folder = writable_folder(output)
    measured = FIGURES[name](images=images, seed=seed, **sizes)
    drawn = [_draw(measured, folder / f"{name}.{suffix}") for suffix in FORMATS]
    return [*drawn, write_csv(measured, folder / f"{name}.csv")]


def _draw(measured: PaperFigure | TrainableDepth, path: Path) -> Path:
    if isinstance(measured, TrainableDepth):
        return plots.plot_trainable_depth(measured, path)
    if measured.panels:
        return plots.plot_depth(measured, path)
    results = {network.label: network.result for network in measured.networks}
    return plots.plot_signal_propagation(results, path, title=measured.title)


@dataclasses.dataclass(frozen=True)
class Network:
    """One measured network."""

    label: str  # label in the legend
    setting: str  # its sizes and its input, in words
    result: SignalPropagation
    # expected variance on the skip path before every block
    skip_theory: tuple[float, ...] | list[float] | None = None
    # expected variance at the end of every residual branch
    residual_theory: tuple[float, ...] | list[float] | None = None
    # expected mean square on the skip path before every block
    mean_square_theory: tuple[float, ...] | None = None

    @property
    def skip(self) -> list[tuple[float, float]]:
        """Squared mean and variance on the skip path before every block."""
        outputs = [(block.squared_mean, block.variance) for block in self.result]
        return [self.result.before, *outputs[:-1]]

    def rows(self) -> list[dict]:
        """Return one row per block, for a CSV."""
        about = {"network": self.label, "setting": self.setting}
        about |= {"inputs": self.result.inputs, "pictures": self.result.pictures}
        return [
            {
                **about,
                "block": index + 1,
                "skip_variance": variance,
                "predicted_skip_variance": _at(self.skip_theory, index),
                "predicted_residual_variance": _at(self.residual_theory, index),
                "skip_mean_square": mean + variance,
                "predicted_skip_mean_square": _at(self.mean_square_theory, index),
                **dataclasses.asdict(self.result[index]),
            }
            for index, (mean, variance) in enumerate(self.skip)
        ]


@dataclasses.dataclass(frozen=True)
class PaperFigure:
    """A measured figure."""

    title: str  # title above the panels; its second line gives sizes and input
    networks: tuple[Network, ...]  # the networks, in the order of the legend
    # ``"variance"`` (one panel per network) and ``"mean square"`` (one for all); empty for the
    # three panels of a signal propagation plot
    panels: tuple[str, ...] = ()

    fields = (*_OWN, *FIELDS)

    def rows(self) -> list[dict]:
        """Return one row per network and block, for a CSV."""
        return [row for network in self.networks for row in network.rows()]


def average(results: Sequence[SignalPropagation]) -> SignalPropagation:
    """Return the mean over networks of one architecture, block by block."""
    blocks = [
        dataclasses.replace(
            same[0],
            **{
                name: float(np.mean([getattr(block, name) for block in same]))
                for name in FIELDS
                if isinstance(getattr(same[0], name), float)
            },
        )
        for same in zip(*results, strict=True)
    ]
    before = np.mean([result.before for result in results], axis=0)
    return dataclasses.replace(
        results[0], blocks=tuple(blocks), before=(float(before[0]), float(before[1]))
    )


def write_csv(figure: PaperFigure | TrainableDepth, path: Path) -> Path:
    """Write the data behind a figure, its ``rows()``, with six significant digits."""
    rows = [
        {key: format(x, ".6g") if isinstance(x, float) else x for key, x in row.items()}
        for row in figure.rows()
    ]
    return atomic.write_rows(path, figure.fields, rows)


def _at(values, index: int) -> float | None:
    return None if values is None else values[index]


def linear_residual_network(
    depth: int, width: int, *, batch_norm: bool = False, seed: int = 0
) -> keras.Model:
    """Return a linear residual network of dense layers: x + W x, or x + W BN(x), repeated.

    The weights are N(0, 1 / width), so each W preserves the variance of its input.

    Source: De & Smith, NeurIPS 2020, section 2.
    """
    for name, value in (("depth", depth), ("width", width)):
        if not isinstance(value, int) or value < 1:
            raise ValueError(f"{name} must be a positive integer. Received: {value!r}")
    # One integer for all layers would give them the same weights, so a generator makes the seeds.
    seeds = keras.random.SeedGenerator(seed)
    x = inputs = keras.Input((width,))
    for block in range(1, depth + 1):
        branch = x
        if batch_norm:
            branch = keras.layers.BatchNormalization(name=f"block{block}_norm")(branch)
        branch = keras.layers.Dense(
            width,
            use_bias=False,
            kernel_initializer=keras.initializers.VarianceScaling(
                1.0, "fan_in", "untruncated_normal", seed=seeds
            ),
            name=f"block{block}_dense",
        )(branch)
        x = keras.layers.Add(name=f"block{block}")([x, branch])
    kind = "batch_norm" if batch_norm else "unnormalized"
    return keras.Model(inputs, x, name=f"linear_{kind}_{depth}x{width}")


def linear(*, images=None, seed=0, depth=50, width=200, pictures=1000, size=None) -> PaperFigure:
    """Measure 2020, Fig. 2a: without normalization, the variance doubles at every block."""
    doubling = [2.0**block for block in range(depth)]
    expected, what = (doubling, doubling), "without normalization"
    return _linear_figure(what, images, seed, depth, width, pictures, False, expected)


def linear_batch_norm(
    *, images=None, seed=0, depth=50, width=200, pictures=1000, size=None
) -> PaperFigure:
    """Measure 2020, Fig. 2b: with BatchNorm on the branch, the variance grows by one per block."""
    expected = ([1.0 + block for block in range(depth)], [1.0] * depth)
    return _linear_figure("with BatchNorm", images, seed, depth, width, pictures, True, expected)


def _linear_figure(what, images, seed, depth, width, vectors, batch_norm, expected) -> PaperFigure:
    if images is not None:
        raise ValueError(
            "A figure of fully connected networks takes no pictures: leave images out. "
            f"Received: {len(images)} pictures"
        )
    model = linear_residual_network(depth, width, batch_norm=batch_norm, seed=seed)
    result = signal_propagation(model, (vectors, width), batch_size=vectors, seed=seed)
    setting = f"{depth} blocks of width {width}, {vectors} vectors of noise"
    network = Network(what, setting, result, *expected)
    title = f"Linear residual network {what}"
    return PaperFigure(f"{title}\n{setting}", (network,), ("variance",))


def convolutional_batch_norm(
    *, images=None, seed=0, depth=50, width=48, pictures=16, size=32
) -> PaperFigure:
    """Measure 2020, Fig. 2c: the same with convolutions and ReLU, zero and circular padding."""
    inputs, kind = _inputs(images, pictures, size)
    setting = f"mean of {AVERAGED} networks of {depth} blocks of width {width}, {kind}"
    networks = []
    for label, padding in (("zero padding", "symmetric"), ("circular padding", "circular")):
        result = average(
            [
                _one_stage(depth, width, padding, inputs, AVERAGED * seed + index)
                for index in range(AVERAGED)
            ]
        )
        step, branch = (
            theory.border_factor((size, size), 3, padding=padding, mean_square=mean_square)
            for mean_square in (0.0, theory.relative_squared_mean("relu"))
        )
        branch *= theory.branch_variance("relu")
        expected = (
            tuple(result.before[1] + branch * block for block in range(depth)),
            (branch,) * depth,
            tuple(sum(result.before) + step * block for block in range(depth)),
        )
        networks.append(Network(label, setting, result, *expected))
    title = "Convolutional residual network with BatchNorm and ReLU"
    return PaperFigure(f"{title}\n{setting}", tuple(networks), ("variance", "mean square"))


def _one_stage(depth: int, width: int, padding: str, inputs, seed: int) -> SignalPropagation:
    """Measure a network of constant width without strides."""
    keras.utils.set_random_seed(seed)
    own = {"depths": (depth,), "widths": (width,), "stem_width": width, "padding": padding}
    model = build_model("wide_resnet16_1", scheme="bn", num_classes=0, **own)
    return signal_propagation(model, inputs, seed=seed)


def bn_order(**sizes) -> PaperFigure:
    """Measure 2021, Fig. 1: a BatchNorm network, with ReLU after or before the normalization."""
    own = {"preactivation": True, "activation_first": False}
    after = Bottlenecks("BN, ReLU, conv", "resnetv2_50", own, 2.0, theory.branch_variance("relu"))
    own = {**own, "activation_first": True}
    before = Bottlenecks("ReLU, BN, conv", "resnetv2_50", own, 1.0, 1.0)
    return _four_stages("ResNet v2 with BatchNorm in either order", (after, before), **sizes)


def norm_free(**sizes) -> PaperFigure:
    """Measure 2021, Fig. 2 and 3: an NF-ResNet with and without Scaled Weight Standardization."""
    plain = {"standardize": False, "gamma_in": None}
    networks = [
        Bottlenecks(
            f"{name}, {label}",
            "nf_resnet50",
            {"variant": "paper", "activation": name.lower(), **own},
        )
        for name in ("ReLU", "SiLU")
        for label, own in (("He convolutions", plain), ("standardized", {}))
    ]
    title = "NF-ResNet with plain and with standardized convolutions, unit gains"
    return _four_stages(title, networks, unit_gains=True, **sizes)


def skipinit_fixup(**sizes) -> PaperFigure:
    """Measure SkipInit and Fixup at the start, beside the NF-ResNet without skip gains."""
    paper, root = {"variant": "paper", "skip_gain": None}, {"skip_gain": "1/sqrt(blocks)"}
    networks = (
        Bottlenecks("NF-ResNet", "nf_resnet50", paper),
        Bottlenecks("SkipInit from 0", "skipinit_resnet50", {"skip_gain": 0.0}),
        Bottlenecks("SkipInit from 1/sqrt(blocks)", "skipinit_resnet50", root),
        Bottlenecks("Fixup", "fixup_resnet50", {}),
    )
    return _four_stages("Networks without normalization, as they start", networks, **sizes)


@dataclasses.dataclass(frozen=True)
class Bottlenecks:
    """A network of four stages of bottleneck blocks: its label, architecture and fields."""

    label: str
    name: str
    fields: dict[str, Any]
    # gain of kernels drawn as N(0, gain / fan-in), as in the papers; None keeps the zoo's kernels,
    # which follow the fan-out
    gain: float | None = None
    # expected variance of the branches, whose sum is plotted; None for the zoo's theory
    branch: float | None = None


def _four_stages(
    title: str,
    rows: Sequence[Bottlenecks],
    *,
    images=None,
    seed=0,
    depth=50,
    width=64,
    pictures=16,
    size=32,
    unit_gains=False,
) -> PaperFigure:
    """Measure networks at strides 1 to 8, with a small-map stem and ``depth`` blocks per stage."""
    inputs, kind = _inputs(images, pictures, size)
    setting = f"4 stages of {depth} bottleneck blocks, widths {width} to {8 * width}, {kind}"
    own = {"depths": (depth,) * 4, "widths": tuple(width * factor for factor in (1, 2, 4, 8))}
    # The stem is narrower than the first stage, so all four stages begin with a projection.
    own |= {"stem": "3x3", "stem_width": max(1, width // 4), "num_classes": 0}
    options = {"batch_size": pictures, "unit_gains": unit_gains, "seed": seed}
    networks = []
    for row in rows:
        keras.utils.set_random_seed(seed)
        model, about = build_model(row.name, **own, **row.fields), setting
        if row.gain is not None:
            about = f"{setting}, N(0, {row.gain:.0f} / fan-in)"
            _draw_by_fan_in(model, row.gain, seed)
        result = signal_propagation(model, inputs, **options)
        if row.branch is not None:
            result = result.expecting([row.branch * (block + 2) for block in range(depth)] * 4)
        networks.append(Network(row.label, about, result))
    return PaperFigure(f"{title}\n{setting}", tuple(networks))


def trainable_depth(
    *, images=None, seed=0, depth=166, width=4, pictures=128, size=8
) -> TrainableDepth:
    """Measure a small version of 2020, Table 1: gradients and loss of 10 to 6 depth + 4 layers."""
    if images is None:
        return measure(synthetic_task(pictures, size, seed), depth, width, seed)
    pixels, kind = _inputs(images, pictures, size)
    names = [Path(str(images[index])).parent.name for index in _sample(images, pictures)]
    classes, labels = np.unique(names, return_inverse=True)
    if len(classes) == 1:
        classes, labels = range(10), np.random.default_rng(seed).integers(0, 10, len(names))
        kind += " with random labels"
    return measure(Task(pixels, labels, len(classes), kind), depth, width, seed)


FIGURES: dict[str, Callable[..., PaperFigure | TrainableDepth]] = {
    function.__name__: function
    for function in (
        *(linear, linear_batch_norm, convolutional_batch_norm),
        *(bn_order, norm_free, skipinit_fixup, trainable_depth),
    )
}
"""Name -> function that measures it."""


def _inputs(images: Sequence[Any] | None, pictures: int, size: int):
    """Return the pictures or the shape to measure on, and a description."""
    if images is None:
        shape = (pictures, size, size, 3)
        return shape, f"{pictures} noise pictures of {size} x {size}"
    from nf_zoo.pictures.images import preprocess
    from nf_zoo.pictures.preprocessing import Preprocessing

    recipe = Preprocessing(input_size=size, crop_fraction=1.0)
    batch = preprocess([images[index] for index in _sample(images, pictures)], recipe)
    return batch, f"{len(batch)} real pictures of {size} x {size}"


def _sample(images: Sequence[Any], pictures: int) -> np.ndarray:
    """Return the indices of that many pictures, at even distances."""
    if not len(images):
        raise ValueError("There must be pictures to measure on. Received: an empty list")
    return np.unique(np.linspace(0, len(images) - 1, pictures).round().astype(int))


def _draw_by_fan_in(model, gain: float, seed: int) -> None:
    seeds = keras.random.SeedGenerator(seed)
    initializer = keras.initializers.VarianceScaling(gain, "fan_in", "untruncated_normal", seeds)
    for variable in model.trainable_variables:
        if variable.name == "kernel":
            variable.assign(initializer(variable.shape))
