"""Signal propagation: measured on any Keras model, predicted for ours, plotted."""

from nf_zoo.signal_propagation.measure import signal_propagation
from nf_zoo.signal_propagation.result import BlockSignal, SignalPropagation

__all__ = ["BlockSignal", "SignalPropagation", "signal_propagation"]
