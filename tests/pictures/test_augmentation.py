"""The table of random variations."""

from __future__ import annotations

import dataclasses

import keras
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image, ImageEnhance, ImageFilter, ImageOps

from nf_zoo.pictures import augmentation
from nf_zoo.pictures.augmentation import Augmentation, Settings
from nf_zoo.pictures.randaugment import CHANGES, change

pytestmark = pytest.mark.fast

NONE = {"crop": "none", "flip": False}


def changed(name, pixels, amount):
    """One picture (H, W, 3) uint8 under one operation of RandAugment."""
    images = tf.constant(pixels[None], tf.float32)
    found = change(images, tf.constant([CHANGES.index(name)], tf.float32), tf.constant([amount]))
    return np.asarray(found)[0]


@pytest.mark.parametrize("name", CHANGES)
def test_operations_of_randaugment(name):
    pixels = np.random.default_rng(0).integers(20, 200, (24, 20, 3)).astype("uint8")
    varied = changed(name, pixels, -0.5)
    assert varied.shape == pixels.shape and varied.dtype == np.float32
    assert not np.array_equal(varied, pixels)
    np.testing.assert_array_equal(varied, varied.astype("uint8"))  # whole numbers in 0..255
    if name not in ("auto_contrast", "equalize", "invert"):
        np.testing.assert_array_equal(changed(name, pixels, 0.0), pixels)  # at magnitude 0


def test_each_picture_of_a_batch_has_an_operation_of_its_own():
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (len(CHANGES), 24, 20, 3)).astype("uint8")
    amounts = np.linspace(-1, 1, len(CHANGES)).astype("float32")
    together = change(tf.constant(pixels, tf.float32), np.arange(len(CHANGES)), amounts)
    for name, one, amount, found in zip(CHANGES, pixels, amounts, together, strict=True):
        np.testing.assert_array_equal(changed(name, one, amount), found, err_msg=name)


@pytest.mark.parametrize(
    ("name", "amount", "expected"),
    [
        ("invert", 0.5, ImageOps.invert),
        ("posterize", 0.5, lambda picture: ImageOps.posterize(picture, 6)),
        ("solarize", 0.5, lambda picture: ImageOps.solarize(picture, 128)),
        ("auto_contrast", 0.5, ImageOps.autocontrast),
        ("brightness", 0.5, lambda picture: ImageEnhance.Brightness(picture).enhance(1.45)),
        ("color", -1.0, lambda picture: ImageEnhance.Color(picture).enhance(0.1)),
        ("contrast", -1.0, lambda picture: ImageEnhance.Contrast(picture).enhance(0.1)),
        ("translate_x", 0.5, lambda picture: shifted(picture, 0.225 * 32)),
    ],
)
def test_pillow_agrees(name, amount, expected):
    pixels = np.random.default_rng(0).integers(30, 180, (32, 32, 3)).astype("uint8")
    other = np.asarray(expected(Image.fromarray(pixels))).astype(int)
    assert np.abs(changed(name, pixels, amount) - other).max() <= 1


def shifted(picture, pixels):
    matrix = (1, 0, pixels, 0, 1, 0)
    return picture.transform(picture.size, Image.AFFINE, matrix, fillcolor=(128,) * 3)


def test_pillow_agrees_on_blurs():
    pixels = np.random.default_rng(0).integers(30, 180, (32, 32, 3)).astype("uint8")
    smooth = Image.fromarray(pixels).filter(ImageFilter.SMOOTH)
    expected = Image.blend(smooth, Image.fromarray(pixels), 0.1)
    assert np.abs(changed("sharpness", pixels, -1.0) - np.asarray(expected).astype(int)).max() <= 1


def test_equalized_pictures_have_every_level_as_often():
    pixels = np.random.default_rng(0).integers(60, 90, (64, 64, 3)).astype("uint8")
    levels = changed("equalize", pixels, 0.3)
    assert levels.min() == 0 and levels.max() == 255
    assert abs(np.sort(levels[..., 0].ravel()) - np.linspace(0, 255, 64**2)).max() < 12


