"""Which pictures a step sees, and what becomes of them."""

from __future__ import annotations

import itertools
import json
import shutil
import tarfile

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_datasets as tfds
from PIL import Image
from small_recipes import small_recipe

from nf_zoo.pictures.resampling import resample
from training import augmentation, prepare
from training.data import open_data
from training.data.order import Order, Share, evaluation_rows
from training.feeds import TensorFlowFeed
from training.recipe import RecipeError


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """train/ and test/ of two classes: JPEGs and PNGs of many sizes, each of one gray level."""
    root = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(0)
    for split, count in (("train", 20), ("test", 7)):
        for index in range(count):
            place = root / split / f"class{index % 2}"
            place.mkdir(parents=True, exist_ok=True)
            height, width = rng.integers(20, 60, 2)
            pixels = np.full((height, width, 3), 5 * index, "uint8")
            suffix = "png" if index % 3 else "jpg"
            Image.fromarray(pixels).save(place / f"{index:02d}.{suffix}", quality=95)
    return root


def folder_recipe(source):
    recipe = small_recipe("")
    recipe.data.source, recipe.data.test = source, "test"
    recipe.augmentation.crop = "resized"
    recipe.batch_size, recipe.evaluation.batch_size = 8, 2
    return recipe


def take(batches, count):
    return [[np.asarray(value) for value in batch] for batch in itertools.islice(batches, count)]


@pytest.mark.fast
def test_every_picture_once_in_a_round():
    order = Order(seed=3, size=10, batch_size=4)
    seen = np.concatenate([order.indices(step) for step in range(5)])
    assert sorted(seen[:10]) == sorted(seen[10:]) == list(range(10))
    assert list(seen[:10]) != list(seen[10:])
    np.testing.assert_array_equal(order.indices(2, first=1, count=2), order.indices(2)[1:3])


@pytest.mark.fast
@pytest.mark.parametrize(("hosts", "replicas"), [(1, 1), (2, 1), (3, 2)])
def test_evaluation_leaves_no_picture_out(hosts, replicas):
    seen, batches = [], set()
    for host in range(hosts):
        rows = evaluation_rows(11, Share(host, hosts, replicas), 3)
        batches.add(len(rows))
        assert all(len(indices) == 3 for indices, _ in rows) and len(rows) % replicas == 0
        seen += [i for indices, weights in rows for i in indices[weights > 0]]
    assert sorted(seen) == list(range(11)) and len(batches) == 1


KINDS = ("arrays", "folder", "tfrecord")


@pytest.fixture(scope="module")
def sources(folder, arrays, tmp_path_factory):
    shards = tmp_path_factory.mktemp("shards") / "set"
    prepare.write_shards(str(folder), shards, ["train", "test"], shards=4)
    return {
        "arrays": f"arrays:{arrays}",
        "folder": f"folder:{folder}",
        "tfrecord": f"tfrecord:{shards}",
    }


def recipe_of(sources, kind):
    recipe = folder_recipe(sources[kind])
    if kind == "arrays":
        recipe.augmentation.crop = "shift"
    return recipe


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_that_goes_on_sees_what_it_would_have_seen(sources, kind):
    recipe = recipe_of(sources, kind)
    data = open_data(recipe)
    share = Share(replica_batch=8)
    whole = take(data.train_batches(recipe, share, 0), 7)
    for step in (1, 5):
        later = take(data.train_batches(recipe, share, step), 2)
        for expected, found in zip(whole[step : step + 2], later, strict=True):
            for a, b in zip(expected, found, strict=True):
                np.testing.assert_array_equal(a, b)
    recipe.seed = 1
    other = take(data.train_batches(recipe, share, 0), 1)
    assert not np.array_equal(other[0][0], whole[0][0])


@pytest.mark.parametrize("kind", ["arrays", "folder"])
def test_replicas_share_the_batch_of_one(sources, kind):
    recipe = recipe_of(sources, kind)
    recipe.augmentation.cutmix = 1.0
    data = open_data(recipe)
    (whole,) = take(data.train_batches(recipe, Share(replica_batch=8), 2), 1)
    parts = []
    for host in range(2):
        share = Share(host, 2, replicas=2, replica_batch=2)
        parts += take(data.train_batches(recipe, share, 2), 2)
    for expected, found in zip(whole, zip(*parts, strict=True), strict=True):
        np.testing.assert_array_equal(expected, np.concatenate(found))


