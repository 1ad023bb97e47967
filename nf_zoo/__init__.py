"""nf_zoo: residual networks without normalization, and their BatchNorm twins, on Keras 3.

Names load on first use, so that ``import nf_zoo`` costs milliseconds and imports no Keras.
"""

import importlib
from typing import Any

from nf_zoo.deploy.formats import FORMATS
from nf_zoo.hub import errors
from nf_zoo.registration import register_with_keras

__version__ = "0.1.0"

_HOMES = {
    "AdaptiveGradientClipping": "nf_zoo.optimizers",
    "CardDetails": "nf_zoo.hub.card",
    "FolderError": "nf_zoo.pictures.class_folders",
    "GroupedOptimizer": "nf_zoo.optimizers",
    "ImageClassifier": "nf_zoo.models.classifier",
    "Preprocessing": "nf_zoo.pictures.preprocessing",
    "SignalPropagationCallback": "nf_zoo.signal_propagation",
    "benchmark": "nf_zoo.deploy.benchmarking",
    "create_model": "nf_zoo.hub.models",
    "decode_predictions": "nf_zoo.pictures.predictions",
    "demo": "nf_zoo.demonstration.serving",
    "diagnose": "nf_zoo.signal_propagation",
    "evaluate": "nf_zoo.finetuning",
    "finetune": "nf_zoo.finetuning",
    "fold": "nf_zoo.deploy.fold",
    "list_models": "nf_zoo.hub.models",
    "load_pretrained": "nf_zoo.hub.pretrained",
    "model_info": "nf_zoo.hub.models",
    "normalizer_free": "nf_zoo.conversion.normalizer_free",
    "parameter_groups": "nf_zoo.optimizers",
    "preprocess": "nf_zoo.pictures.images",
    "push_space": "nf_zoo.hub.space",
    "push_to_hub": "nf_zoo.hub.publishing",
    "quantization_report": "nf_zoo.deploy.quantization",
    "remove_batch_norm": "nf_zoo.conversion.batch_norm_removal",
    "save_pretrained": "nf_zoo.hub.folder",
    **{row.function: row.module for row in FORMATS.values()},
    **{
        name: "nf_zoo.hub.errors"
        for name, value in vars(errors).items()
        if isinstance(value, type) and issubclass(value, Exception)
    },
}
"""Public name -> the module that defines it; the model factories are in hub/factories.py."""

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
    elif name[:1].isupper() and name in __dir__():  # factories have capitalized names
        value = importlib.import_module("nf_zoo.hub.factories").factory(name)
    else:
        raise AttributeError(f"module 'nf_zoo' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    factories = importlib.import_module("nf_zoo.hub.factories").FACTORIES
    return sorted({*globals(), *_HOMES, *_MODULES, *factories})


register_with_keras()