def test_randaugment_draws_by_seed_and_place():
    pixels = np.random.default_rng(0).integers(0, 256, (24, 24, 3)).astype("uint8")
    images = np.stack([pixels] * 20)
    settings = Settings(**NONE, randaugment_layers=2, randaugment_magnitude=15)
    augment = Augmentation(settings, seed=3, batch_size=20)
    views = np.asarray(augment(images, augment.draws(7)))
    assert views.min() >= 0 and views.max() <= 255 and views.dtype == np.float32
    assert len({view.tobytes() for view in views}) > 12
    part = augment(images[:5], augment.draws(7, first=10, count=5))
    np.testing.assert_array_equal(part, views[10:15])
    one = augment(images[:1], augment.draws(7, first=4, count=1))
    np.testing.assert_array_equal(one[0], views[4])


FIELDS = {"flip": True, "erasing": 0.5, "mixup": 0.2, "cutmix": 1.0, "randaugment_layers": 2}


@pytest.mark.parametrize("field", FIELDS)
def test_draws_follow_from_seed_and_step_and_no_other_operation(field):
    def drawn(fields, seed=1, step=2):
        return Augmentation(Settings(**NONE | fields), seed, 6).draws(step)

    alone = drawn({field: FIELDS[field]})
    np.testing.assert_array_equal(alone, drawn({field: FIELDS[field]}))
    assert not np.array_equal(alone, drawn({field: FIELDS[field]}, seed=-2))
    assert not np.array_equal(alone, drawn({field: FIELDS[field]}, step=3))
    if field not in ("mixup", "cutmix"):
        together = drawn(FIELDS)
        assert {row.tobytes() for row in alone.T} <= {row.tobytes() for row in together.T}


def test_a_picture_alone_is_varied_as_in_its_batch():
    images = np.random.default_rng(0).integers(0, 256, (8, 16, 16, 3)).astype("uint8")
    settings = Settings(crop="none", flip=True, erasing=0.5, randaugment_layers=1)
    augment = Augmentation(settings, seed=0, batch_size=8, mean=(0.4, 0.5, 0.6))
    draws = augment.draws(0)
    together = np.asarray(augment(images, draws))
    for place in range(8):
        alone = augment(images[place : place + 1], draws[place : place + 1])
        np.testing.assert_array_equal(alone[0], together[place])


@pytest.mark.parametrize("sides", [(900, 1600), (300, 900), (64, 64)])
def test_crops_keep_their_shape_in_pictures_of_every_shape(sides):
    draws = np.random.default_rng(0).random((4, 10_000))
    given = Settings(crop="resized", smallest_area=0.25)
    top, left, tall, wide = augmentation.window(draws, *sides, given, xp=np)
    assert (wide / tall).min() >= 3 / 4 - 1e-6 and (wide / tall).max() <= 4 / 3 + 1e-6
    assert (top >= 0).all() and (top + tall <= sides[0] + 1e-6).all()
    assert (left >= 0).all() and (left + wide <= sides[1] + 1e-6).all()
    assert wide.max() > 0.9 * min(sides)


def test_augmentation_ignores_the_global_policy():
    images = np.random.default_rng(0).uniform(0, 255, (4, 24, 24, 3)).astype("float32")
    settings = Settings(crop="none", **FIELDS)
    augment = Augmentation(settings, seed=0, batch_size=4)
    draws = augment.draws(0)
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        images, targets = augment.mix(augment(images, draws), tf.eye(4), draws)
    finally:
        keras.config.set_dtype_policy(before)
    assert {part.dtype for part in (images, targets)} == {tf.float32}


@pytest.fixture
def _invented():
    """One function and its field, as a newcomer adds them."""
    before = list(augmentation.OPERATIONS)

    @augmentation.operation(
        draws=1, inverting=augmentation.option(0.0, "share inverted", augmentation.SHARE)
    )
    def invert(images, draws, given):
        return augmentation.where(draws[0] < given.inverting, lambda: 255.0 - images, images)

    yield augmentation.OPERATIONS[-1]
    augmentation.OPERATIONS[:] = before


def test_an_operation_is_one_function_with_its_field(_invented):
    (field,) = _invented.fields.values()
    rows = [("inverting", "float", field)]
    more = dataclasses.make_dataclass("More", rows, bases=(Settings,), frozen=True)
    with pytest.raises(ValueError, match=r"inverting must be in \[0, 1\]\. Received: 2"):
        more(inverting=2)
    augment = Augmentation(more(**NONE, inverting=0.5), seed=0, batch_size=64)
    varied = np.asarray(augment(np.full((64, 2, 2, 3), 55.0), augment.draws(0)))[:, 0, 0, 0]
    assert set(varied) == {55.0, 200.0} and 16 < (varied == 200.0).sum() < 48
