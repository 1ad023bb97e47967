"""Register with Keras every class of nf_zoo that a saved model can name.

Keras finds a class outside its own packages only if the class is registered. The decorators do
that when their modules are imported. nf_zoo imports its modules late, so a saved file would not
load after a bare ``import nf_zoo``.

Every class therefore has a stand-in in Keras's table of custom objects, which imports the class
when a file names it. The stand-ins are added once both packages are imported: at once if Keras
already is, else by an import hook, so that ``import nf_zoo`` stays free of Keras. The hook cannot
import the modules themselves: one of them may be importing Keras at that moment. It also keeps that
import silent.
"""

import importlib
import importlib.util
import sys

from nf_zoo.backend import quiet

CLASSES = {
    "nf_zoo.layers": (
        *("ChannelAffine", "Conv2D", "DilatedAveragePool2D", "Dropout"),
        *("EfficientChannelAttention", "MaxPool2D", "Rectifier", "ScalarBias"),
        *("ScaledActivation", "ScaledWSConv2D", "ScaledWSDense", "ScaledWSDepthwiseConv2D"),
        *("SkipInit", "SqueezeExcite", "StochasticDepth"),
    ),
    "nf_zoo.layers.residual": ("ReplicaSeedGenerator",),
    "nf_zoo.models.batch_norm_block": ("BatchNormBlock",),
    "nf_zoo.models.classifier": ("ImageClassifier",),
    "nf_zoo.models.norm_free": ("NormFreeBlock",),
    "nf_zoo.models.picture_model": ("Crossentropy",),
    "nf_zoo.models.skipinit_block": ("FixupBlock", "SkipInitBlock"),
    "nf_zoo.conversion.normalizer_free_model": ("NormalizerFreeModel",),
    "nf_zoo.deploy.folded": ("FoldedModel",),
    "nf_zoo.optimizers": ("AdaptiveGradientClipping", "GroupedOptimizer"),
}
"""Module -> its classes that are registered with Keras."""


class StandIn:
    """Stand-in for a class in Keras's table until its module is imported and registers it."""

    def __init__(self, module: str, name: str):
        self._module, self._name = module, name

    def from_config(self, *args, **kwargs):
        """Import the class and return its object for the config."""
        kind = getattr(importlib.import_module(self._module), self._name)
        return kind.from_config(*args, **kwargs)

    def __repr__(self) -> str:
        return f"{self._module}.{self._name}"


def register_with_keras() -> None:
    """Register the classes now if Keras is imported, else once it is."""
    if "keras" in sys.modules:
        _register()
    elif not any(isinstance(finder, _KerasHook) for finder in sys.meta_path):
        sys.meta_path.insert(0, _KerasHook())


def _register() -> None:
    import keras

    known = keras.saving.get_custom_objects()
    for module, names in CLASSES.items():
        for name in names:
            known.setdefault(f"nf_zoo>{name}", StandIn(module, name))


class _KerasHook:
    """Import finder that lets the others import Keras, then registers the classes."""

    def __init__(self):
        self._is_searching = False

    def find_spec(self, fullname, path=None, target=None):
        if fullname != "keras" or self._is_searching:
            return None
        self._is_searching = True
        try:
            spec = importlib.util.find_spec(fullname)
        finally:
            self._is_searching = False
        if spec is not None and spec.loader is not None:
            spec.loader.exec_module = self._then_register(spec.loader.exec_module)
        return spec

    def _then_register(self, exec_module):
        def exec_and_register(module):
            with quiet():
                exec_module(module)
            sys.meta_path.remove(self)
            _register()

        return exec_and_register
