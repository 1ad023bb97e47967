"""Make Keras know every class of nf_zoo that a saved model can name.

Keras finds a class of another package only if it is registered, which the decorators do when their
modules are imported; by module path it looks inside its own packages alone. nf_zoo imports its
modules late, so a file would not load after ``import nf_zoo`` by itself.

Therefore every class has a stand-in in Keras's table of custom objects, which imports the class
when a file names it. The stand-ins are put there as soon as both packages are: at once if Keras is
imported already, else by a hook on the import of Keras, so that ``import nf_zoo`` stays free of
Keras. The modules themselves cannot be imported by then: one of them may be just importing Keras.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys

CLASSES = {
    "nf_zoo.layers": (
        *("ChannelAffine", "Conv2D", "DilatedAveragePool2D", "Dropout"),
        *("EfficientChannelAttention", "MaxPool2D", "Rectifier", "ScalarBias"),
        *("ScaledActivation", "ScaledWSConv2D", "SkipInit", "SqueezeExcite", "StochasticDepth"),
    ),
    "nf_zoo.layers.residual": ("ReplicaSeedGenerator",),
    "nf_zoo.models.batch_norm_block": ("BatchNormBlock",),
    "nf_zoo.models.classifier": ("ImageClassifier",),
    "nf_zoo.models.norm_free": ("NormFreeBlock",),
    "nf_zoo.models.skipinit_block": ("FixupBlock", "SkipInitBlock"),
    "nf_zoo.deploy.folded": ("FoldedModel",),
    "nf_zoo.optimizers": ("AdaptiveGradientClipping", "GroupedOptimizer"),
}
"""Module -> its classes that are registered with Keras."""


class StandIn:
    """Stands for a class in Keras's table until its module is imported, which registers itself."""

    def __init__(self, module: str, name: str):
        self._module, self._name = module, name

    def from_config(self, *args, **kwargs):
        """What the class makes of the config."""
        kind = getattr(importlib.import_module(self._module), self._name)
        return kind.from_config(*args, **kwargs)

    def __repr__(self) -> str:
        return f"{self._module}.{self._name}"


def register_with_keras() -> None:
    """Register the classes now if Keras is imported, else when it is."""
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
    """An import finder that leaves Keras to the others, and registers the classes after it."""

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
            exec_module(module)
            sys.meta_path.remove(self)
            _register()

        return exec_and_register
