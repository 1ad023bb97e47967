"""The network that ``normalizer_free`` returns: a functional model with its variance ledger."""

from __future__ import annotations

from typing import Any

import keras

from nf_zoo.functional import deep_graphs

_RECORD = ("alpha", "ledger", "measured_on", "remaining")


@keras.saving.register_keras_serializable("nf_zoo")
class NormalizerFreeModel(keras.Model):
    """Functional Keras model with the ledger of the variances that it was made to keep.

    :func:`nf_zoo.normalizer_free` makes it. It trains, saves and loads like any Keras model.

    Attributes:
        alpha: weight of the residual branches.
        ledger: name of a layer -> the variance per channel that is expected of its result at
            initialization; of sums, concatenations and layers with weights.
        measured_on: ``"noise"`` or ``"images"``, on which the layers of unknown effect were
            measured.
        remaining: name of a normalization that was left -> its class.
    """

    def __init__(self, inputs, outputs, name=None, **kwargs):
        record = {key: kwargs.pop(key, None) for key in _RECORD}
        with deep_graphs():
            super().__init__(inputs, outputs, name=name, **kwargs)
        for key, value in record.items():
            setattr(self, key, value)

    def get_config(self) -> dict[str, Any]:
        record = {key: getattr(self, key) for key in _RECORD}
        for key in ("ledger", "remaining"):
            record[key] = dict(record[key])
        return {**super().get_config(), **record}
