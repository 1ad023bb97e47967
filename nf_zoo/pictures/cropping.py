"""Random crops of single pictures of any size, by Pillow."""

import numpy as np
from PIL import Image

from nf_zoo.pictures.augmentation import window
from nf_zoo.pictures.images import resize_and_crop
from nf_zoo.pictures.preprocessing import Preprocessing


def random_crop(pixels: np.ndarray, preprocessing: Preprocessing, draws, given) -> np.ndarray:
    """Return a random view of a picture at the input size.

    Args:
        pixels: uint8 (H, W, 3).
        preprocessing: size, crop fraction and interpolation.
        draws: the row of :meth:`~nf_zoo.pictures.augmentation.Augmentation.draws` of the picture,
            of which the crop uses the first four.
        given: has ``crop`` and ``smallest_area``, see the table in
            :mod:`nf_zoo.pictures.augmentation`. ``"shift"`` moves the picture as it is evaluated,
            with its mirror image around it; ``"none"`` leaves it there.
    """
    height, width = preprocessing.input_size
    if given.crop == "resized":
        tall, wide = pixels.shape[:2]
        top, left, tall, wide = window(draws, tall, wide, given, width / height, np)
        box = left, top, min(left + wide, pixels.shape[1]), min(top + tall, pixels.shape[0])
        method = Image.Resampling[preprocessing.interpolation.upper()]
        return np.asarray(Image.fromarray(pixels).resize((width, height), method, box))
    view = resize_and_crop(pixels, preprocessing)
    if given.crop == "none":
        return view
    top, left, _, _ = window(draws, height, width, given, 1.0, np)
    room = height // 8, width // 8
    view = np.pad(view, [(side, side) for side in room] + [(0, 0)], "reflect")
    top, left = int(top) + room[0], int(left) + room[1]
    return view[top : top + height, left : left + width]
