"""Heat maps as pictures."""

import matplotlib
import numpy as np
from PIL import Image


def heat_overlay(heat: np.ndarray, size: tuple[int, int]) -> Image.Image:
    """Return a transparent picture of (height, width), opaque where a heat map (h, w) is hot.

    The heat map has values from 0 to 1, as :func:`nf_zoo.models.grad_cam.grad_cam` returns it.
    """
    smooth = Image.fromarray(heat.astype("float32")).resize(size[::-1], Image.Resampling.BICUBIC)
    heat = np.clip(np.asarray(smooth), 0, 1)
    colors = matplotlib.colormaps["inferno"](heat, bytes=True)
    colors[..., 3] = (200 * heat).astype("uint8")
    return Image.fromarray(colors)
