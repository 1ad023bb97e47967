"""A normalizer-free network of the shape of any network with BatchNormalization.

The graph is walked once, with noise or pictures, and edited on the way. Every result has an
expected variance per channel: a scaled activation and a standardized layer keep it at 1, a sum adds
up, and after a layer of unknown effect it is the measured one.
"""

from __future__ import annotations

import dataclasses
import math
import numbers
from typing import Any

import keras
import numpy as np
from keras import ops

from nf_zoo import functional, layers
from nf_zoo.conversion.ahead import Ahead, ends_in_sigmoid, gate_of
from nf_zoo.conversion.editable_model import (
    EditableModel,
    Graph,
    inner,
    is_frozen,
    is_norm,
    norms_in,
    refuse_hidden_norms,
)
from nf_zoo.conversion.normalizer_free_model import NormalizerFreeModel
from nf_zoo.conversion.signals import (
    Signal,
    entering,
    followed,
    inverse_root,
    measured,
    moments_of,
    pictures_for,
)
from nf_zoo.conversion.standardized_layers import (
    activation_of,
    border_effect,
    built,
    forms_of,
    named,
)
from nf_zoo.deploy import inference_graph as graph
from nf_zoo.layers.gradients import no_gradients
from nf_zoo.signal_propagation import theory
from nf_zoo.signal_propagation.measure import PREPARATION

CENTERED = 0.25
"""Largest squared mean, over the variance, of an activation's input that gamma suits."""
FAR = 2.0
"""Factor from 1 beyond which a variance is brought back after the layer that moved it."""
GATE_GAIN = 2.0
RECTIFIERS = ("relu", "relu6")
RANGES = ("tanh", "hard_tanh", "softsign", "softplus", "exponential")
"""Activations whose range may be what a model's answers need, so that no gamma widens it."""

NORMALIZATIONS = (
    *(keras.layers.LayerNormalization, keras.layers.GroupNormalization),
    *(keras.layers.RMSNormalization, keras.layers.UnitNormalization),
    keras.layers.SpectralNormalization,
)


