"""tf.data pipelines that turn pictures into batches for ``Model.fit`` and evaluation."""

from __future__ import annotations

from collections.abc import Sequence

import tensorflow as tf

from nf_zoo.finetuning.picture_sets import CACHE_BYTES
from nf_zoo.pictures import augmentation
from nf_zoo.pictures.images import as_input
from nf_zoo.pictures.preprocessing import Preprocessing
from nf_zoo.pictures.tensorflow_images import random_view, resize_and_crop

SMALL = 64
"""Largest input size at which pictures are only shifted: an enlarged part would be a blur."""


def training_batches(
    pictures,
    preprocessing: Preprocessing,
    epochs: range,
    batch_size: int,
    *,
    num_classes: int,
    settings: augmentation.Settings,
    class_weights: Sequence[float] | None = None,
    channels: int = 3,
    raw: bool = False,
    seed: int = 0,
) -> tf.data.Dataset:
    """Return batches of randomly varied pictures, epoch after epoch.

    Each epoch has ``len(pictures) // batch_size`` batches, and draws anew the pictures that fill
    them. The same seed and epoch always give the same batches.

    Args:
        pictures: a FilePictures or DatasetPictures.
        preprocessing: input size, interpolation, mean and std.
        epochs: the epochs to produce.
        batch_size: pictures in a batch.
        num_classes: length of the one-hot targets.
        settings: random variations after the crop.
        class_weights: (num_classes,) weight of each class in the loss, or None.
        channels, raw: see :func:`nf_zoo.pictures.images.as_input`.
        seed: any integer.

    Returns:
        A data set of (images, targets) or (images, targets, weights): float32
        (N, h, w, channels), (N, num_classes) and (N,).
    """
    per_epoch = len(pictures) // batch_size
    augment = augmentation.Augmentation(settings, seed, batch_size, preprocessing.mean)
    crop = "shift" if max(preprocessing.input_size) <= SMALL else "resized"
    finish = _finish(preprocessing, class_weights, channels=channels, raw=raw)

    def drawn(step):
        draws = tf.numpy_function(augment.draws, [step], tf.float32)
        return tf.data.Dataset.from_tensor_slices(
            tf.ensure_shape(draws, (batch_size, augment.width))
        )

    def view(picture, draws):
        pixels, picture_class, serial = picture
        key = tf.stack([tf.constant(seed, tf.int64), serial])
        pixels = random_view(pixels, preprocessing, key, crop)
        # Picture by picture, so that only the operations that a picture drew are computed.
        pixels = augment(pixels[None], draws[None])[0]
        return pixels, tf.one_hot(picture_class, num_classes), draws

    steps = tf.data.Dataset.range(epochs.start * per_epoch, epochs.stop * per_epoch)
    shuffled = pictures.shuffled(epochs, per_epoch * batch_size, seed)
    return (
        tf.data.Dataset.zip(shuffled, steps.flat_map(drawn))
        .map(view, num_parallel_calls=tf.data.AUTOTUNE)
        .batch(batch_size, drop_remainder=True)
        .map(lambda *batch: finish(*augment.mix(*batch)))
        .prefetch(tf.data.AUTOTUNE)
    )


def _finish(preprocessing, class_weights=None, **form):
    def finish(pixels, targets):
        images = as_input(tf.cast(pixels, tf.float32), preprocessing, **form)
        if class_weights is None:
            return images, targets
        return images, targets, tf.linalg.matvec(targets, tf.constant(class_weights, tf.float32))

    return finish


def evaluation_batches(
    pictures, preprocessing: Preprocessing, batch_size: int, cache: bool = False
) -> tf.data.Dataset:
    """Return batches of every picture once, in order, prepared as ``nf_zoo.preprocess`` does.

    Args:
        pictures: a FilePictures or DatasetPictures.
        preprocessing: input size, crop and interpolation.
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
    """Return :func:`evaluation_batches` in the form of ``Model.fit``: (images, one-hot targets).

    ``form`` holds the keywords of :func:`nf_zoo.pictures.images.as_input`.
    """
    finish = _finish(preprocessing, **form)
    return evaluation_batches(pictures, preprocessing, batch_size, cache=True).map(
        lambda pixels, classes: finish(pixels, tf.one_hot(classes, num_classes))
    )
