"""Measurement of signal propagation, block by block while pictures stream through."""

import contextlib
import dataclasses
import math
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
from keras import ops

from nf_zoo import functional
from nf_zoo.layers.gradients import no_gradients
from nf_zoo.models.residual_block import ResidualBlock
from nf_zoo.signal_propagation import theory
from nf_zoo.signal_propagation.inputs import batches_of
from nf_zoo.signal_propagation.model_inspection import Merge, find_merges, is_trained
from nf_zoo.signal_propagation.result import BlockSignal, SignalPropagation

BatchNormalization = keras.layers.BatchNormalization
PREPARATION = (keras.layers.Rescaling, keras.layers.Normalization)
"""Layers that prepare pictures where they stand at the input."""
POOLINGS = (
    *(f"Global{kind}Pooling{rank}D" for kind in ("Average", "Max") for rank in (1, 2, 3)),
    *("Mean", "Max"),
)
"""Class names of layers and operations behind which a gate or a head takes whole pictures."""


def signal_propagation(
    model: keras.Model,
    images_or_shape: Any = None,
    *,
    batch_size: int = 32,
    unit_gains: bool = False,
    batch_statistics: bool | None = None,
    seed: int = 0,
) -> SignalPropagation:
    """Measure mean and variance along the depth of a network, for a signal propagation plot.

    Pictures stream through in batches, one block at a time. Memory is bounded by one block and one
    batch, for any depth and any number of pictures. Dropout and stochastic depth are off. The
    model does not change.

    Args:
        model: a network of the zoo, or any functional or Sequential Keras model with one input and
            the channels last. In a model from elsewhere, the residual blocks are the layers that
            add (or concatenate) a branch to the tensor it starts from; if there are none, every
            layer with weights and an output of two axes or more is a row.
        images_or_shape: images (N, H, W, C) as the model takes them; a dataset of such batches,
            with or without labels; the path of a picture or of a folder of pictures, or a list of
            such paths, which the model's own ``preprocess`` prepares; or a shape, (H, W, C) or
            (N, H, W, C), for N(0, 1) noise. None gives noise of the model's own shape, with 64
            pixels for free sides. Noise stands for prepared pictures: Rescaling and Normalization
            at the model's input are skipped.
        batch_size: pictures at a time, and number of noise pictures if the shape does not give it.
        unit_gains: measure with every gain, skip gain and scale of BatchNorm at one, as the
            papers' plots do; otherwise a branch whose gain starts at 0 is silent.
        batch_statistics: BatchNorm normalizes by the batch, as in training, instead of by its
            moving statistics. None means True if training has not changed these yet.
        seed: seed of the noise.

    Returns:
        A :class:`~nf_zoo.signal_propagation.result.SignalPropagation`, one row per block. Its
        ``predicted_variance`` is the variance that theory expects of the network's configuration
        at initialization. The share of the variance that average-pool shortcuts leave depends on
        the similarity of neighboring pixels, and is measured. If theory does not apply,
        ``no_theory`` gives the reason.

    Raises:
        FileNotFoundError: if there is no such picture or folder.
        TypeError: if the model is not a functional model with one input, or has no preprocessing
            for files.
        ValueError: if the pictures do not fit the model, or there are none.

    Source: Brock, De & Smith, ICLR 2021, section 3 and appendix; De & Smith, NeurIPS 2020, for
    the moving variance.

    Example:
        >>> import nf_zoo
        >>> model = nf_zoo.WideResNet16_1(num_classes=10)
        >>> result = nf_zoo.signal_propagation(model, (8, 32, 32, 3), unit_gains=True)
        >>> len(result)
        6
        >>> result.plot("spp.png")  # doctest: +SKIP
    """
    network = functional.graph_of(model)
    if network is None or len(network.inputs) != 1:
        raise TypeError(
            "The model must be a functional or built Sequential Keras model with one input: wrap a "
            "subclassed model as keras.Model(inputs, model.call(inputs)). "
            f"Received: {type(model).__name__} {getattr(model, 'name', '')!r}"
        )
    trained = is_trained(model)
    norms = [layer for layer in model._flatten_layers() if isinstance(layer, BatchNormalization)]
    if batch_statistics is None:
        batch_statistics = bool(norms) and all(map(_untouched, norms))
    input_shape, preprocess = network.inputs[0].shape, getattr(model, "preprocess", None)
    batches, kind = batches_of(images_or_shape, input_shape, batch_size, seed, preprocess)
    walk = _Walk(batch_statistics, kind)
    with contextlib.ExitStack() as stack:
        stack.enter_context(no_gradients())
        if unit_gains:
            stack.enter_context(_gains_at_one(model))
        if batch_statistics:
            stack.enter_context(_statistics_of_the_batch(norms))
        for batch in batches:
            batch, wanted = keras.ops.convert_to_tensor(batch), network.inputs[0].dtype
            # Noise stays as it is where an input takes whole numbers.
            whole = not keras.backend.is_float_dtype(keras.backend.standardize_dtype(batch.dtype))
            walk.through(network, keras.ops.cast(batch, wanted) if whole else batch)
    no_theory = theory.missing_theory(model, trained, kind, batch_statistics)
    predicted = [None] * len(walk.signals)
    ledger = getattr(model, "ledger", None)
    if not no_theory and ledger is not None:
        predicted = [ledger.get(name) for name in walk.signals]
    elif not no_theory:
        predicted = theory.predicted_variances(
            model, unit_gains, batch_statistics, walk.size, walk.pooling
        )
    return SignalPropagation(
        model=model.name,
        blocks=walk.rows(predicted),
        before=(walk.before.squared_mean, walk.before.variance),
        pictures=walk.pictures,
        inputs=kind,
        residual=walk.residual,
        unit_gains=unit_gains,
        batch_statistics=batch_statistics,
        no_theory=no_theory,
    )


