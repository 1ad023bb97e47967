"""A random crop of an encoded picture."""

from __future__ import annotations

import tensorflow as tf

import nf_zoo
from nf_zoo.pictures.tensorflow_images import decode, resize_and_crop
from training import randaugment


def random_view(encoded, recipe, serial) -> tf.Tensor:
    """A random crop of an encoded picture, (size, size, 3) uint8.

    Of a JPEG only the part that is cropped is decoded.

    Args:
        encoded: bytes of a picture.
        recipe: size and kind of the crop, RandAugment.
        serial: int64; with the recipe's seed it decides the crop.
    """
    given, size = recipe.augmentation, recipe.data.input_size
    key = tf.random.experimental.stateless_fold_in(tf.constant([recipe.seed, 1], tf.int64), serial)
    seeds = tf.random.split(key, 2)
    if given.crop == "resized":
        pixels = _resized_crop(encoded, seeds[0], size, given.smallest_area)
    else:
        geometry = nf_zoo.Preprocessing(input_size=size, crop_fraction=recipe.data.crop_fraction)
        pixels = resize_and_crop(decode(encoded), geometry)
        if given.crop == "shift":
            room = size // 8
            wide = tf.pad(pixels, [[room, room], [room, room], [0, 0]], constant_values=128.0)
            pixels = tf.image.stateless_random_crop(wide, (size, size, 3), seeds[0])
    pixels = tf.ensure_shape(tf.cast(tf.round(pixels), tf.uint8), (size, size, 3))
    if given.randaugment_layers:
        pixels = randaugment.vary(
            pixels, seeds[1], given.randaugment_layers, given.randaugment_magnitude
        )
    return pixels


def _resized_crop(encoded, seed, size: int, smallest_area: float):
    """Szegedy et al. 2015: a share of the area at an aspect ratio of 3/4 to 4/3."""
    is_jpeg = tf.strings.substr(encoded, 0, 3) == b"\xff\xd8\xff"

    def from_jpeg():
        begin, extent = window(tf.io.extract_jpeg_shape(encoded), seed, smallest_area)
        cut = tf.concat([begin[:2], extent[:2]], 0)
        return tf.io.decode_and_crop_jpeg(encoded, cut, channels=3)

    def from_others():
        pixels = decode(encoded)
        begin, extent = window(tf.shape(pixels), seed, smallest_area)
        return tf.slice(pixels, begin, extent)

    part = tf.ensure_shape(tf.cond(is_jpeg, from_jpeg, from_others), (None, None, 3))
    part = tf.image.resize(tf.cast(part, tf.float32), (size, size), "bicubic", antialias=True)
    return tf.clip_by_value(part, 0.0, 255.0)


def window(shape, seed, smallest_area: float):
    """``(begin, extent)`` of a random crop of a picture of that shape, for ``tf.slice``."""
    begin, extent, _ = tf.image.stateless_sample_distorted_bounding_box(
        shape,
        bounding_boxes=tf.constant([[[0.0, 0.0, 1.0, 1.0]]]),
        seed=seed,
        min_object_covered=0.0,
        aspect_ratio_range=(3 / 4, 4 / 3),
        area_range=(smallest_area, 1.0),
        max_attempts=10,
        use_image_if_no_bounding_boxes=True,
    )
    return begin, extent
