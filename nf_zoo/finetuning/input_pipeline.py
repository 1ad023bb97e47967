"""tf.data pipelines: pictures -> batches that ``Model.fit`` and evaluation take."""

from __future__ import annotations

from collections.abc import Sequence

import tensorflow as tf

from nf_zoo.finetuning.augmentation import Mixing, RandAugment, random_view
from nf_zoo.finetuning.labeled_pictures import CACHE_BYTES
from nf_zoo.pictures.preprocessing import Preprocessing
from nf_zoo.pictures.tensorflow_images import as_input, resize_and_crop


def training_batches(
    pictures,
    preprocessing: Preprocessing,
    epochs: range,
    batch_size: int,
    *,
    num_classes: int,
    class_weights: Sequence[float] | None = None,
    channels: int = 3,
    raw: bool = False,
    flip: bool = True,
    randaugment: bool = False,
    mixup: float = 0.0,
    cutmix: float = 0.0,
    seed: int = 0,
) -> tf.data.Dataset:
    """Batches of randomly varied pictures, for one epoch after the other.

    Each epoch has ``len(pictures) // batch_size`` batches; which pictures fill them up is drawn
    anew each time. The same seed and epoch always give the same batches.

    Args:
        pictures: a FilePictures or DatasetPictures.
        preprocessing: input size, interpolation, mean and std.
        epochs: which epochs to give.
        batch_size: pictures in a batch.
        num_classes: length of the one-hot targets.
        class_weights: (num_classes,) weight of each class in the loss, or None.
        channels, raw: see :func:`nf_zoo.pictures.images.as_input`.
        flip: mirror half of the pictures.
        randaugment: vary shape and colors too.
        mixup, cutmix: alpha of the mixing of pictures; 0 for none.
        seed: any integer.

    Returns:
        A data set of (images, targets) or (images, targets, weights): float32
        (N, h, w, channels), (N, num_classes) and (N,).
    """
    steps = len(pictures) // batch_size
    vary = RandAugment() if randaugment else None

    def view(pixels, picture_class, serial):
        seeds = tf.random.split(tf.stack([tf.constant(seed, tf.int64), serial]), 2)
        pixels = random_view(pixels, preprocessing, seeds[0], flip)
        if vary is not None:
            pixels = vary(pixels, seeds[1])
        return pixels, tf.one_hot(picture_class, num_classes)

    batches = (
        pictures.shuffled(epochs, steps * batch_size, seed)
        .map(view, num_parallel_calls=tf.data.AUTOTUNE)
        .batch(batch_size, drop_remainder=True)
    )
    if mixup or cutmix:
        mix = Mixing(mixup, cutmix)
        batches = batches.enumerate(epochs.start * steps).map(
            lambda serial, batch: mix(*batch, tf.stack([tf.constant(seed, tf.int64), serial]))
        )
    finish = _finish(preprocessing, class_weights, channels=channels, raw=raw)
    return batches.map(finish).prefetch(tf.data.AUTOTUNE)


def _finish(preprocessing, class_weights=None, **form):
    def finish(pixels, targets):
        images = as_input(pixels, preprocessing, **form)
        if class_weights is None:
            return images, targets
        return images, targets, tf.linalg.matvec(targets, tf.constant(class_weights, tf.float32))

    return finish


def evaluation_batches(
    pictures, preprocessing: Preprocessing, batch_size: int, cache: bool = False
) -> tf.data.Dataset:
    """Every picture once, in order, as the network is meant to see it.

    Args:
        pictures: a FilePictures or DatasetPictures.
        preprocessing: geometry of the evaluation.
        batch_size: pictures in a batch; the last one may hold fewer.
        cache: keep the batches in memory if they are small.

    Returns:
        A data set of (pixels, classes): uint8 (N, h, w, 3) and int64 (N,).
    """
    height, width = preprocessing.input_size

    def view(pixels, picture_class):
        return tf.cast(resize_and_crop(pixels, preprocessing), tf.uint8), picture_class

    batches = pictures.in_order().map(view, num_parallel_calls=tf.data.AUTOTUNE).batch(batch_size)
    if cache and 3 * height * width * len(pictures) <= CACHE_BYTES:
        batches = batches.cache()
    return batches.prefetch(tf.data.AUTOTUNE)


def validation_batches(
    pictures, preprocessing: Preprocessing, batch_size: int, *, num_classes: int, **form
) -> tf.data.Dataset:
    """:func:`evaluation_batches` as ``Model.fit`` takes them: (images, one-hot targets).

    ``form`` is what :func:`nf_zoo.pictures.images.as_input` takes beside the pixels.
    """
    finish = _finish(preprocessing, **form)
    return evaluation_batches(pictures, preprocessing, batch_size, cache=True).map(
        lambda pixels, classes: finish(pixels, tf.one_hot(classes, num_classes))
    )
