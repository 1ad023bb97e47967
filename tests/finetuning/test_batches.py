import numpy as np
import pytest

from nf_zoo.finetuning.batches import SMALL, EvaluationBatches, TrainingBatches, random_crop
from nf_zoo.finetuning.labeled_pictures import open_data
from nf_zoo.finetuning.settings import Settings
from nf_zoo.pictures.augmentation import Augmentation
from nf_zoo.pictures.augmentation import Settings as AugmentationSettings
from nf_zoo.pictures.images import normalize, preprocess
from nf_zoo.pictures.preprocessing import Preprocessing

SIXTEEN = Preprocessing(input_size=16)
VARIATIONS = ("flip", "randaugment", "erasing", "mixup", "cutmix")


@pytest.fixture(scope="module")
def train(tmp_path_factory, write_shapes):
    root = write_shapes(tmp_path_factory.mktemp("pipeline") / "x", {"bar": 10, "disc": 12})
    return open_data(root, Settings()).train


def collect(pictures, epochs, preprocessing=SIXTEEN, **options):
    varied = {key: options.pop(key) for key in VARIATIONS if key in options}
    settings = Settings(**varied).augmentation()
    options = {"num_classes": 2, "seed": 0, "settings": settings, **options}
    batches = TrainingBatches(pictures, preprocessing, 4, **options)
    return [
        tuple(np.asarray(part) for part in batch if part is not None)
        for epoch in epochs
        for batch in batches.epoch(epoch)
    ]


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
    tf = pytest.importorskip("tensorflow", reason="tf.data needs TensorFlow")
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
        == sorted(read()[0, 0, 0] for read, _ in pictures.in_order())
    )
    assert orders[0] != orders[1]


def test_an_epoch_shows_each_picture_once(train):
    classes = np.concatenate([targets.argmax(1) for _, targets in collect(train, range(1))])
    assert len(classes) == 16
    seen = [index for _, index in train.shuffled(0, 0)]
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
    for cache in (True, False):
        batches = EvaluationBatches(train, SIXTEEN, 5, cache=cache)
        for _ in range(2):
            pixels, classes = (np.concatenate(part) for part in zip(*batches, strict=True))
            np.testing.assert_array_equal(classes, train.classes)
            np.testing.assert_array_equal(normalize(pixels, SIXTEEN), shown)


def test_evaluation_batches_hold_every_picture(train):
    batches = list(EvaluationBatches(train, SIXTEEN, 5))
    assert [len(classes) for _, classes in batches] == [5, 5, 5, 3]
    assert batches[0][0].dtype == np.uint8


def views_of(pixels, size, count=4, **fields):
    """Random views of a picture, cropped as training crops for that size."""
    preprocessing = Preprocessing(input_size=size, **fields)
    crop = "shift" if max(preprocessing.input_size) <= SMALL else "resized"
    given = AugmentationSettings(crop=crop, smallest_area=0.25)
    draws = Augmentation(given, seed=1, batch_size=count).draws(0)
    return [random_crop(pixels, preprocessing, row, given) for row in draws]


@pytest.mark.parametrize("size", [(16, 16), (24, 16), (96, 96), (96, 128)])
def test_views_have_the_input_size(size):
    pixels = np.random.default_rng(0).integers(0, 256, (150, 110, 3), np.uint8)
    views = views_of(pixels, size)
    assert all(view.shape == (*size, 3) and view.dtype == np.uint8 for view in views)
    assert not np.array_equal(views[0], views[1])


@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear", "nearest", "lanczos"])
@pytest.mark.parametrize("size", [16, 96])
def test_views_of_odd_pictures(interpolation, size):
    for shape in ((1, 1, 3), (1, 90, 3), (90, 2, 3)):
        for view in views_of(np.full(shape, 7, np.uint8), size, interpolation=interpolation):
            np.testing.assert_array_equal(view, np.full((size, size, 3), 7))


def test_small_views_move_by_an_eighth_at_most():
    y, x = np.mgrid[:32, :32]
    ramp = np.stack([8 * x, 8 * y, 0 * x], -1).astype(np.uint8)
    views = views_of(ramp, 32, count=60, crop_fraction=1.0)
    shifts = np.array([view[16, 16, :2] for view in views]) / 8 - 16
    assert abs(shifts).max() == 4
    assert len({tuple(shift) for shift in shifts.tolist()}) > 20


def test_large_views_cover_a_quarter_or_more():
    y, x = np.mgrid[:200, :200]
    ramp = np.stack([x, y, 0 * x], -1).astype(np.uint8)
    areas = []
    for view in views_of(ramp, 96, count=60):
        width, height = np.ptp(view[..., 0].astype(int)), np.ptp(view[..., 1].astype(int))
        areas.append(width * height / 200**2)
        assert 0.65 < width / height < 1.5
    assert min(areas) > 0.22
    assert max(areas) > 0.7
    assert np.std(areas) > 0.1


def test_views_of_wide_pictures_keep_the_shape_of_things():
    y, x = np.mgrid[:100, :300]
    ramp = np.stack([x % 256, y, x // 256], -1).astype(np.uint8)
    for view in views_of(ramp, (80, 160), count=20, interpolation="nearest"):
        columns = view[..., 0].astype(int) + 256 * view[..., 2].astype(int)
        width, height = np.ptp(columns) / 160, np.ptp(view[..., 1].astype(int)) / 80
        assert 0.6 < width / height < 1.6


def test_flip_mirrors_half():
    ramp = np.tile(np.arange(32, dtype=np.uint8)[None, None, :, None], (60, 32, 1, 3))

    def mirrored(flip):
        augment = Augmentation(Settings(flip=flip).augmentation(), seed=0, batch_size=60)
        views = np.asarray(augment(ramp, augment.draws(0)))
        return sum(view[0, 4, 0] > view[0, 27, 0] for view in views)

    assert mirrored(False) == 0
    assert 15 < mirrored(True) < 45


def test_a_pass_that_broke_off_is_not_taken_for_the_whole(train):
    batches = EvaluationBatches(train, SIXTEEN, 4, cache=True)
    for _ in batches:
        break
    assert sum(len(classes) for _, classes in batches) == len(train)
    assert [len(classes) for _, classes in batches] == [4, 4, 4, 4, 2]  # the kept ones