class ChannelMoments:
    """Mean and variance of every channel over all batches, exact for any split into batches.

    Channels are the last axis; all other axes are pooled. The moments of a batch are computed on
    the device in float32 and combined in float64.
    """

    def __init__(self):
        self.count = 0
        self._mean = 0.0
        self._deviation = 0.0

    def add(self, x) -> None:
        """Add a batch of activations (..., channels)."""
        x = ops.cast(x, "float32")
        axes = tuple(range(len(x.shape) - 1))
        mean = ops.mean(x, axes, keepdims=True)
        deviation = ops.convert_to_numpy(ops.mean(ops.square(x - mean), axes)).astype("float64")
        mean = ops.convert_to_numpy(mean).reshape(-1).astype("float64")
        count = int(np.prod(x.shape[:-1]))
        total = self.count + count
        shift = mean - self._mean
        # Chan, Golub & LeVeque's update of the sum of squared deviations.
        self._deviation = (
            self._deviation + deviation * count + shift**2 * self.count * count / total
        )
        self._mean = self._mean + shift * count / total
        self.count = total

    @property
    def squared_mean(self) -> float:
        """Squared mean, averaged over the channels."""
        return float(np.mean(np.square(self._mean)))

    @property
    def variance(self) -> float:
        """Variance, averaged over the channels."""
        return float(np.mean(self._deviation / self.count))


@dataclasses.dataclass
class _Signal:
    """The moments that are collected for one block."""

    stage: int
    norm: BatchNormalization | None
    output: ChannelMoments = dataclasses.field(default_factory=ChannelMoments)
    residual: ChannelMoments = dataclasses.field(default_factory=ChannelMoments)
    norm_variance: float = 0.0  # times the pictures that it was read for
    measured: int = 0  # these pictures
    unpooled: ChannelMoments = dataclasses.field(default_factory=ChannelMoments)
    pooled: ChannelMoments = dataclasses.field(default_factory=ChannelMoments)


