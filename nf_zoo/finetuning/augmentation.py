"""Random variations of training pictures. Stateless: the seed of a picture decides them all."""

from __future__ import annotations

import keras
import tensorflow as tf

from nf_zoo.pictures.preprocessing import Preprocessing
from nf_zoo.pictures.tensorflow_images import resize_and_crop

SMALL = 64
"""Up to this input size pictures are shifted by a few pixels rather than cropped anew."""

_RESIZING = {"bicubic": "bicubic", "bilinear": "bilinear", "nearest": "nearest"}
_RESIZING["lanczos"] = "lanczos3"


def random_view(
    pixels: tf.Tensor, preprocessing: Preprocessing, seed: tf.Tensor, flip: bool
) -> tf.Tensor:
    """A random crop of one picture, at the network's input size, mirrored half of the time.

    Large inputs: a random-resized crop of a quarter or more of the picture (Szegedy et al. 2015,
    "Going deeper with convolutions"). Inputs of up to 64 pixels, where that would leave a blur:
    the picture as it is evaluated, shifted by up to an eighth over its mirrored border.

    Args:
        pixels: (H, W, 3) uint8.
        preprocessing: size and interpolation.
        seed: (2,) integers.
        flip: whether to mirror left and right.

    Returns:
        (h, w, 3) float32 in 0..255.
    """
    seeds = tf.random.split(seed, 2)
    if max(preprocessing.input_size) <= SMALL:
        view = _shifted(pixels, preprocessing, seeds[0])
    else:
        view = _random_resized_crop(pixels, preprocessing, seeds[0])
    if flip:
        view = tf.image.stateless_random_flip_left_right(view, seeds[1])
    return view


def _random_resized_crop(pixels, preprocessing, seed):
    height, width = preprocessing.input_size
    begin, size, _ = tf.image.stateless_sample_distorted_bounding_box(
        tf.shape(pixels),
        bounding_boxes=tf.constant([[[0.0, 0.0, 1.0, 1.0]]]),
        seed=seed,
        min_object_covered=0.0,
        aspect_ratio_range=(3 / 4 * width / height, 4 / 3 * width / height),
        area_range=(0.25, 1.0),
        max_attempts=10,
        use_image_if_no_bounding_boxes=True,
    )
    method = _RESIZING[preprocessing.interpolation]
    part = tf.cast(tf.slice(pixels, begin, size), tf.float32)
    view = tf.image.resize(part, (height, width), method, antialias=True)
    return tf.clip_by_value(tf.ensure_shape(view, (height, width, 3)), 0.0, 255.0)


def _shifted(pixels, preprocessing, seed):
    height, width = preprocessing.input_size
    view = resize_and_crop(pixels, preprocessing)
    up, left = height // 8, width // 8
    wide = tf.pad(view, [[up, up], [left, left], [0, 0]], "REFLECT")
    return tf.image.stateless_random_crop(wide, (height, width, 3), seed)


class RandAugment:
    """Two random operations for each picture (Cubuk et al. 2020, "RandAugment").

    The operations are Keras layers at about magnitude 9 of the paper. ``keras.layers.RandAugment``
    computes all eleven for every picture and keeps two, and rotates by up to half a turn; this
    computes the two.

    Example:
        >>> augment = RandAugment()
        >>> augment(tf.zeros((64, 64, 3)), seed=tf.constant([0, 1])).shape
        TensorShape([64, 64, 3])
    """

    OPERATIONS = 2

    def __init__(self):
        common = {"dtype": "float32"}
        colored = {"value_range": (0, 255), **common}
        layers = keras.layers
        self._layers = [
            layers.AutoContrast(**colored),
            layers.Equalization(**colored),
            layers.RandomRotation(30 / 360, fill_mode="constant", fill_value=128.0, **common),
            layers.RandomShear(0.3, 0.3, fill_mode="constant", fill_value=128.0, **common),
            layers.RandomTranslation(0.2, 0.2, fill_mode="constant", fill_value=128.0, **common),
            layers.RandomBrightness(0.3, **colored),
            layers.RandomContrast(0.5, **colored),
            layers.RandomSaturation(0.8, **colored),
            layers.RandomSharpness((0.3, 0.7), **colored),
            layers.RandomPosterization(4, **colored),
            layers.Solarization(addition_factor=0.2, threshold_factor=0.3, **colored),
        ]

    def __call__(self, pixels: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        """(h, w, 3) float32 in 0..255 -> the same, varied."""
        for one in tf.unstack(tf.random.split(seed, self.OPERATIONS)):
            choice = tf.random.stateless_uniform((), one, 0, len(self._layers), tf.int32)
            branches = [self._branch(layer, pixels, one) for layer in self._layers]
            pixels = tf.ensure_shape(tf.switch_case(choice, branches), pixels.shape)
        return tf.clip_by_value(pixels, 0.0, 255.0)

    @staticmethod
    def _branch(layer, pixels, seed):
        def apply():
            layer.backend.set_backend("tensorflow")
            change = layer.get_random_transformation(pixels, training=True, seed=_Seeds(seed))
            return tf.cast(layer.transform_single_image(pixels, change), tf.float32)

        return apply


class Mixing:
    """MixUp (Zhang et al. 2018) or CutMix (Yun et al. 2019) of the pictures of a batch.

    Args:
        mixup: the alpha of MixUp; 0 for none.
        cutmix: the alpha of CutMix; 0 for none. With both, each batch gets one of them, by lot.
    """

    def __init__(self, mixup: float, cutmix: float):
        self._layers = []
        if mixup:
            self._layers.append(keras.layers.MixUp(alpha=float(mixup), dtype="float32"))
        if cutmix:
            layer = keras.layers.CutMix(factor=(float(cutmix), float(cutmix)), dtype="float32")
            self._layers.append(layer)

    def __call__(self, pixels: tf.Tensor, targets: tf.Tensor, seed: tf.Tensor):
        """(N, h, w, 3) pictures and (N, classes) targets -> the same, mixed."""
        seeds = tf.random.split(seed, 2)
        choice = tf.random.stateless_uniform((), seeds[0], 0, len(self._layers), tf.int32)
        branches = [self._branch(layer, pixels, targets, seeds[1]) for layer in self._layers]
        mixed, mixed_targets = tf.switch_case(choice, branches)
        return tf.ensure_shape(mixed, pixels.shape), tf.ensure_shape(mixed_targets, targets.shape)

    @staticmethod
    def _branch(layer, pixels, targets, seed):
        def apply():
            layer.backend.set_backend("tensorflow")
            pictures = {"images": pixels}
            change = layer.get_random_transformation(pictures, training=True, seed=_Seeds(seed))
            return (
                layer.transform_images(pixels, change),
                layer.transform_labels(targets, change),
            )

        return apply


class _Seeds(keras.random.SeedGenerator):
    """Gives Keras layers stateless seeds: the same for the same picture, whatever came before."""

    def __init__(self, seed):
        self._seed, self._drawn = seed, 0

    def next(self, ordered=True):
        self._drawn += 1
        return tf.random.experimental.stateless_fold_in(self._seed, self._drawn)
