"""Pictures per second of the training input, on one thread.

    python -m benchmarks.input_pipeline

Synthetic JPEGs of 500 x 375 pixels are cropped at random to 224. The variants are: decode the whole
picture and then crop; decode only the crop; RandAugment of this package and of Keras; and pictures
of 32 pixels that are kept in memory. Medians of interleaved rounds.
"""

from __future__ import annotations

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import statistics
import time

import keras
import numpy as np
import tensorflow as tf

from nf_zoo.pictures.augmentation import Augmentation, Settings
from nf_zoo.pictures.preprocessing import Preprocessing
from nf_zoo.pictures.tensorflow_images import random_view
from training import recipe as recipes
from training.data.arrays import ArrayPictures
from training.data.order import Share

ROUNDS = 5
PICTURES = 48


def encoded_pictures() -> tf.Tensor:
    """Return JPEGs of smooth noise, about as large as photographs."""
    rng = np.random.default_rng(0)
    small = rng.uniform(0, 255, (8, 47, 63, 3)).astype("float32")
    large = tf.image.resize(small, (375, 500), "bicubic")
    pixels = tf.cast(tf.clip_by_value(large, 0, 255), tf.uint8)
    return tf.stack([tf.io.encode_jpeg(one, quality=90) for one in pixels])


def cropped(encoded, serial, whole: bool):
    """Return a random crop; with ``whole`` the whole picture is decoded first."""
    picture = tf.io.decode_jpeg(encoded, channels=3) if whole else encoded
    seed = tf.stack([tf.constant(0, tf.int64), serial])
    return random_view(picture, Preprocessing(input_size=224), seed, smallest_area=0.08)


def rate(make) -> float:
    """Return the pictures per second of one pass."""
    pictures = iter(make())
    next(pictures)
    started, count = time.perf_counter(), 0
    for _ in pictures:
        count += 1
    return count / (time.perf_counter() - started)


def one_thread(dataset):
    options = tf.data.Options()
    options.threading.private_threadpool_size = 1
    options.threading.max_intra_op_parallelism = 1
    return dataset.with_options(options)


def candidates() -> dict:
    """Return name -> function that returns an iterable of pictures."""
    encoded = encoded_pictures()
    files = tf.data.Dataset.from_tensor_slices(encoded).repeat(PICTURES // 8).enumerate()
    crops = tf.constant(np.random.default_rng(0).integers(0, 256, (8, 224, 224, 3)), tf.uint8)
    decoded = tf.data.Dataset.from_tensor_slices(crops).repeat(PICTURES // 8).enumerate()
    settings = Settings(crop="none", flip=False, randaugment_layers=2)
    augment = Augmentation(settings, seed=0, batch_size=PICTURES)
    draws = tf.constant(augment.draws(step=0))
    layer = keras.layers.RandAugment(value_range=(0, 255), num_ops=2, factor=0.33)

    def varied(serial, pixels):
        return augment(pixels[None], draws[serial][None])[0]

    def over(dataset, function):
        return lambda: one_thread(dataset.map(function, num_parallel_calls=1))

    return {
        "decode, then crop": over(files, lambda n, e: cropped(e, n, whole=True)),
        "decode the crop alone": over(files, lambda n, e: cropped(e, n, whole=False)),
        "RandAugment of nf_zoo": over(decoded, varied),
        "keras.layers.RandAugment": over(decoded.take(9), lambda n, p: layer(p, training=True)),
        "in memory, 32 px, shifted": in_memory,
    }


def in_memory():
    rng = np.random.default_rng(0)
    images, classes = rng.integers(0, 256, (5000, 32, 32, 3), "uint8"), np.zeros(5000, "int32")
    recipe = recipes.default()
    recipe.batch_size, recipe.augmentation.crop = 128, "shift"
    data = ArrayPictures((images, classes), (images, classes), ["a"])
    batches = data.train_batches(recipe, Share(replica_batch=128), 0)
    for _ in range(40):
        yield from next(batches)[0]


def main() -> None:
    rates: dict[str, list[float]] = {}
    makers = candidates()
    for _ in range(ROUNDS):
        for name, make in makers.items():
            rates.setdefault(name, []).append(rate(make))
    for name, values in rates.items():
        print(f"{name:<28} {statistics.median(values):8.0f} pictures/s")


if __name__ == "__main__":
    main()