def normalizer_free(
    model: keras.Model, alpha: float = 0.2, *, weights: str | None = None, images: Any = None
) -> NormalizerFreeModel:
    """Return a normalizer-free network of the same shape, to be trained.

    Scaled weight standardization takes the place of BatchNormalization, as in the papers' networks.
    At initialization the result keeps the variance of its signal; in training no picture
    influences another.

    - Convolutions, depthwise and separable ones too, and dense layers whose results reach a
      BatchNormalization become standardized, with a gain and a bias that learn. Their constant
      ``gamma`` undoes the expected variance of the input and the loss at zero padding.
    - BatchNormalization is removed. After a sum or a pooling it becomes the factor beta, 1 / sqrt
      of the expected variance; after a layer that cannot be standardized, such as a transposed
      convolution, it becomes a scale and an offset per channel that learn.
    - Activations of a centered signal get their gamma, gates (squeeze-excite) the factor 2.
    - Every residual branch gets the factor ``alpha``. A shortcut with a convolution starts the
      ledger again at 1.
    - The effect of all other layers (pooling, depthwise convolutions, activations of a shifted
      signal, ...) is measured in one pass over pictures. A variance that leaves [1/2, 2] is
      brought back at once.

    Args:
        model: a functional or built Sequential model, channels last. Models nested in it, shared
            layers and TimeDistributed are followed.
        alpha: weight of the residual branches, above 0.
        weights: None for fresh weights; ``"keep"`` for the kernels of ``model`` where shapes
            agree, and all weights of layers that stay. Frozen layers stay as they are, with their
            weights; a BatchNormalization after one becomes a scale and an offset per channel.
        images: what to measure on, as in :func:`nf_zoo.signal_propagation`; an array for each
            input if there are several. None is noise of variance 1, which suits an input of whole
            numbers only if ``Rescaling`` or ``Normalization`` comes first. Give pictures where you
            can: neighboring pixels of pictures are alike, which pooling and depthwise
            convolutions do not see in noise. At most 16 are used.

    Returns:
        A :class:`~nf_zoo.conversion.normalizer_free_model.NormalizerFreeModel` with the inputs,
        outputs and layer names of ``model``, not compiled. Its ``remaining`` names the
        normalizations of other kinds that stay; its ledger is what
        :func:`nf_zoo.signal_propagation` shows as theory, for models of one input. A
        ``train_step`` of the model's own class is not carried over. ``model`` is not changed.

    Raises:
        ValueError: if ``model`` is neither functional nor Sequential, has a BatchNormalization
            over an axis other than the last or inside a layer with code of its own, or if
            ``alpha``, ``weights`` or ``images`` is not as described above.

    Source: Brock, De & Smith, ICLR 2021, sections 3 (alpha, beta, transitions), 4 (standardization
    and gamma) and 5 (gates).

    Example:
        >>> import keras, nf_zoo
        >>> inputs = keras.Input((32, 32, 3))
        >>> x = keras.layers.Conv2D(8, 3, padding="same", use_bias=False, name="conv")(inputs)
        >>> x = keras.layers.BatchNormalization(name="norm")(x)
        >>> x = keras.layers.ReLU(name="activation")(x)
        >>> result = nf_zoo.normalizer_free(keras.Model(inputs, x))
        >>> [type(layer).__name__ for layer in result.layers]
        ['InputLayer', 'ScaledWSConv2D', 'ScaledActivation']
    """
    if not isinstance(alpha, numbers.Real) or not 0 < alpha < math.inf:
        raise ValueError(f"alpha must be a finite number above 0. Received: {alpha!r}")
    if weights not in (None, "keep"):
        raise ValueError(f'weights must be None or "keep". Received: {weights!r}')
    editable = EditableModel(model, opens=norms_in)
    refuse_hidden_norms(editable)
    _refuse_other_axes(editable)
    network = next(iter(editable.graphs.values()))
    own = getattr(model, "preprocess", None)
    values, kind = pictures_for(functional.as_functional(model), images, own)
    conversion = _Conversion(editable, float(alpha), weights == "keep", kind)
    with no_gradients():
        conversion.convert(network, values)
    result = editable.build()
    structures = functional.structures_of(functional.as_functional(result))
    return NormalizerFreeModel(
        *structures,
        name=model.name,
        alpha=float(alpha),
        ledger=conversion.ledger,
        measured_on=kind,
        remaining=conversion.remaining,
    )


def _refuse_other_axes(editable: EditableModel) -> None:
    for call in editable.calls():
        layer = inner(call.operation)
        if is_norm(layer) and layer.axis not in (-1, layer.input_spec.ndim - 1):
            raise ValueError(
                "BatchNormalization must run over the last axis, the channels: build the model "
                'with data_format="channels_last". '
                f"Received: {call.name!r} with axis={layer.axis}"
            )