class _Walk:
    """Walk of batches through a model that collects the signals of its blocks."""

    def __init__(self, batch_statistics: bool, inputs: str):
        self.signals: dict[str, _Signal] = {}
        self.before = ChannelMoments()
        self.pictures = 0
        self.residual = True
        self.size: tuple[int, int] | None = None
        self._training, self._is_noise, self._noise = batch_statistics, inputs == "noise", None
        self._size: tuple | None = None
        self._stage = 0
        self._batch, self._network = 0, None
        self._first, self._is_pooled = True, False
        self._merges: dict[int, list[Merge]] = {}
        self._owners: dict[str, Any] = {}  # name of a row -> the network of its block

    def through(self, network, batch) -> None:
        """Send one batch through the whole model."""
        self.pictures += len(batch)
        self.size = tuple(batch.shape[1:3])
        self._batch, self._size, self._stage, self._first = len(batch), None, 0, True
        self._is_pooled = False
        self._noise = batch if self._is_noise else None
        if not self.signals:
            self.residual = _has_blocks(network)
        if not self.residual:
            self._note_before(batch)
        self._graph(network, batch)

    def _graph(self, network, x):
        """Run a functional model on ``x`` and return its outputs."""
        if id(network) not in self._merges:
            self._merges[id(network)] = find_merges(network)
        merges = self._merges[id(network)]
        ends = {merge.residual: merge for merge in merges}
        outputs = {merge.output: merge for merge in merges}
        splits = {merge.split for merge in merges[:1]}
        wanted, results, branches = [id(t) for t in network.outputs], {}, {}
        self._network, outside = network, self._network
        if id(network.inputs[0]) in splits:
            self._note_before(x)
        for key, value in functional.run(network, x, self._call):
            if key in splits:
                self._note_before(value)
            if key in ends:
                branches[key] = value
            if key in outputs:
                merge = outputs[key]
                norm = next((op for op in merge.branch if isinstance(op, BatchNormalization)), None)
                self._note(merge.name, norm, branches.pop(merge.residual), value)
            if key in wanted:
                results[key] = value
        self._network = outside
        return [results[key] for key in wanted]

    def _call(self, operation, args, kwargs):
        if isinstance(operation, ResidualBlock):
            return self._block(operation, args[0])
        nested = functional.graph_of(operation)
        if nested is not None and len(nested.inputs) == 1:
            return self._graph(nested, keras.tree.flatten(args)[0])
        if isinstance(operation, BatchNormalization):
            return operation(args[0], training=self._training)
        if type(operation) in PREPARATION and args[0] is self._noise:
            return args[0]
        output = functional.at_inference(operation, args, kwargs)
        if type(operation) in functional.TRAINING and args[0] is self._noise:
            self._noise = output
        shape = getattr(output, "shape", ())
        is_point = math.prod(shape[1:-1]) == 1
        self._is_pooled |= is_point and type(operation).__name__ in POOLINGS
        is_block = getattr(operation, "weights", None) and not (is_point and self._is_pooled)
        if not self.residual and is_block and len(shape) >= 2:
            self._note(operation.name, None, None, output)
        return output

    def _block(self, block: ResidualBlock, x):
        """Run a block of the zoo; its branch is measured before skip gain and alpha."""
        self._note_before(x)
        residual, skip = block.halves(x, training=self._training)
        output = block.merge(residual, skip)
        norms = getattr(block, "norms", None)
        signal = self._note(block.name, norms[0] if norms else None, residual, output)
        if block.shortcut_pool is not None:
            activated = block.preactivate(x, training=self._training)
            signal.unpooled.add(activated)
            signal.pooled.add(block.shortcut_pool(activated))
        return output

    def _note_before(self, x) -> None:
        if self._first:
            self.before.add(x)
            self._first = False

    def _note(self, name: str, norm, residual, output) -> _Signal:
        size = tuple(output.shape[1:-1])
        if size != self._size:
            self._size, self._stage = size, self._stage + 1
        if self._owners.setdefault(name, self._network) is not self._network:
            name = f"{self._network.name}/{name}"  # as in another of several nested networks
        signal = self.signals.setdefault(name, _Signal(self._stage, norm))
        signal.output.add(output)
        if residual is not None:
            signal.residual.add(residual)
        if norm is not None:
            variance = float(np.mean(keras.ops.convert_to_numpy(norm.moving_variance)))
            signal.norm_variance += variance * self._batch
            signal.measured += self._batch
        return signal

    @property
    def pooling(self) -> list[float | None]:
        """Share of the variance that the average pooling of each block's shortcut leaves."""
        return [
            signal.pooled.variance / signal.unpooled.variance
            if signal.pooled.count and signal.unpooled.variance
            else None
            for signal in self.signals.values()
        ]

    def rows(self, predicted: list[float | None]) -> tuple[BlockSignal, ...]:
        """Return the rows, in the order of the blocks."""
        return tuple(
            BlockSignal(
                name=name,
                stage=signal.stage,
                squared_mean=signal.output.squared_mean,
                variance=signal.output.variance,
                residual_variance=signal.residual.variance if signal.residual.count else None,
                bn_moving_variance=signal.norm_variance / signal.measured if signal.norm else None,
                predicted_variance=expected,
            )
            for (name, signal), expected in zip(self.signals.items(), predicted, strict=True)
        )


def _has_blocks(network) -> bool:
    return any(
        find_merges(graph)
        or any(isinstance(node.operation, ResidualBlock) for node in functional.nodes_of(graph))
        for graph in functional.graphs_of(network)
    )


def _untouched(norm: BatchNormalization) -> bool:
    return bool(
        np.all(keras.ops.convert_to_numpy(norm.moving_variance) == 1)
        and np.all(keras.ops.convert_to_numpy(norm.moving_mean) == 0)
    )


@contextlib.contextmanager
def _kept(variables: list) -> Iterator[None]:
    """Restore the variables on exit."""
    before = [keras.ops.convert_to_numpy(variable).copy() for variable in variables]
    try:
        yield
    finally:
        for variable, value in zip(variables, before, strict=True):
            variable.assign(value)


@contextlib.contextmanager
def _statistics_of_the_batch(norms: list[BatchNormalization]) -> Iterator[None]:
    """Set the momenta to 0, so that the moving statistics are those of the last batch.

    A frozen layer would normalize by its moving statistics, so none is frozen meanwhile.
    """
    momenta = [norm.momentum for norm in norms]
    frozen = [norm for norm in norms if not norm.trainable]
    flags = [(v, v.trainable) for norm in frozen for v in norm._trainable_variables]
    with _kept([v for norm in norms for v in (norm.moving_mean, norm.moving_variance)]):
        try:
            for norm in norms:
                norm.momentum = 0.0
            for norm in frozen:
                norm.trainable = True
            yield
        finally:
            for norm, momentum in zip(norms, momenta, strict=True):
                norm.momentum = momentum
            for norm in frozen:
                norm.trainable = False
            for variable, flag in flags:  # a layer sets them all
                variable.trainable = flag


@contextlib.contextmanager
def _gains_at_one(model) -> Iterator[None]:
    """Set the zoo's gains and skip gains, and all scales of BatchNorm, to one."""
    gains = [
        variable
        for layer in model._flatten_layers()
        if layer.__class__.__module__.startswith("nf_zoo.") or isinstance(layer, BatchNormalization)
        for variable in layer._trainable_variables
        if variable.name in ("gain", "gamma")
    ]
    with _kept(gains):
        for gain in gains:
            gain.assign(np.ones(gain.shape, "float32"))
        yield
