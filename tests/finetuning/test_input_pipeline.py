import numpy as np
import pytest
import tensorflow as tf

from nf_zoo.finetuning.input_pipeline import (
    SMALL,
    evaluation_batches,
    training_batches,
    validation_batches,
)
from nf_zoo.finetuning.labeled_pictures import open_data
from nf_zoo.finetuning.settings import Settings
from nf_zoo.pictures.augmentation import Augmentation
from nf_zoo.pictures.images import preprocess
from nf_zoo.pictures.preprocessing import Preprocessing
from nf_zoo.pictures.tensorflow_images import random_view

SIXTEEN = Preprocessing(input_size=16)
VARIATIONS = ("flip", "randaugment", "erasing", "mixup", "cutmix")
SEED = tf.constant([1, 2], tf.int64)


@pytest.fixture(scope="module")
def train(tmp_path_factory, write_shapes):
    root = write_shapes(tmp_path_factory.mktemp("pipeline") / "x", {"bar": 10, "disc": 12})
    return open_data(root, Settings()).train


def collect(pictures, epochs, preprocessing=SIXTEEN, **options):
    varied = {key: options.pop(key) for key in VARIATIONS if key in options}
    settings = Settings(**varied).augmentation()
    options = {"num_classes": 2, "seed": 0, "settings": settings, **options}
    batches = training_batches(pictures, preprocessing, epochs, 4, **options)
    return [tuple(np.asarray(part) for part in batch) for batch in batches]


def assert_equal(mine, theirs):
    assert len(mine) == len(theirs)
    for batch, other in zip(mine, theirs, strict=True):
        for part, counterpart in zip(batch, other, strict=True):
            np.testing.assert_array_equal(part, counterpart)


@pytest.mark.parametrize(
    "options", [{}, {"mixup": 0.2, "cutmix": 1.0}, {"randaugment": True, "erasing": 0.5}]
)
def test_batches_follow_from_seed_and_epoch(train, options):
    both = collect(train, range(2), **options)
    assert len(both) == 2 * (18 // 4)
    assert_equal(both[4:], collect(train, range(1, 2), **options))
    assert not np.array_equal(both[0][0], both[4][0])


def test_another_seed_gives_other_batches(train):
    one, other = collect(train, range(1)), collect(train, range(1), seed=1)
    assert not np.array_equal(one[0][0], other[0][0])


def test_datasets_are_shuffled_by_seed_and_epoch_too():
    values = np.arange(20, dtype=np.uint8)
    pixels = np.broadcast_to(values[:, None, None, None], (20, 16, 16, 3))
    dataset = tf.data.Dataset.from_tensor_slices((pixels, values % 2))
    pictures = open_data(dataset, Settings(labels=["a", "b"])).train
    both = collect(pictures, range(2), raw=True)
    assert_equal(both, collect(pictures, range(2), raw=True))
    assert_equal(both[4:], collect(pictures, range(1, 2), raw=True))
    orders = [
        [int(x[0, 0, 0]) for images, _ in part for x in images] for part in (both[:4], both[4:])
    ]
    assert (
        sorted(orders[0])
        == sorted(orders[1])
        == sorted(p[0, 0, 0] for p, _ in pictures.in_order().as_numpy_iterator())
    )
    assert orders[0] != orders[1]


def test_an_epoch_shows_each_picture_once(train):
    classes = np.concatenate([targets.argmax(1) for _, targets in collect(train, range(1))])
    assert len(classes) == 16
    serials = [int(s) for *_, s in train.shuffled(range(1), 18, 0).as_numpy_iterator()]
    assert serials == list(range(18))
    seen = [index for _, index, _ in train.shuffled(range(1), 18, 0).as_numpy_iterator()]
    assert sorted(seen) == sorted(train.classes.tolist())


def test_images_are_normalized_unless_raw(train):
    normal, raw = collect(train, range(1)), collect(train, range(1), raw=True)
    mean, std = np.array(SIXTEEN.mean), np.array(SIXTEEN.std)
    assert raw[0][0].max() > 100
    np.testing.assert_allclose(normal[0][0], (raw[0][0] / 255 - mean) / std, atol=1e-5)
    assert normal[0][0].dtype == np.float32


def test_class_weights_become_sample_weights(train):
    for _, targets, weights in collect(train, range(1), class_weights=[0.5, 3.0]):
        np.testing.assert_allclose(weights, np.where(targets[:, 0] == 1, 0.5, 3.0))
    mixed = collect(train, range(1), class_weights=[0.5, 3.0], mixup=0.5)
    for _, targets, weights in mixed:
        np.testing.assert_allclose(weights, targets @ [0.5, 3.0], rtol=1e-5)


@pytest.mark.parametrize("options", [{"mixup": 0.5}, {"cutmix": 1.0}])
def test_mixing_keeps_targets_distributions(train, options):
    batches = collect(train, range(2), flip=False, **options)
    targets = np.concatenate([targets for _, targets in batches])
    np.testing.assert_allclose(targets.sum(1), 1, rtol=1e-5)
    assert ((targets > 0.01) & (targets < 0.99)).any()
    plain = collect(train, range(2), flip=False)
    assert any(not np.allclose(a[0], b[0]) for a, b in zip(batches, plain, strict=True))


def test_evaluation_is_what_preprocess_does(train):
    shown = preprocess([train.root / name for name in train.names], SIXTEEN)
    batches = validation_batches(train, SIXTEEN, 5, num_classes=2)
    images, targets = (
        np.concatenate(part) for part in zip(*batches.as_numpy_iterator(), strict=True)
    )
    np.testing.assert_array_equal(targets.argmax(1), train.classes)
    gray_levels = abs(images - shown) * np.array(SIXTEEN.std) * 255
    assert gray_levels.mean() < 0.4
    assert gray_levels.max() < 10


def test_evaluation_batches_hold_every_picture(train):
    batches = list(evaluation_batches(train, SIXTEEN, 5))
    assert [len(classes) for _, classes in batches] == [5, 5, 5, 3]
    assert batches[0][0].dtype == tf.uint8


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
            tf.fill(shape, tf.constant(7, tf.uint8)), preprocessing, SEED, crop_for((size, size))
        )
        assert view.dtype == tf.float32
        np.testing.assert_allclose(view, np.full((size, size, 3), 7.0), atol=1e-3)


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


def test_flip_mirrors_half():
    ramp = np.tile(np.arange(32, dtype=np.uint8)[None, None, :, None], (60, 32, 1, 3))

    def mirrored(flip):
        augment = Augmentation(Settings(flip=flip).augmentation(), seed=0, batch_size=60)
        views = np.asarray(augment(ramp, augment.draws(0)))
        return sum(view[0, 4, 0] > view[0, 27, 0] for view in views)

    assert mirrored(False) == 0
    assert 15 < mirrored(True) < 45
