"""The TensorFlow ops against the Pillow path, and inside graphs."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
from photographs import encode, photograph
from picture_files import FILES

from nf_zoo.pictures import images as pillow
from nf_zoo.pictures.images import normalize, preprocess
from nf_zoo.pictures.preprocessing import Preprocessing
from nf_zoo.pictures.tensorflow_decoding import decode
from nf_zoo.pictures.tensorflow_images import random_view, resize_and_crop

pytestmark = pytest.mark.fast


def graph_of(settings: Preprocessing) -> tf.types.experimental.PolymorphicFunction:
    """The resizing, traced once for every size of picture."""
    signature = [tf.TensorSpec((None, None, 3), tf.uint8)]
    return tf.function(lambda image: resize_and_crop(image, settings), input_signature=signature)


def distance(first, second) -> float:
    return float(np.abs(np.float32(first) - np.float32(second)).mean())


# Geometry


@pytest.mark.parametrize("mode", ["center", "squash", "border"])
@pytest.mark.parametrize("size, fraction", [((224, 224), 0.875), ((64, 96), 0.9), ((97, 97), 1.0)])
def test_resizes_and_crops_as_pillow_does(mode, size, fraction):
    settings = Preprocessing(size, fraction, mode)
    graph = graph_of(settings)
    for shape in [(427, 640), (640, 427), (300, 300), (60, 80), (31, 37), (301, 37)]:
        image = np.asarray(photograph(*shape))
        expected = pillow.resize_and_crop(image, settings)
        found = graph(image).numpy()
        assert found.dtype == np.float32 and found.shape == (*size, 3)
        assert distance(found, expected) < 0.3, shape
        np.testing.assert_array_equal(found, np.clip(np.rint(found), 0, 255))


@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear", "nearest", "lanczos"])
def test_resamples_with_the_filter_asked_for(interpolation):
    settings = Preprocessing(96, interpolation=interpolation)
    graph = graph_of(settings)
    for shape in [(427, 640), (50, 40)]:
        image = np.asarray(photograph(*shape, which=1))
        expected = pillow.resize_and_crop(image, settings)
        assert distance(graph(image), expected) < 0.3


@pytest.mark.parametrize(
    "wrong",
    [
        {"crop_fraction": 1.0},
        {"crop_mode": "squash"},
        {"crop_mode": "border"},
        {"interpolation": "nearest"},
        {"input_size": (224, 225)},
    ],
    ids=str,
)
def test_a_wrong_setting_shows_in_the_pixels(wrong):
    image = np.asarray(photograph(427, 640))
    expected = pillow.resize_and_crop(image, Preprocessing())
    found = resize_and_crop(image, Preprocessing(**wrong))[:, :224]
    assert distance(resize_and_crop(image, Preprocessing()), expected) < 0.3
    assert distance(found, expected) > 1


@pytest.mark.parametrize("mode", ["center", "squash", "border"])
def test_flat_colors_stay_exact_up_to_the_edge(mode):
    # A filter that is not renormalized at the edges darkens them; one that overshoots is clipped.
    settings = Preprocessing(64, 1.0, mode, mean=(0.5, 0.5, 0.5))
    image = np.full((40, 90, 3), 255, np.uint8)
    found = resize_and_crop(image, settings).numpy()
    np.testing.assert_array_equal(found, pillow.resize_and_crop(image, settings))
    assert set(np.unique(found)) == ({128, 255} if mode == "border" else {255})


def test_sizes_agree_where_rounding_ties():
    # 11 / (66 / 105) is 17.5 in floating point; 186 / (186 / 41) and the like are near ties too.
    for shape, size, fraction, mode in [
        ((66, 11), (102, 182), 0.965, "border"),
        ((3813, 186), (273, 37), 0.9, "center"),
        ((256, 383), (224, 224), 0.875, "center"),
    ]:
        settings = Preprocessing(size, fraction, mode)
        image = np.asarray(photograph(*shape))
        expected = pillow.resize_and_crop(image, settings)
        assert distance(graph_of(settings)(image), expected) < 0.3


def test_a_sliver_needs_no_more_memory_than_its_crop():
    sliver = np.zeros((1, 200_000, 3), np.uint8)
    sliver[:, 100_000:] = 200
    found = resize_and_crop(sliver, Preprocessing(32)).numpy()
    assert found[0, 0, 0] < 20 and found[0, -1, 0] > 180 and (np.diff(found[0, :, 0]) > 0).all()


def test_float_pixels_are_taken_as_they_are():
    image = photograph(100, 120)
    from_float = resize_and_crop(np.float32(image), Preprocessing(64))
    np.testing.assert_array_equal(from_float, resize_and_crop(np.asarray(image), Preprocessing(64)))


def test_normalizes_as_preprocess_does():
    settings = Preprocessing(64, mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.4))
    image = np.asarray(photograph(100, 120))
    pixels = pillow.resize_and_crop(image, settings)
    expected = preprocess(image, settings)[0]
    np.testing.assert_allclose(normalize(pixels, settings), expected, atol=1e-5)
    assert distance(normalize(pixels / 255, settings), expected) > 0.5


# Graphs


class Server(tf.Module):
    """Encoded pictures -> the batch a network expects."""

    def __init__(self, settings: Preprocessing):
        super().__init__()
        self._settings = settings

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string)])
    def serve(self, encoded):
        def one(picture):
            pixels = resize_and_crop(decode(picture), self._settings)
            return normalize(pixels, self._settings)

        signature = tf.TensorSpec((*self._settings.input_size, 3), tf.float32)
        return tf.map_fn(one, encoded, fn_output_signature=signature)


@pytest.mark.slow
def test_serves_mixed_pictures_from_a_saved_model(tmp_path):
    settings = Preprocessing((64, 48), 0.9)
    tf.saved_model.save(Server(settings), str(tmp_path / "server"))
    server = tf.saved_model.load(str(tmp_path / "server"))
    pictures = [
        encode(photograph(48, 64).convert("L"), "PNG"),
        encode(photograph(100, 90, 1), "JPEG"),
        FILES["transparency, of PNG, WebP and GIF"]["webp"],
    ]
    found = server.serve(tf.constant(pictures))
    assert found.shape == (3, 64, 48, 3)
    # A gray level is 1 / 255 / std, about 0.017.
    assert distance(found, preprocess(pictures, settings)) < 0.3 * 0.017
    assert distance(found, preprocess(pictures[1:] + pictures[:1], settings)) > 0.3


def test_works_in_an_input_pipeline():
    files = list(FILES["orientation in EXIF or XMP, of JPEG, PNG and WebP"].values())
    pictures = tf.data.Dataset.from_tensor_slices(files).map(
        lambda encoded: resize_and_crop(decode(encoded), Preprocessing(32)),
        num_parallel_calls=2,
    )
    assert pictures.element_spec.shape == (32, 32, 3)
    (batch,) = pictures.batch(len(files))
    expected = preprocess(files, Preprocessing(32))
    assert distance(normalize(batch, Preprocessing()), expected) < 0.3 * 0.017


SMALL = 64
SEED = tf.constant([1, 2], tf.int64)


def crop_for(size):
    return "shift" if max(size) <= SMALL else "resized"


@pytest.mark.parametrize("size", [(16, 16), (24, 16), (96, 96), (96, 128)])
def test_views_have_the_input_size_and_range(size):
    pixels = tf.constant(np.random.default_rng(0).integers(0, 256, (150, 110, 3), np.uint8))
    preprocessing = Preprocessing(input_size=size)
    views = [random_view(pixels, preprocessing, SEED + i, crop_for(size)).numpy() for i in range(4)]
    assert all(view.shape == (*size, 3) for view in views)
    assert min(view.min() for view in views) >= 0
    assert max(view.max() for view in views) <= 255
    assert not np.array_equal(views[0], views[1])


@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear", "nearest", "lanczos"])
@pytest.mark.parametrize("size", [16, 96])
def test_views_of_odd_pictures(interpolation, size):
    preprocessing = Preprocessing(input_size=size, interpolation=interpolation)
    for shape in ((1, 1, 3), (1, 90, 3), (90, 2, 3)):
        view = random_view(
            tf.fill(shape, tf.constant(128, tf.uint8)), preprocessing, SEED, crop_for((size, size))
        )
        assert view.dtype == tf.float32
        np.testing.assert_allclose(view, np.full((size, size, 3), 128.0), atol=1e-3)


def test_views_of_a_file_are_those_of_its_pixels():
    """However it is turned; of some JPEG files only the part in view is decoded."""
    preprocessing = Preprocessing(input_size=24)
    for name, encoded in (file for row in FILES.values() for file in row.items()):
        try:
            pixels = decode(encoded)
        except tf.errors.InvalidArgumentError:
            continue
        for i in range(3):
            found = random_view(tf.constant(encoded), preprocessing, SEED + i)
            assert distance(found, random_view(pixels, preprocessing, SEED + i)) < 0.5, name


def test_small_views_move_by_an_eighth_at_most():
    y, x = np.mgrid[:32, :32]
    ramp = np.stack([8 * x, 8 * y, 0 * x], -1).astype(np.uint8)
    preprocessing = Preprocessing(input_size=32, crop_fraction=1.0)
    middles = [
        random_view(tf.constant(ramp), preprocessing, SEED + i, "shift").numpy()[16, 16, :2]
        for i in range(60)
    ]
    shifts = np.array(middles) / 8 - 16
    assert abs(shifts).max() == 4
    assert len({tuple(shift) for shift in shifts.tolist()}) > 20


def test_large_views_cover_a_quarter_or_more():
    y, x = np.mgrid[:200, :200]
    ramp = tf.constant(np.stack([x, y, 0 * x], -1).astype(np.uint8))
    preprocessing = Preprocessing(input_size=96)
    areas = []
    for i in range(60):
        view = random_view(ramp, preprocessing, SEED + i).numpy()
        width, height = np.ptp(view[..., 0]) / 200, np.ptp(view[..., 1]) / 200
        areas.append(width * height)
        assert 0.65 < width / height < 1.5
    assert min(areas) > 0.22
    assert max(areas) > 0.7
    assert np.std(areas) > 0.1
