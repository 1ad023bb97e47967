"""Make Keras know every class of nf_zoo that a saved model can name.

Keras finds a class of another package only if it was registered, which the decorators do when
their modules are imported; by module path it looks inside its own packages alone. nf_zoo imports
its modules late, so a file would not load after ``import nf_zoo`` by itself. Therefore the modules
are imported as soon as both packages are there: at once if Keras is imported already, else by a
hook on the import of Keras, so that ``import nf_zoo`` stays free of Keras.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys

MODULES = (
    "nf_zoo.layers",
    "nf_zoo.models.batch_norm_block",
    "nf_zoo.models.classifier",
    "nf_zoo.models.norm_free_block",
    "nf_zoo.models.skipinit_block",
    "nf_zoo.deploy.folded",
    "nf_zoo.optimizers",
)
"""Where classes are registered with Keras."""


def register_with_keras() -> None:
    """Register the classes now if Keras is imported, else when it is."""
    if "keras" in sys.modules:
        _import_modules()
    elif not any(isinstance(finder, _KerasHook) for finder in sys.meta_path):
        sys.meta_path.insert(0, _KerasHook())


def _import_modules() -> None:
    for name in MODULES:
        importlib.import_module(name)


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
            _import_modules()

        return exec_and_register
