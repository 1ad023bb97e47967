"""Variation and normalization of the pictures of a step, on the accelerator that trains."""

import dataclasses

from keras import ops

import nf_zoo
from nf_zoo.pictures import images as pictures
from nf_zoo.pictures.augmentation import Augmentation, Settings
from nf_zoo.pictures.resampling import resample
from training.recipe import in_memory


def augmentation_of(recipe) -> Augmentation:
    """Return the random variations of a recipe; streams crop their pictures themselves."""
    given = Settings(**recipe.augmentation.to_dict())
    if not in_memory(recipe):
        given = dataclasses.replace(given, crop="none")
    return Augmentation(given, recipe.seed, recipe.batch_size, recipe.data.mean)


def vary(recipe, images, classes, draws, num_classes: int, size: int | None = None):
    """Return the normalized pictures and the smoothed targets that a step trains on, float32.

    They are made of uint8 ``images`` (N, H, W, 3), ``classes`` (N,), and the draws of the recipe's
    :func:`augmentation_of`. ``size`` is the side in pixels to resize to; None stands for the
    recipe's ``input_size``.
    """
    augment = augmentation_of(recipe)
    images = augment(images, draws, size or recipe.data.input_size or None)
    targets = ops.one_hot(classes, num_classes, dtype="float32")
    images, targets = augment.mix(images, targets, draws)
    smoothing = recipe.regularization.label_smoothing
    return normalize(recipe, images), targets * (1.0 - smoothing) + smoothing / num_classes


def normalize(recipe, images):
    """Normalize pixels in 0..255 to ``(pixel / 255 - mean) / std``, float32."""
    channels = nf_zoo.Preprocessing(mean=tuple(recipe.data.mean), std=tuple(recipe.data.std))
    return pictures.normalize(ops.cast(images, "float32"), channels)


def for_test(recipe, images):
    """Return pictures (N, H, W, 3) normalized, and at ``test_size`` if the set is in memory."""
    height, width = images.shape[1:3]
    size = recipe.data.test_size
    if in_memory(recipe) and (height, width) != (size, size):
        ones = ops.ones(images.shape[0])
        window = 0.0 * ones, 0.0 * ones, height * ones, width * ones
        images = resample(ops.cast(images, "float32"), window, size)
    return normalize(recipe, images)
