"""What an exported file says of itself: labels, and how its pictures are prepared."""

from __future__ import annotations

from typing import Any

import keras

import nf_zoo
from nf_zoo import functional
from nf_zoo.pictures.predictions import class_names


def metadata_of(model) -> dict[str, Any]:
    """JSON-able values.

    Returns:
        ``nf_zoo_version``; and of a network of the zoo ``architecture``, ``labels`` (class names
        in the order of the outputs), ``preprocessing`` (the fields of
        :class:`nf_zoo.Preprocessing`), ``input`` (``"pixels"``, 0..255, or ``"normalized"``) and
        ``output`` (``"logits"``, ``"features"``, or the name of the classifier's activation).
    """
    record: dict[str, Any] = {"nf_zoo_version": nf_zoo.__version__}
    if getattr(model, "architecture", None) is None:
        return record
    output = (model.classifier_activation or "logits") if model.num_classes else "features"
    return {
        **record,
        "architecture": model.architecture,
        "labels": class_names(model) if model.num_classes else [],
        "preprocessing": model.preprocessing.to_dict(),
        "input": "pixels" if model.include_preprocessing else "normalized",
        "output": output,
    }


def output_names(model) -> list[str]:
    """What the outputs are called in a file.

    ``["logits"]``, or the name of the classifier's activation; ``["features"]``; for several maps
    ``["features_0", "features_1", ...]``; of a model that gives a dict its keys.
    """
    structure = functional.structures_of(functional.as_functional(model))[1]
    if isinstance(structure, dict) and len(structure) == len(model.outputs):
        keys = {id(tensor): key for key, tensor in structure.items()}
        return [str(keys[id(tensor)]) for tensor in keras.tree.flatten(structure)]
    if len(model.outputs) > 1:
        return [f"features_{index}" for index in range(len(model.outputs))]
    if not getattr(model, "num_classes", None):
        return ["features"]
    return [model.classifier_activation or "logits"]
