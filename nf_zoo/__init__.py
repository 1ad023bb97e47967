"""nf_zoo: residual networks without normalization, and their BatchNorm twins, on Keras 3.

Names load on first use, so that ``import nf_zoo`` costs milliseconds and imports no Keras.
"""

from __future__ import annotations

import importlib
from typing import Any

from nf_zoo.registration import register_with_keras

__version__ = "0.1.0"

_HOMES = {
    "AdaptiveGradientClipping": "nf_zoo.optimizers",
    "CardDetails": "nf_zoo.hub.card",
    "GroupedOptimizer": "nf_zoo.optimizers",
    "ImageClassifier": "nf_zoo.models.classifier",
    "Preprocessing": "nf_zoo.pictures.preprocessing",
    "SignalPropagationCallback": "nf_zoo.signal_propagation",
    "create_model": "nf_zoo.hub.factory",
    "decode_predictions": "nf_zoo.pictures.predictions",
    "diagnose": "nf_zoo.signal_propagation",
    "evaluate": "nf_zoo.finetuning",
    "export_litert": "nf_zoo.deploy.litert_export",
    "export_onnx": "nf_zoo.deploy.onnx_export",
    "export_saved_model": "nf_zoo.deploy.export",
    "fold": "nf_zoo.deploy.fold",
    "finetune": "nf_zoo.finetuning",
    "list_models": "nf_zoo.hub.factory",
    "load_pretrained": "nf_zoo.hub.pretrained",
    "model_info": "nf_zoo.hub.factory",
    "parameter_groups": "nf_zoo.optimizers",
    "preprocess": "nf_zoo.pictures.images",
    "push_to_hub": "nf_zoo.hub.publishing",
    "quantization_report": "nf_zoo.deploy.quantization",
    "save_pretrained": "nf_zoo.hub.folder",
}
"""Public name -> the module that defines it; the model factories are in hub/factory.py."""

_MODULES = (
    "finetuning",
    "hub",
    "layers",
    "models",
    "optimizers",
    "pictures",
    "signal_propagation",
)


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        value = getattr(importlib.import_module(_HOMES[name]), name)
    elif name in _MODULES:
        value = importlib.import_module(f"nf_zoo.{name}")
    elif name.startswith("_"):
        raise AttributeError(f"module 'nf_zoo' has no attribute {name!r}")
    else:
        value = _factory(name)
    globals()[name] = value
    return value


def _factory(name: str) -> Any:
    factories = importlib.import_module("nf_zoo.hub.factory").FACTORIES
    if name not in factories:
        raise AttributeError(f"module 'nf_zoo' has no attribute {name!r}")
    return factories[name]


def __dir__() -> list[str]:
    factories = importlib.import_module("nf_zoo.hub.factory").FACTORIES
    return sorted({*globals(), *_HOMES, *_MODULES, *factories})


register_with_keras()
