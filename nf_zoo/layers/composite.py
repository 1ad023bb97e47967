"""Layers made of layers, saved with the settings of their parts.

Keras saves ``trainable``, the dtype policy and the LoRA rank of a layer with its config, but it
does not look inside a layer. The parts of a composite layer would come back as the constructor
makes them, and frozen parts would be trainable again.
"""

from collections.abc import Iterator
from typing import Any

import keras

from nf_zoo.layers.recorded import RecordedLayer


class CompositeLayer(RecordedLayer):
    """Base class of layers made of layers. Keras records the constructor's arguments."""

    def get_config(self):
        config, parts = super().get_config(), states_of_parts(self)
        return {**config, "parts": parts} if parts else config

    # Without this mark Keras assumes that the arguments are recorded by hand.
    get_config._is_default = True

    @classmethod
    def from_config(cls, config):
        config = dict(config)
        parts = config.pop("parts", {})
        layer = super().from_config(config)
        for part in parts_of(layer):
            part.trainable = layer.trainable
        set_states_of_parts(layer, parts)
        return layer


def parts_of(layer) -> list:
    """Return the direct parts of a layer or model, without input layers."""
    parts = layer._flatten_layers(include_self=False, recursive=False)
    return [part for part in parts if not isinstance(part, keras.layers.InputLayer)]


def states_of_parts(layer) -> dict[str, dict[str, Any]]:
    """Return the settings in which the parts of a layer or model differ from it, JSON-able.

    They are fields by the path of a part (``"stage1_block2/conv1"``): ``trainable`` where it
    differs from the enclosing layer's, ``dtype`` where it differs from the outermost layer's,
    ``lora_rank`` and ``lora_alpha`` where LoRA is enabled.
    """
    return dict(_differing(layer, "", plain_policy(layer.dtype_policy)))


def _differing(layer, prefix: str, outermost) -> Iterator[tuple[str, dict[str, Any]]]:
    for part in parts_of(layer):
        path, state = prefix + part.name, {}
        if part.trainable != layer.trainable:
            state["trainable"] = part.trainable
        policy = plain_policy(part.dtype_policy)
        if policy != outermost:  # setting the policy of a layer leaves its parts alone
            state["dtype"] = policy
        if getattr(part, "lora_enabled", False):
            state |= {"lora_rank": part.lora_rank, "lora_alpha": part.lora_alpha}
        if state:
            yield path, state
        yield from _differing(part, f"{path}/", outermost)


def set_states_of_parts(layer, states: dict[str, dict[str, Any]]) -> None:
    """Give the parts of a layer the states that :func:`states_of_parts` recorded."""
    left = dict(states)
    _apply(layer, "", left)
    if left:
        raise ValueError(
            f"{layer.name} has no parts with these names. Received: {', '.join(sorted(left))}"
        )


def _apply(layer, prefix: str, left: dict[str, dict[str, Any]]) -> None:
    for part in parts_of(layer):
        path = prefix + part.name
        state = left.pop(path, {})
        if "trainable" in state:
            part.trainable = state["trainable"]
        if "dtype" in state:
            policy = keras.dtype_policies.get(state["dtype"])
            if part.built and policy.quantization_mode is not None:
                part.quantize(policy.quantization_mode)
            part.dtype_policy = policy
        rank, alpha = state.get("lora_rank"), state.get("lora_alpha")
        if rank is not None and part.built:
            part.enable_lora(rank, lora_alpha=alpha)
        elif rank is not None:
            part.lora_rank, part.lora_alpha = rank, alpha
        _apply(part, f"{path}/", left)


def plain_policy(policy) -> str | dict:
    """Return a dtype policy's name, or its Keras dict where the name is not enough."""
    try:
        told = keras.dtype_policies.get(policy.name) == policy
    except ValueError:
        told = False
    return policy.name if told else keras.dtype_policies.serialize(policy)