class _Conversion:
    """The walk through a network that edits it."""

    def __init__(self, editable: EditableModel, alpha: float, keeps: bool, kind: str):
        # These two are as in NormalizerFreeModel.
        self.ledger: dict[str, float] = {}
        self.remaining: dict[str, str] = {}
        self._editable, self._alpha, self._keeps, self._kind = editable, alpha, keeps, kind
        self._calls = editable.calls_of()
        for call in editable.calls():
            editable.names.unique(call.name)
        self._signals: dict[graph.Node, Signal] = {}
        self._ahead = Ahead(editable)
        self._new: dict[int, Any] = {}
        self._depthwise: dict[int, list] = {}
        self._suited: dict[int, float] = {}
        self._walked: set[int] = set()
        self._done: set[graph.Node] = set()
        self._alive: set[graph.Node] = set()
        self._signals_of_parts: dict[graph.Node, list[Signal]] = {}

    def convert(self, network: Graph, values: list) -> None:
        """Edit the network, which gets these values."""
        noise = self._kind == "noise"
        signals = [measured(value) for value in values]
        for signal in signals:
            signal.is_noise = noise
            signal.variance = 1.0 if noise else signal.variance
        self._walk(network, signals)
        for layer in self._new.values():
            if getattr(layer, "stateful", False):
                layer.reset_state()

    # The walk.

    def _walk(self, one: Graph, given: list[Signal]) -> list[Signal]:
        """Walk through a graph and return the signals of its results.

        A graph that is walked again, because its model is shared, is only measured.
        """
        is_new = id(one) not in self._walked
        self._walked.add(id(one))
        nodes = graph.upwards(one.sink)[:-1]
        self._done -= set(nodes)
        for source, signal in zip(one.sources, given, strict=True):
            self._set(source, dataclasses.replace(signal))
        for node in nodes:
            if isinstance(node, graph.Part):
                part = self._signals_of_parts[node.input][node.index]
                self._set(node, dataclasses.replace(part))
            elif isinstance(node, graph.Kept):
                (self._convert if is_new else self._measure)(node)
            for other in list(self._alive):
                if all(taker in self._done for taker in other.consumers):
                    self._signals[other].value = None
                    self._alive.discard(other)
        return [dataclasses.replace(self._signals[x]) for x in one.sink.inputs]

    def _set(self, node: graph.Node, signal: Signal) -> None:
        self._signals[node] = signal
        self._alive.add(node)
        self._done.add(node)

    def _note(self, node: graph.Node, signal: Signal) -> None:
        """Set the signal of a call, with its variance in the ledger."""
        self._set(node, signal)
        self.ledger[node.name] = signal.variance

    def _inputs(self, call: graph.Kept) -> list[Signal]:
        return [self._signals[x] for x in call.inputs]

    def _result(self, call: graph.Kept):
        """Return what the new layer of a call makes of the values of its inputs."""
        layer, values = inner(call.operation), [x.value for x in self._inputs(call)]
        layer = self._new.get(id(layer), layer)
        if call.operation is not inner(call.operation):
            layer = keras.layers.TimeDistributed(layer)
        return call.call(layer, values, training=False)

    def _convert(self, call: graph.Kept) -> None:
        layer = inner(call.operation)
        kind, inputs = type(layer), self._inputs(call)
        if id(layer) in self._editable.graphs:
            self._nested(call, self._editable.graphs[id(layer)])
        elif is_norm(layer):
            self._remove(call)
        elif id(layer) in self._ahead.to_standardize:
            self._standardize(call, layer)
        elif kind in (layers.SqueezeExcite, layers.EfficientChannelAttention):
            self._renew(call, layer, gate_gain=GATE_GAIN)
            self._note(call, followed(inputs[0], self._result(call)))
        elif call in self._ahead.branches or (kind.__name__ == "Add" and len(inputs) > 1):
            self._sum(call)
        elif kind.__name__ == "Concatenate" and layer.axis in (-1, len(inputs[0].value.shape) - 1):
            self._concatenate(call)
        elif gate_of(call) is not None and ends_in_sigmoid(gate_of(call)):
            self._gate(call, gate_of(call))
        elif kind in functional.TRAINING:
            self._set(call, dataclasses.replace(inputs[0], value=self._result(call)))
        elif kind is keras.layers.ZeroPadding2D:
            self._set(call, followed(inputs[0], self._result(call)))
        elif kind in PREPARATION and inputs[0].is_noise:
            self._set(call, dataclasses.replace(inputs[0]))
        elif self._is_range(call, activation_of(layer)):
            self._measure(call)
        elif activation_of(layer) is not None and self._suits_gamma(inputs[0]):
            self._activate(call, layer)
        else:
            self._keep(call, layer)

    def _nested(self, call: graph.Kept, nested: Graph) -> None:
        given, is_timed = self._inputs(call), call.operation is not inner(call.operation)
        if is_timed:
            steps = given[0].value.shape[1]
            folded = ops.reshape(given[0].value, (-1, *given[0].value.shape[2:]))
            given = [dataclasses.replace(given[0], value=folded)]
        else:
            places = functional.places_of(call.arguments, functional.graph_of(nested.model))
            given = [given[place] for place in places]
        # As Keras casts them there; what is no float has no variance that is known.
        inputs = functional.graph_of(nested.model).inputs
        given = [entering(x, own.dtype) for x, own in zip(given, inputs, strict=True)]
        results = self._walk(nested, given)
        for signal in results if is_timed else ():
            signal.value = ops.reshape(signal.value, (-1, steps, *signal.value.shape[1:]))
        self._signals_of_parts[call] = results
        self._set(call, results[0])

    def _measure(self, call: graph.Kept) -> None:
        """Let the ledger go on from what is measured."""
        if id(inner(call.operation)) in self._editable.graphs:
            self._nested(call, self._editable.graphs[id(inner(call.operation))])
            return
        is_normalized = all(x.is_normalized for x in self._inputs(call))
        results = keras.tree.flatten(self._result(call))
        self._signals_of_parts[call] = [measured(x, is_normalized) for x in results]
        self._set(call, self._signals_of_parts[call][0])

    def _keep(self, call: graph.Kept, layer) -> None:
        """Keep a layer whose effect is unknown."""
        if isinstance(layer, NORMALIZATIONS):
            self.remaining[call.name] = type(layer).__name__
        has_weights = bool(getattr(layer, "weights", ()))
        if getattr(layer, "trainable_weights", ()) or getattr(layer, "stateful", False):
            self._renew(call, layer)
        self._measure(call)
        signal = self._signals[call]
        if has_weights:
            signal.is_normalized = False
            self.ledger[call.name] = signal.variance
        before = self._inputs(call)[0].value if call.inputs else signal.value
        places, places_before = (math.prod(x.shape[1:-1]) for x in (signal.value, before))
        if places == 1 < places_before:
            signal.is_normalized = False  # the mean over a picture, as a gate or a head takes it
        factor, is_alone = inverse_root(signal.variance), len(self._signals_of_parts[call]) == 1
        near = 1 / FAR <= factor**2 <= FAR
        if signal.is_normalized and call in self._ahead.inside and is_alone and not near:
            self._scale_behind(call, factor, f"{call.name}_scale")

    def _renew(self, call: graph.Kept, layer, **changes) -> None:
        """Put a copy in the place of a layer, with its weights if they are kept."""
        if id(layer) in self._new:
            return
        new = functional.copy_of(layer, name=self._editable.name_of(layer), **changes)
        self._new[id(layer)] = new
        self._editable.replace(layer, new)
        self._result(call)  # builds it
        if self._keeps or is_frozen(layer):
            functional.copy_weights(layer, new)

    # The rules.

    def _rescaling(self, factor: float, name: str, like):
        name = self._editable.names.unique(name)
        return keras.layers.Rescaling(factor, name=name, dtype=like)

    def _scale_behind(self, node: graph.Node, factor: float, name: str) -> None:
        """Scale the result of a node for all that take it."""
        scaled = self._editable.insert_after(node, self._rescaling(factor, name, node.policy))
        self._added(scaled, node, factor)

    def _scale_for(self, call: graph.Kept, node: graph.Node, factor: float, name: str) -> None:
        """Scale the result of a node for one call alone."""
        scaled = self._editable.add(self._rescaling(factor, name, node.policy), node)
        call.redirect(node, scaled)
        self._added(scaled, node, factor)

    def _added(self, scaled: graph.Kept, node: graph.Node, factor: float) -> None:
        signal = self._signals[node]
        value, variance = signal.value * factor, signal.variance * factor**2
        self._set(scaled, Signal(value, variance, signal.is_normalized))

    def _replace_call(self, call: graph.Kept, layer) -> graph.Kept:
        """Let a new layer take the place of one call of a layer."""
        new = self._editable.add(layer, call.input)
        call.replace_by(new)
        call.remove()
        return new

    def _remove(self, call: graph.Kept) -> None:
        """Take a BatchNormalization away."""
        before, norm = call.input, inner(call.operation)
        signal, name = self._signals[before], self._editable.name_of(norm)
        maker = before.input if isinstance(before, graph.Part) else before
        layer = inner(getattr(maker, "operation", None))
        factor = inverse_root(signal.variance)
        known = id(layer) in self._ahead.to_standardize or id(layer) in self._editable.graphs
        if not known and (isinstance(before, graph.Source) or getattr(layer, "weights", ())):
            self._learn_scale(call, signal)
        elif abs(factor - 1.0) < 1e-3:
            signal.is_normalized = True
            self._editable.bypass(call)
        else:
            scaling = self._rescaling(factor, f"{name}_beta", norm.dtype_policy)
            new = self._replace_call(call, scaling)
            self._set(new, Signal(signal.value * factor, 1.0, True))

    def _learn_scale(self, call: graph.Kept, signal: Signal) -> None:
        """Put a scale and an offset that learn in the place of a BatchNormalization.

        They start where the result has variance 1; at the model's input, where each channel of
        the pictures has mean 0 and variance 1.
        """
        norm = inner(call.operation)
        own = {"trainable": norm.trainable, "dtype": norm.dtype_policy}
        name = self._editable.names.unique(f"{self._editable.name_of(norm)}_affine")
        channels = signal.value.shape[-1]
        scale, offset = np.full(channels, inverse_root(signal.variance)), np.zeros(channels)
        if isinstance(call.input, graph.Source) and self._kind == "images":
            values = ops.convert_to_numpy(ops.reshape(signal.value, (-1, channels)))
            scale = 1 / np.sqrt(values.var(0) + norm.epsilon)
            offset = -values.mean(0) * scale
        affine = layers.ChannelAffine("channels", "channels", name=name, **own)
        affine.build(signal.value.shape)
        affine.set_weights([scale, offset])
        new = self._replace_call(call, affine)
        self._note(new, Signal(affine(signal.value), 1.0, True))

    def _standardize(self, call: graph.Kept, layer) -> None:
        signal = self._signals[call.input]
        if id(layer) not in self._new:
            self._make_standardized(call, layer, signal)
        for extra in self._depthwise[id(layer)]:
            if call.operation is not layer:
                extra = keras.layers.TimeDistributed(extra, name=f"{extra.name}_steps")
            new = self._editable.add(extra, call.input)
            call.redirect(call.input, new)
            self._note(new, Signal(extra(signal.value), 1.0, True))
        variance = signal.variance / (self._suited[id(layer)] or 1.0)
        self._note(call, Signal(self._result(call), variance, True))
        if getattr(layer, "activation", None) not in (None, keras.activations.linear):
            self._split_activation(call, layer)

    def _make_standardized(self, call: graph.Kept, layer, signal: Signal) -> None:
        """Make the standardized layers of a layer, for this signal."""
        x, name = signal.value, self._editable.name_of(layer)
        if call.operation is not layer:
            x = ops.reshape(x, (-1, *x.shape[2:]))
        free = None in call.tensors[0].shape[1:]
        made, variance = [], signal.variance
        forms = forms_of(layer)
        for form in forms:
            own = {**form.own, "name": name, "dtype": layer.dtype_policy}
            if form is not forms[-1]:
                own["name"] = self._editable.names.unique(f"{name}_depthwise")
            kernel = form.kernel if self._keeps else None
            effect = border_effect(form, x, free)
            if self._keeps or self._kind == "images" or effect is None:
                new = built(form, own, x, kernel)
                effect = followed(Signal(x, 1.0), new(x)).variance
                kernel = new.kernel
            new = built(form, {**own, "gamma": inverse_root(variance * effect)}, x, kernel)
            made.append(new)
            x, variance = new(x), 1.0
        *self._depthwise[id(layer)], self._new[id(layer)] = made
        self._suited[id(layer)] = signal.variance
        self._editable.replace(layer, made[-1])

    def _split_activation(self, call: graph.Kept, layer) -> None:
        """Put the activation of a standardized layer after it, as a layer of its own."""
        activation, name = named(layer.activation), f"{call.name}_activation"
        own = {"name": self._editable.names.unique(name), "dtype": layer.dtype_policy}
        if activation is None or self._is_range(call, activation):
            added = keras.layers.Activation(layer.activation, **own)
            new = self._editable.insert_after(call, added)
            self._measure(new)
            return
        new = self._editable.insert_after(call, layers.ScaledActivation(activation, **own))
        self._set(new, self._activated(new, activation))

    def _activated(self, call: graph.Kept, activation) -> Signal:
        """Return the signal after an activation with its gamma.

        One that is no rectifier increases large variances the more, so an error would grow from
        layer to layer: after it the ledger goes on from what is measured.
        """
        value, before = self._result(call), self._signals[call.input].variance
        if activation in RECTIFIERS:
            return Signal(value, theory.activated_variance(before, activation), True)
        return measured(value, is_normalized=True)

    def _is_range(self, call: graph.Kept, activation) -> bool:
        """Return True for an activation that gives answers of the model their range."""
        answers = next(iter(self._editable.graphs.values())).sink
        return activation in RANGES and answers in call.consumers

    @staticmethod
    def _suits_gamma(signal: Signal) -> bool:
        """Return True for a normalized signal whose mean is small."""
        if not signal.is_normalized:
            return False
        moments = moments_of(signal.value)
        return moments.squared_mean <= CENTERED * moments.variance

    def _activate(self, call: graph.Kept, layer) -> None:
        """Give an activation its gamma."""
        activation = activation_of(layer)
        if activation is layer:  # one with settings of its own
            self._set(call, measured(self._result(call), is_normalized=True))
            gamma = layers.ScaledActivation(activation).gamma
            self._scale_behind(call, gamma, f"{call.name}_gamma")
            return
        name, policy = call.name, getattr(layer, "dtype_policy", None)
        if len(self._calls[layer]) > 1 or not isinstance(layer, keras.layers.Layer):
            name = self._editable.names.unique(name)
        scaled = layers.ScaledActivation(activation, name=name, dtype=policy)
        new = self._replace_call(call, scaled)
        self._set(new, self._activated(new, activation))

    def _sum(self, call: graph.Kept) -> None:
        """Add the expected variances; a residual branch counts by alpha squared."""
        for branch in [call.inputs[index] for index in self._ahead.branches.get(call, ())]:
            if self._signals[branch].is_normalized:
                factor = self._alpha * inverse_root(self._signals[branch].variance)
                self._scale_for(call, branch, factor, f"{call.name}_alpha")
        inputs = self._inputs(call)
        is_normalized = all(x.is_normalized for x in inputs)
        variance = sum(x.variance for x in inputs)
        if type(call.operation).__name__ == "Average":
            variance /= len(inputs) ** 2
        self._note(call, Signal(self._result(call), variance, is_normalized))

    def _concatenate(self, call: graph.Kept) -> None:
        """Take the mean of the expected variances over all channels."""
        inputs = self._inputs(call)
        widths = [x.value.shape[-1] for x in inputs]
        variance = np.average([x.variance for x in inputs], weights=widths)
        is_normalized = all(x.is_normalized for x in inputs)
        self._note(call, Signal(self._result(call), float(variance), is_normalized))

    def _gate(self, call: graph.Kept, gate: graph.Node) -> None:
        """Double a gate, whose sigmoid averages 1/2."""
        (gated,) = (x for x in call.inputs if x is not gate)
        self._scale_for(call, gate, GATE_GAIN, f"{call.name}_gate_gain")
        self._note(call, followed(self._signals[gated], self._result(call)))
