"""The same function without BatchNormalization: its statistics move into the layers beside it."""

from __future__ import annotations

import math

import keras
import numpy as np

from nf_zoo import layers
from nf_zoo.conversion.absorption import (
    KINDS,
    Absorber,
    can_absorb,
    channel_axis,
    is_linear,
    passes,
)
from nf_zoo.conversion.editable_model import (
    EditableModel,
    inner,
    is_frozen,
    is_norm,
    norms_in,
    refuse_hidden_norms,
)
from nf_zoo.deploy.inference_graph import Kept
from nf_zoo.deploy.lowering import batch_norm_terms


def remove_batch_norm(model: keras.Model) -> keras.Model:
    """Return a new model that computes the same at inference, and trains without batch statistics.

    Every BatchNormalization disappears into a layer beside it, with its moving statistics: into
    the kernel and bias of the convolution (depthwise, separable and transposed ones too) or dense
    layer before it, or of those after it. Where none can take it exactly, it becomes a
    :class:`~nf_zoo.layers.ChannelAffine` of its name, with a trainable scale and offset per
    channel. That happens where

    - no such layer is next to it, directly or beyond poolings; or an activation or a dropout lies
      in between; or that layer has other uses, a constraint, an activity regularizer, LoRA or
      another dtype, or is frozen while the BatchNormalization is not;
    - the layer after it pads with zeros, to which no offset was added.

    Training then goes on as with frozen statistics, with any batch size; no picture influences
    another.

    Args:
        model: a functional or built Sequential model, trained or not. Models nested in it, shared
            layers and TimeDistributed are followed.

    Returns:
        a new Keras model with the inputs, outputs, layer names, ``trainable`` flags and dtype
        policies of ``model``, not compiled; its attribute ``remaining`` says what stayed, by the
        name of the layer. It is a Sequential or a ``keras.Model``, or of the class of ``model`` if
        that has no constructor of its own. The residual blocks of this package's BatchNorm
        networks appear as their parts. ``model`` is not changed.

    Raises:
        ValueError: if ``model`` is neither functional nor Sequential, or hides a
            BatchNormalization in a layer with code of its own, or has a layer that does not
            support ``get_config``.

    Source: Ioffe & Szegedy, ICML 2015, section 3.1, on inference with fixed statistics.

    Example:
        >>> import keras, nf_zoo
        >>> model = keras.Sequential([
        ...     keras.Input((32, 32, 3)),
        ...     keras.layers.Conv2D(8, 3, use_bias=False, name="conv"),
        ...     keras.layers.BatchNormalization(name="norm"),
        ...     keras.layers.ReLU(name="activation"),
        ... ])
        >>> result = nf_zoo.remove_batch_norm(model)
        >>> [layer.name for layer in result.layers]
        ['conv', 'activation']
        >>> result.remaining
        {}
    """
    editable = EditableModel(model, opens=norms_in)
    refuse_hidden_norms(editable)
    removal = _Removal(editable)
    removal.remove_all()
    result = editable.build()
    result.remaining = removal.remaining
    return result


class _Removal:
    """Removal of every BatchNormalization of a model."""

    def __init__(self, editable: EditableModel):
        self.remaining: dict[str, str] = {}  # name of a layer -> what could not be absorbed
        self._editable, self._calls = editable, editable.calls_of()
        self._absorbers: dict[int, Absorber] = {}

    def remove_all(self) -> None:
        """Remove them in the order of their first calls."""
        for layer, calls in self._calls.items():
            if is_norm(layer):
                self._remove(layer, calls)
        for absorber in self._absorbers.values():
            copy = self._editable.copy_of(absorber.layer, use_bias=True)
            self._editable.replace(absorber.layer, copy, absorber.weights())

    def _remove(self, norm, calls: list[Kept]) -> None:
        scale, offset = batch_norm_terms(norm)
        before = self._before(norm, calls, scale)
        behind = {} if before is not None else self._behind(norm, calls, scale, offset)
        if before is not None:
            self._absorber(before).absorb_after(scale, offset)
        for layer, places in behind.items():
            self._absorber(layer).absorb_before(np.tile(scale, places), np.tile(offset, places))
        if before is not None or behind:
            for call in calls:
                self._editable.bypass(call)
            return
        name = self._editable.name_of(norm)
        own = {"trainable": norm.trainable, "dtype": norm.dtype_policy, "name": name}
        affine = layers.ChannelAffine("channels", "channels", axis=_axis(norm), **own)
        self._editable.replace(norm, affine, [scale, offset])
        self.remaining[name] = "scale and offset per channel"

    def _absorber(self, layer) -> Absorber:
        return self._absorbers.setdefault(id(layer), KINDS[type(layer)](layer))

    def _before(self, norm, calls: list[Kept], scale: np.ndarray):
        """Return the one layer whose every result comes to these calls, and to nobody else."""
        makers = []
        for call in calls:
            maker = call.input
            while isinstance(maker, Kept) and maker.has_one_consumer:
                if not passes(inner(maker.operation), scale, _axis(norm)):
                    makers.append(maker)
                    break
                maker = maker.input
        found = {inner(maker.operation): None for maker in makers}
        if len(found) != 1 or len(makers) != len(calls):
            return None
        (layer,) = found
        suits = _suits(norm, layer) and is_linear(layer)
        return layer if suits and set(self._calls[layer]) == set(makers) else None

    def _behind(self, norm, calls: list[Kept], scale: np.ndarray, offset: np.ndarray) -> dict:
        """Return the layers that take the results of these calls; none if one cannot take the norm.

        The value is the number of places that a layer takes side by side, behind a Flatten.
        """
        found, takers, axis = {}, set(), _axis(norm)
        waiting = [(taker, call, 1) for call in calls for taker in call.consumers]
        for taker, node, places in waiting:
            if not isinstance(taker, Kept) or taker.input is not node:
                return {}
            takers.add(taker)
            layer = inner(taker.operation)
            if passes(layer, scale, axis):
                waiting += [(x, taker, places) for x in taker.consumers]
                continue
            if _flattens(taker) and axis == -1:
                places *= math.prod(taker.tensors[0].shape[1:-1])
                waiting += [(x, taker, places) for x in taker.consumers]
                continue
            suits = _suits(norm, layer) and found.setdefault(layer, places) == places
            if not suits or (np.any(offset) and not KINDS[type(layer)].takes_offsets(layer)):
                return {}
        return found if all(set(self._calls[layer]) <= takers for layer in found) else {}


def _flattens(call: Kept) -> bool:
    """Return True for a Flatten that puts the channels of one place after those of another."""
    flatten = call.operation
    is_last = type(flatten) is keras.layers.Flatten and flatten.data_format == "channels_last"
    return is_last and None not in call.tensors[0].shape[1:]


def _suits(norm, layer) -> bool:
    """Return True if the layer's weights may take the norm's."""
    if not can_absorb(layer) or channel_axis(layer) != _axis(norm):
        return False
    frozen = norm.trainable and (norm.scale or norm.center) and is_frozen(layer)
    return layer.compute_dtype == norm.compute_dtype and not frozen


def _axis(norm) -> int:
    """Return the axis of a built layer's channels, counted from the end."""
    return norm.axis if norm.axis < 0 else norm.axis - norm.input_spec.ndim