def test_hosts_read_different_records(sources):
    recipe = recipe_of(sources, "tfrecord")
    recipe.augmentation.crop, recipe.batch_size = "none", 10
    data = open_data(recipe)
    seen = []
    for host in range(2):
        share = Share(host, 2, replica_batch=5)
        batches = take(data.train_batches(recipe, share, 0), 2)
        seen += [int(image.mean()) // 5 for images, *_ in batches for image in images]
    assert sorted(seen) == list(range(20))


@pytest.mark.parametrize("kind", ["arrays", "folder"])
def test_a_cpu_feeds_itself_from_iterators_that_close_at_once(sources, kind):
    """A thread that tunes an iterator sleeps for up to a minute, and closing waits for it."""
    recipe = recipe_of(sources, kind)
    feed = TensorFlowFeed(recipe, open_data(recipe), tf.distribute.OneDeviceStrategy("CPU:0"))
    for batches in (feed.train(0), feed.test()):
        assert isinstance(batches, tf.data.Dataset)  # and not one with two iterators
        assert batches.options().autotune.enabled is False
    images, classes, _ = next(iter(feed.train(0)))
    assert len(images) == len(classes) == recipe.batch_size


@pytest.mark.parametrize("kind", KINDS)
def test_evaluation_sees_every_picture(sources, kind):
    recipe = recipe_of(sources, kind)
    data = open_data(recipe)
    batches = take(data.test_batches(recipe, Share(replicas=2)), 100)
    assert sum(weights.sum() for *_, weights in batches) == data.test_size
    assert len(batches) % 2 == 0
    assert {images.shape for images, *_ in batches} == {(2, 16, 16, 3)}


@pytest.mark.fast
@pytest.mark.parametrize("in_memory", [True, False])
def test_one_split_can_be_both(folder, in_memory):
    recipe = folder_recipe(f"folder:{folder}")
    recipe.data.train, recipe.data.in_memory = "test", in_memory
    data = open_data(recipe)
    assert data.train_size == data.test_size == 7 and len(data.labels) == 2


@pytest.mark.fast
def test_pictures_of_equal_names_are_not_lost(folder, tmp_path):
    for part in ("a", "b"):
        shutil.copytree(folder, tmp_path / part)
    (name := next((tmp_path / "a").glob("train/*/*"))).with_name(f"._{name.name}").write_bytes(b"?")
    recipe = folder_recipe(f"folder:{tmp_path}/*")
    recipe.data.in_memory = True
    with pytest.raises(RecipeError, match=r"must have different names.*/00\.jpg twice"):
        open_data(recipe)
    shutil.rmtree(tmp_path / "b")
    assert open_data(recipe).train_size > 0


@pytest.mark.fast
@pytest.mark.fast
@pytest.mark.parametrize("kind", ["tar", "tar.gz", "tar.xz", "npz"])
def test_a_file_that_was_cut_short_is_refused(kind, folder, tmp_path):
    recipe, path = folder_recipe(f"folder:{tmp_path}/set.{kind}"), tmp_path / f"set.{kind}"
    recipe.data.in_memory = True
    if kind == "npz":
        recipe.data.source = f"arrays:{path}"
        prepare.write_arrays(str(folder), path, ["train", "test"], 16)
    else:
        with tarfile.open(path, f"w:{kind[4:]}") as archive:
            archive.add(folder, ".")
    whole = path.read_bytes()
    assert open_data(recipe).test_size == 7
    generator = np.random.default_rng(0)
    longest = len(whole) - 12_000 if kind == "tar" else 3 * len(whole) // 4  # zeros at the end
    for length in generator.integers(len(whole) // 2, longest, 40):
        path.write_bytes(whole[:length])
        with pytest.raises(RecipeError, match=r"whole tar archive|must be an \.npz|cannot be read"):
            open_data(recipe)


def test_half_a_set_is_refused(sources, tmp_path):
    recipe = folder_recipe(f"tfrecord:{tmp_path}")
    with pytest.raises(RecipeError, match=r"prepared.*dataset\.json|dataset\.json.*prepared"):
        open_data(recipe)
    manifest = {"labels": ["a"], "splits": {"train": {"gone.tfrecord": 3}, "test": {}}}
    (tmp_path / "dataset.json").write_text(json.dumps(manifest))
    with pytest.raises(RecipeError, match=r"gone\.tfrecord"):
        open_data(recipe)


@pytest.mark.fast
@pytest.mark.parametrize(
    ("source", "word"),
    [
        ("", "KIND:PLACE"),
        ("ftp:somewhere", "folder, arrays, tfrecord, tfds"),
        ("arrays:nowhere.npz", "training.prepare"),
        ("folder:nowhere", "nowhere"),
        ("tfrecord:nowhere", "prepared"),
        ("tfds:imagenet2012", "set is not prepared"),
    ],
)
def test_a_missing_set_is_named(source, word, tmp_path):
    recipe = folder_recipe(source)
    recipe.augmentation.crop = "shift"
    recipe.data.directory = str(tmp_path)
    with pytest.raises(RecipeError, match=word):
        open_data(recipe)


def test_tensorflow_data_sets(tmp_path):
    images = np.repeat(np.arange(12, dtype="uint8"), 20 * 20 * 3).reshape(12, 20, 20, 3)
    examples = {"image": images, "label": np.arange(12) % 2}
    features = {"image": tfds.features.Image(), "label": tfds.features.ClassLabel(num_classes=2)}
    tfds.dataset_builders.store_as_tfds_dataset(
        name="levels",
        version="1.0.0",
        data_dir=tmp_path,
        features=tfds.features.FeaturesDict(features),
        split_datasets={
            split: tf.data.Dataset.from_tensor_slices(examples) for split in ("train", "test")
        },
    )
    recipe = folder_recipe("tfds:levels")
    recipe.data.directory, recipe.data.shuffle_buffer = str(tmp_path), 4
    data = open_data(recipe)
    share = Share(replica_batch=8)
    whole = take(data.train_batches(recipe, share, 0), 4)
    later = take(data.train_batches(recipe, share, 3), 1)
    np.testing.assert_array_equal(whole[3][0], later[0][0])
    levels = [int(image.mean()) for images, *_ in whole[:3] for image in images]
    assert sorted(levels) == sorted([*range(12), *range(12)])
    evaluated = take(data.test_batches(recipe, Share()), 100)
    assert sum(weights.sum() for *_, weights in evaluated) == data.test_size == 12
    recipe.data.test = "nothing"
    with pytest.raises(RecipeError, match="lacks the splits"):
        open_data(recipe)


# --- variations --------------------------------------------------------------------------------


def vary(recipe, images, classes, step=0):
    draws = augmentation.augmentation_of(recipe).draws(step, 0, len(images))
    images, targets = augmentation.vary(recipe, images, classes, draws, 4)
    return np.asarray(images), np.asarray(targets), draws


def unvaried():
    recipe = small_recipe("")
    recipe.augmentation.flip, recipe.augmentation.crop = False, "none"
    recipe.data.input_size = 0  # whatever the pictures have
    return recipe


@pytest.mark.fast
def test_without_variations_pictures_are_normalized():
    recipe = unvaried()
    images = np.random.default_rng(0).integers(0, 256, (16, 8, 8, 3)).astype("uint8")
    varied, targets, _ = vary(recipe, images, np.arange(16) % 4)
    expected = (images / 255.0 - recipe.data.mean) / recipe.data.std
    np.testing.assert_allclose(varied, expected, atol=1e-5)
    np.testing.assert_allclose(targets.max(1), 0.9 + 0.1 / 4, rtol=1e-6)
    np.testing.assert_allclose(targets.sum(1), 1.0, rtol=1e-6)


@pytest.mark.fast
def test_smaller_pictures_are_those_of_pillow():
    recipe = unvaried()
    images = np.random.default_rng(0).integers(0, 256, (3, 16, 12, 3)).astype("uint8")
    draws = augmentation.augmentation_of(recipe).draws(0, 0, 3)
    varied, _ = augmentation.vary(recipe, images, np.arange(3), draws, 4, size=9)
    for picture, given in zip(np.asarray(varied), images, strict=True):
        normalized = ((given / 255.0 - recipe.data.mean) / recipe.data.std).astype("float32")
        for channel in range(3):
            expected = Image.fromarray(normalized[..., channel]).resize((9, 9), Image.BILINEAR)
            np.testing.assert_allclose(picture[..., channel], expected, atol=1e-5)


@pytest.mark.fast
@pytest.mark.parametrize("size", [7, 20])
def test_windows_are_resized_as_pillow_resizes_boxes(size):
    rng = np.random.default_rng(1)
    images = rng.integers(0, 256, (6, 16, 12, 3)).astype("uint8")
    tall, wide = rng.uniform(4, 16, 6), rng.uniform(3, 12, 6)
    top, left = rng.random(6) * (16 - tall), rng.random(6) * (12 - wide)
    found = np.asarray(resample(images, (top, left, tall, wide), size))
    for row, given in enumerate(images.astype("float32")):
        box = (left[row], top[row], left[row] + wide[row], top[row] + tall[row])
        for channel in range(3):
            picture = Image.fromarray(given[..., channel])
            expected = picture.resize((size, size), Image.BILINEAR, box=box)
            np.testing.assert_allclose(found[row, ..., channel], expected, atol=2e-3)


@pytest.mark.fast
def test_shifted_pictures_move_by_up_to_an_eighth_over_gray():
    recipe = unvaried()
    recipe.augmentation.crop, recipe.batch_size = "shift", 64
    recipe.data.mean, recipe.data.std = (0.0, 0.0, 0.0), (1 / 255, 1 / 255, 1 / 255)
    images = np.random.default_rng(0).integers(0, 256, (64, 16, 16, 3)).astype("uint8")
    varied, *_ = vary(recipe, images, np.zeros(64, int))
    moves = [(y, x) for y in range(-2, 3) for x in range(-2, 3)]
    seen = set()
    for picture, given in zip(varied, images, strict=True):
        wide = np.pad(given, ((2, 2), (2, 2), (0, 0)), constant_values=128)
        fits = [m for m in moves if np.abs(_cut(wide, *m) - picture).max() < 1e-3]
        assert len(fits) == 1
        seen.add(fits[0])
    assert len(seen) > 15


def _cut(wide, down, right):
    return wide[2 + down : 18 + down, 2 + right : 18 + right].astype("float32")


@pytest.mark.fast
def test_resized_crops_of_pictures_in_memory_keep_to_the_picture():
    recipe = unvaried()
    recipe.augmentation.crop, recipe.augmentation.smallest_area = "resized", 0.25
    recipe.data.mean, recipe.data.std = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
    recipe.batch_size = 64
    ramp = np.arange(32, dtype="uint8")[:, None] * 8 + np.zeros(32, "uint8")
    images = np.broadcast_to(ramp[None, :, :, None], (64, 32, 32, 3))
    varied, *_ = vary(recipe, images, np.zeros(64, int))
    rows = varied[:, :, 0, 0] * 255 / 8
    extents = (rows[:, -1] - rows[:, 0]) * 32 / 31
    assert rows.min() >= 0 and rows.max() <= 31
    assert 32 * np.sqrt(0.25 * 0.75) - 0.5 < extents.min() < 18 and extents.max() > 28
    assert len(np.unique(rows[:, 0].round(2))) > 40


@pytest.mark.fast
@pytest.mark.parametrize(("mixup", "cutmix"), [(0.4, 0.0), (0.0, 1.0), (0.4, 1.0)])
def test_targets_are_mixed_as_pictures_are(mixup, cutmix):
    recipe = unvaried()
    recipe.regularization.label_smoothing = 0.0
    recipe.augmentation.mixup, recipe.augmentation.cutmix = mixup, cutmix
    recipe.data.mean, recipe.data.std = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
    recipe.batch_size = 64
    classes = np.arange(64) % 4
    images = np.broadcast_to(classes[:, None, None, None] * 51, (64, 32, 32, 3)).astype("uint8")
    varied, targets, draws = vary(recipe, images, classes)
    # The mean of a picture of one level for each class tells the shares.
    np.testing.assert_allclose(varied.mean((1, 2, 3)) * 5, targets @ np.arange(4), atol=1e-4)
    np.testing.assert_allclose(targets.sum(1), 1.0, rtol=1e-5)
    assert np.sum(targets.max(1) < 0.99) > 10 and len(set(draws[:, -4])) == (
        2 if mixup and cutmix else 1
    )


@pytest.mark.fast
def test_erasing_grays_out_a_share_of_the_pictures():
    recipe = unvaried()
    recipe.augmentation.erasing, recipe.batch_size = 0.5, 256
    images = np.full((256, 16, 16, 3), 255, "uint8")
    varied, *_ = vary(recipe, images, np.zeros(256, int))
    erased = (abs(varied) < 1e-6).all(-1).mean((1, 2))
    assert 0.4 < (erased > 0).mean() < 0.6 and 0.01 < erased[erased > 0].mean() < 0.25


@pytest.mark.fast
def test_half_the_pictures_are_mirrored():
    recipe = unvaried()
    recipe.augmentation.flip, recipe.batch_size = True, 256
    images = np.zeros((256, 4, 4, 3), "uint8")
    images[:, :, 0] = 255
    varied, *_ = vary(recipe, images, np.zeros(256, int))
    mirrored = varied[:, 0, 3, 0] > varied[:, 0, 0, 0]
    assert 0.4 < mirrored.mean() < 0.6


@pytest.mark.fast
def test_some_pictures_of_each_class(recipe):
    whole = open_data(recipe)
    recipe.data.train_per_class = 5
    some = open_data(recipe)
    assert np.bincount(some.train[1]).tolist() == [5] * len(some.labels)
    assert some.train_size == 20 and some.test_size == whole.test_size
    known = {image.tobytes() for image in whole.train[0]}
    assert len({image.tobytes() for image in some.train[0]} & known) == 20
    np.testing.assert_array_equal(open_data(recipe).train[0], some.train[0])
    recipe.seed = 1
    assert not np.array_equal(open_data(recipe).train[0], some.train[0])
    recipe.data.train_per_class = 90
    with pytest.raises(RecipeError, match="train_per_class=90"):
        open_data(recipe)
    recipe.data.source = "tfrecord:somewhere"
    with pytest.raises(RecipeError, match="in_memory"):
        open_data(recipe)
