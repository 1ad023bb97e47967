"""The papers' figures on signal propagation: measured anew, drawn, and written with their data."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np

from nf_zoo.models.classifier import build_model
from nf_zoo.signal_propagation import theory
from nf_zoo.signal_propagation.depth_plots import plot_depth
from nf_zoo.signal_propagation.linear_networks import linear_residual_network
from nf_zoo.signal_propagation.measure import signal_propagation
from nf_zoo.signal_propagation.paper_figure import Network, PaperFigure, average, write_csv
from nf_zoo.signal_propagation.plot import plot_signal_propagation
from nf_zoo.signal_propagation.result import SignalPropagation, writable_folder
from nf_zoo.signal_propagation.trainable_depth import Task, TrainableDepth, measure, synthetic_task
from nf_zoo.signal_propagation.trainable_depth_plot import plot_trainable_depth

FORMATS = ("png", "svg")
AVERAGED = 4
"""Networks of which a figure shows the mean, where the effect is smaller than their scatter."""


def reproduce(
    name: str,
    output: str | os.PathLike,
    *,
    images: Sequence[Any] | None = None,
    seed: int = 0,
    **sizes: int,
) -> list[Path]:
    """Measure a figure of the papers, and write NAME.png, NAME.svg and NAME.csv.

    Sets Keras' global random seed.

    Args:
        name: key of :data:`FIGURES`.
        output: folder; made if it is not there.
        images: pictures, as :func:`nf_zoo.preprocess` takes them in a list; None for
            N(0, 1) noise. More than the figure needs are sampled at even distances.
        seed: of the weights and the noise.
        **sizes: ``depth`` (blocks, per stage where there are several), ``width`` (channels of the
            first stage, or features), ``pictures`` (or vectors), ``size`` (pixels of a side).

    Returns:
        The paths; existing files are replaced, each in one step.

    Raises:
        ValueError: on an unknown name or size, unreadable pictures, or pictures for a figure that
            takes none.
        OSError: if the folder cannot be written.

    Example:
        >>> reproduce("linear", "figures", depth=10)  # doctest: +SKIP
        [PosixPath('figures/linear.png'), PosixPath('figures/linear.svg'), ...]
    """
    if name not in FIGURES:
        raise ValueError(f"There is no such figure: one of {', '.join(FIGURES)}. Received: {name}")
    _check_sizes(sizes)
    folder = writable_folder(output)
    measured = FIGURES[name](images=images, seed=seed, **sizes)
    plots = [_draw(measured, folder / f"{name}.{suffix}") for suffix in FORMATS]
    return [*plots, write_csv(measured, folder / f"{name}.csv")]


def _check_sizes(sizes: dict[str, int]) -> None:
    for key, value in sizes.items():
        if key not in ("depth", "width", "pictures", "size"):
            raise ValueError(f"Sizes are depth, width, pictures and size. Received: {key}")
        if not isinstance(value, int) or value < 1:
            raise ValueError(f"{key} must be a positive integer. Received: {value!r}")


def _draw(measured: PaperFigure | TrainableDepth, path: Path) -> Path:
    if isinstance(measured, TrainableDepth):
        return plot_trainable_depth(measured, path)
    if measured.panels:
        return plot_depth(measured, path)
    results = {network.label: network.result for network in measured.networks}
    return plot_signal_propagation(results, path, title=measured.title)


def linear(*, images=None, seed=0, depth=50, width=200, pictures=1000, size=None) -> PaperFigure:
    """2020, Fig. 2a: without normalization, the variance doubles at every block."""
    doubling = [theory.unnormalized_variance(block) for block in range(1, depth + 1)]
    return _linear_figure(
        "without normalization", images, seed, depth, width, pictures, False, (doubling, doubling)
    )


def linear_batch_norm(
    *, images=None, seed=0, depth=50, width=200, pictures=1000, size=None
) -> PaperFigure:
    """2020, Fig. 2b: with BatchNorm on the branch, the variance grows by one per block."""
    growing = [theory.batch_norm_variance(block) for block in range(1, depth + 1)]
    expected = (growing, [1.0] * depth)
    return _linear_figure("with BatchNorm", images, seed, depth, width, pictures, True, expected)


def _linear_figure(what, images, seed, depth, width, vectors, batch_norm, expected) -> PaperFigure:
    if images is not None:
        raise ValueError("This figure is of fully connected networks: it takes no pictures.")
    model = linear_residual_network(depth, width, batch_norm=batch_norm, seed=seed)
    result = signal_propagation(model, (vectors, width), batch_size=vectors, seed=seed)
    setting = f"{depth} blocks of width {width}, {vectors} vectors of noise"
    network = Network(what, setting, result, *expected)
    title = f"Linear residual network {what}"
    return PaperFigure(f"{title}\n{setting}", (network,), ("variance",))


def convolutional_batch_norm(
    *, images=None, seed=0, depth=50, width=48, pictures=16, size=32
) -> PaperFigure:
    """2020, Fig. 2c: the same of convolutions and ReLU, with zeros and with pixels as padding."""
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
    """A network of constant width without strides, measured."""
    keras.utils.set_random_seed(seed)
    model = build_model(
        "wide_resnet16_1",
        scheme="bn",
        depths=(depth,),
        widths=(width,),
        stem_width=width,
        padding=padding,
        num_classes=0,
    )
    return signal_propagation(model, inputs, seed=seed)


def bn_order(*, images=None, seed=0, depth=50, width=64, pictures=16, size=32) -> PaperFigure:
    """2021, Fig. 1: a BatchNorm network, with ReLU behind or before the normalization."""
    inputs, kind = _inputs(images, pictures, size)
    setting = _setting(depth, width, kind)
    networks = []
    for label, first, gain in (("BN, ReLU, conv", False, 2.0), ("ReLU, BN, conv", True, 1.0)):
        model = _bottleneck_network(
            "resnetv2_50", depth, width, seed, preactivation=True, activation_first=first
        )
        _draw_by_fan_in(model, gain, seed)
        branch = 1.0 if first else theory.branch_variance("relu")
        result = signal_propagation(model, inputs, batch_size=pictures, seed=seed)
        expected = [branch * (block + 2) for block in range(depth)] * 4
        networks.append(
            Network(label, f"{setting}, N(0, {gain:.0f} / fan-in)", result.expecting(expected))
        )
    return PaperFigure(f"ResNet v2 with BatchNorm in either order\n{setting}", tuple(networks))


def norm_free(*, images=None, seed=0, depth=50, width=64, pictures=16, size=32) -> PaperFigure:
    """2021, Fig. 2 and 3: an NF-ResNet with and without Scaled Weight Standardization."""
    inputs, kind = _inputs(images, pictures, size)
    setting = _setting(depth, width, kind)
    networks = []
    for activation, name in (("relu", "ReLU"), ("silu", "SiLU")):
        for label, fields in (
            ("He convolutions", {"standardize": False, "gamma_in": None}),
            ("standardized", {}),
        ):
            model = _bottleneck_network(
                "nf_resnet50",
                depth,
                width,
                seed,
                variant="paper",
                activation=activation,
                **fields,
            )
            result = signal_propagation(
                model, inputs, batch_size=pictures, unit_gains=True, seed=seed
            )
            networks.append(Network(f"{name}, {label}", setting, result))
    title = "NF-ResNet with plain and with standardized convolutions"
    return PaperFigure(f"{title}, unit gains\n{setting}", tuple(networks))


def skipinit_fixup(*, images=None, seed=0, depth=50, width=64, pictures=16, size=32) -> PaperFigure:
    """SkipInit and Fixup as they start, beside the NF-ResNet without skip gains."""
    inputs, kind = _inputs(images, pictures, size)
    setting = _setting(depth, width, kind)
    networks = []
    for label, name, fields in (
        ("NF-ResNet", "nf_resnet50", {"variant": "paper", "skip_gain": None}),
        ("SkipInit from 0", "skipinit_resnet50", {"skip_gain": 0.0}),
        ("SkipInit from 1/sqrt(blocks)", "skipinit_resnet50", {"skip_gain": "1/sqrt(blocks)"}),
        ("Fixup", "fixup_resnet50", {}),
    ):
        model = _bottleneck_network(name, depth, width, seed, **fields)
        result = signal_propagation(model, inputs, batch_size=pictures, seed=seed)
        networks.append(Network(label, setting, result))
    return PaperFigure(f"Networks without normalization, as they start\n{setting}", tuple(networks))


def trainable_depth(
    *, images=None, seed=0, depth=166, width=4, pictures=128, size=8
) -> TrainableDepth:
    """2020, Table 1 in small: gradients and loss of Wide ResNets of 10 to 6 depth + 4 layers."""
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
"""Name -> what measures it."""


def _inputs(images: Sequence[Any] | None, pictures: int, size: int):
    """What to measure on, and what that is in words."""
    if images is None:
        shape = (pictures, size, size, 3)
        return shape, f"{pictures} noise pictures of {size} x {size}"
    from nf_zoo.pictures.images import preprocess
    from nf_zoo.pictures.preprocessing import Preprocessing

    recipe = Preprocessing(input_size=size, crop_fraction=1.0)
    batch = preprocess([images[index] for index in _sample(images, pictures)], recipe)
    return batch, f"{len(batch)} real pictures of {size} x {size}"


def _sample(images: Sequence[Any], pictures: int) -> np.ndarray:
    """Indices of that many, at even distances."""
    if not len(images):
        raise ValueError("There are no pictures to measure on. Received: an empty list.")
    return np.unique(np.linspace(0, len(images) - 1, pictures).round().astype(int))


def _bottleneck_network(name: str, depth: int, width: int, seed: int, **fields):
    """Four stages of ``depth`` bottleneck blocks at strides 1 to 8, with a stem for small maps."""
    keras.utils.set_random_seed(seed)
    own = {
        "depths": (depth,) * 4,
        "widths": tuple(width * factor for factor in (1, 2, 4, 8)),
        "stem": "3x3",
        # Narrower than the first stage, so that all four begin with a projection.
        "stem_width": max(1, width // 4),
    }
    return build_model(name, num_classes=0, **own, **fields)


def _setting(depth: int, width: int, kind: str) -> str:
    return f"4 stages of {depth} bottleneck blocks, widths {width} to {8 * width}, {kind}"


def _draw_by_fan_in(model, gain: float, seed: int) -> None:
    """Fresh N(0, gain / fan-in) kernels, of which the papers reckon; ours go by the fan-out."""
    seeds = keras.random.SeedGenerator(seed)
    initializer = keras.initializers.VarianceScaling(gain, "fan_in", "untruncated_normal", seeds)
    for variable in model.trainable_variables:
        if variable.name == "kernel":
            variable.assign(initializer(variable.shape))
