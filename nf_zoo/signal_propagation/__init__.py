"""Signal propagation: measured on any Keras model, predicted for the zoo's, and plotted.

``nf_zoo.signal_propagation`` is this package; a call of it calls its function of the same name:
"""

import inspect
import sys
import types

from nf_zoo.signal_propagation.callback import SignalPropagationCallback
from nf_zoo.signal_propagation.findings import Diagnosis, Finding, diagnose
from nf_zoo.signal_propagation.measure import signal_propagation
from nf_zoo.signal_propagation.result import BlockSignal, SignalPropagation

__all__ = [
    "BlockSignal",
    "Diagnosis",
    "Finding",
    "SignalPropagation",
    "SignalPropagationCallback",
    "diagnose",
    "signal_propagation",
]


class _CallablePackage(types.ModuleType):
    """Package that can be called, because its import hides the function of the same name."""

    def __call__(self, *args, **kwargs):
        return signal_propagation(*args, **kwargs)


sys.modules[__name__].__class__ = _CallablePackage
# The text that inspect.signature and help show for the called package.
__signature__ = inspect.signature(signal_propagation)
__doc__ += f"\nsignal_propagation{__signature__}\n\n{inspect.getdoc(signal_propagation)}\n"
