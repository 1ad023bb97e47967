"""Signal propagation plots of small networks, drawn while somebody moves the sliders."""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Sequence

from PIL import Image

from nf_zoo.models.classifier import build_model
from nf_zoo.models.configuration import PUBLISHED_ACTIVATIONS as ACTIVATIONS
from nf_zoo.signal_propagation.measure import signal_propagation
from nf_zoo.signal_propagation.plots import plot_signal_propagation
from nf_zoo.signal_propagation.result import SignalPropagation
from nf_zoo.signal_propagation.trainable_depth import NETWORK, SCHEMES

__all__ = ["ACTIVATIONS", "DEEPEST", "SCHEMES", "draw"]

DEEPEST = 20
"""Most blocks per stage; such a network takes a few seconds."""
NOISE = (8, 16, 16, 3)


def draw(schemes: Sequence[str], depth: int, alpha: float, activation: str) -> Image.Image | None:
    """Return the plot of networks of several schemes; None without any."""
    if not schemes:
        return None
    results = {
        scheme: _measured(scheme, depth, activation, alpha if scheme == "nf" else None)
        for scheme in schemes
    }
    with tempfile.TemporaryDirectory() as folder:
        path = f"{folder}/plot.png"
        plot_signal_propagation(results, path, title=f"{3 * depth} blocks, {activation}")
        with Image.open(path) as image:
            return image.convert("RGB")


@functools.lru_cache(256)
def _measured(scheme: str, depth: int, activation: str, alpha: float | None) -> SignalPropagation:
    # A branch that starts at 0 would be silent; the gains of the other schemes are their point.
    own = {} if alpha is None else {"alpha": alpha, "zero_init_gain": False}
    fields = {"scheme": scheme, "depths": (depth,) * 3, "activation": activation, **own}
    return signal_propagation(build_model(NETWORK, num_classes=0, **fields), NOISE)
