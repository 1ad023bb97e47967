"""Batches of pictures for training and evaluation, on any backend.

Threads read and crop the pictures with Pillow, which lets other threads run meanwhile; the other
random variations and the normalization are one compiled program on the device that trains. No
Python runs inside a ``tf.data`` pipeline: an error there can leave the process hanging.
"""

import dataclasses
import itertools
from collections.abc import Iterator, Sequence

import numpy as np
from keras import ops
from PIL import Image

from nf_zoo.backend import compiled
from nf_zoo.finetuning.picture_sets import CACHE_BYTES, in_threads
from nf_zoo.pictures import augmentation
from nf_zoo.pictures.images import as_input, resize_and_crop
from nf_zoo.pictures.preprocessing import Preprocessing

SMALL = 64
"""Largest input size at which pictures are only shifted: an enlarged part would be a blur."""

SMALLEST_AREA = 0.25
"""Share of a larger picture that a crop keeps at least."""

_AHEAD = 3


class TrainingBatches:
    """Batches of randomly varied pictures.

    Each epoch has ``len(pictures) // batch_size`` batches, and draws anew the pictures that fill
    them. The same seed and epoch always give the same batches. ``settings`` are the random
    variations after the crop, ``class_weights`` the weight of each class in the loss; ``channels``
    and ``raw`` are as in :func:`nf_zoo.pictures.images.as_input`.
    """

    def __init__(
        self,
        pictures,
        preprocessing: Preprocessing,
        batch_size: int,
        *,
        num_classes: int,
        settings: augmentation.Settings,
        class_weights: Sequence[float] | None = None,
        channels: int = 3,
        raw: bool = False,
        seed: int = 0,
    ):
        self.steps = len(pictures) // batch_size
        self._pictures, self._preprocessing, self._seed = pictures, preprocessing, seed
        self._batch_size, self._num_classes = batch_size, num_classes
        crop = "shift" if max(preprocessing.input_size) <= SMALL else "resized"
        self._crop = dataclasses.replace(settings, crop=crop, smallest_area=SMALLEST_AREA)
        settings = dataclasses.replace(settings, crop="none")
        self._augment = augmentation.Augmentation(settings, seed, batch_size, preprocessing.mean)
        weights = None if class_weights is None else np.array(class_weights, "float32")

        def finish(pixels, targets, draws):
            images, targets = self._augment.mix(self._augment(pixels, draws), targets, draws)
            images = as_input(images, preprocessing, channels=channels, raw=raw)
            return images, targets, None if weights is None else ops.matmul(targets, weights)

        self._finish = compiled(finish)

    def epoch(self, epoch: int) -> Iterator[tuple]:
        """Yield (images, targets, weights) of each step.

        They are float32 tensors (N, h, w, channels), (N, num_classes) and (N,); weights are None
        without class weights.
        """
        views = in_threads(self._view, self._drawn(epoch), _AHEAD * self._batch_size)
        try:
            while some := list(itertools.islice(views, self._batch_size)):
                pixels, classes, draws = (np.stack(part) for part in zip(*some, strict=True))
                targets = np.eye(self._num_classes, dtype="float32")[classes]
                yield self._finish(*map(ops.convert_to_tensor, (pixels, targets, draws)))
        finally:
            views.close()

    def _drawn(self, epoch: int) -> Iterator[tuple]:
        readers = self._pictures.shuffled(epoch, self._seed)
        for step in range(epoch * self.steps, (epoch + 1) * self.steps):
            for draws, picture in zip(self._augment.draws(step), readers, strict=False):
                yield *picture, draws

    def _view(self, picture) -> tuple:
        read, picture_class, draws = picture
        pixels = random_crop(read(), self._preprocessing, draws, self._crop)
        return pixels, picture_class, draws


class EvaluationBatches:
    """Batches of every picture once, in order, prepared as ``nf_zoo.preprocess`` does.

    They stay in memory with ``cache`` if they are small; the last one may hold fewer pictures.

    Iteration yields (pixels, classes): uint8 (N, h, w, 3) and int64 (N,).
    """

    def __init__(self, pictures, preprocessing, batch_size: int, cache: bool = False):
        self._pictures, self._preprocessing, self._size = pictures, preprocessing, batch_size
        height, width = preprocessing.input_size
        self._keep = cache and 3 * height * width * len(pictures) <= CACHE_BYTES
        self._cache = None

    def __iter__(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        if self._cache is not None:
            yield from self._cache
            return
        passed = []
        for batch in self._read():
            if self._keep:
                passed.append(batch)
            yield batch
        if self._keep:  # not of a pass that broke off
            self._cache = passed

    def _read(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        views = in_threads(self._view, self._pictures.in_order())
        while some := list(itertools.islice(views, self._size)):
            pixels, classes = zip(*some, strict=True)
            yield np.stack(pixels), np.array(classes, dtype=np.int64)

    def _view(self, picture) -> tuple[np.ndarray, int]:
        return resize_and_crop(picture[0](), self._preprocessing), picture[1]


def random_crop(pixels: np.ndarray, preprocessing: Preprocessing, draws, given) -> np.ndarray:
    """Return a random view of a picture, uint8 (H, W, 3), at the input size.

    The crop uses the first four of the picture's ``draws``, and ``given.crop``: ``"shift"`` moves
    the picture as it is evaluated, with its mirror image around it.
    """
    height, width = preprocessing.input_size
    if given.crop == "resized":
        tall, wide = pixels.shape[:2]
        top, left, tall, wide = augmentation.window(draws, tall, wide, given, width / height, np)
        box = left, top, min(left + wide, pixels.shape[1]), min(top + tall, pixels.shape[0])
        method = Image.Resampling[preprocessing.interpolation.upper()]
        return np.asarray(Image.fromarray(pixels).resize((width, height), method, box))
    view = resize_and_crop(pixels, preprocessing)
    top, left, _, _ = augmentation.window(draws, height, width, given, 1.0, np)
    room = height // 8, width // 8
    view = np.pad(view, [(side, side) for side in room] + [(0, 0)], "reflect")
    top, left = int(top) + room[0], int(left) + room[1]
    return view[top : top + height, left : left + width]
