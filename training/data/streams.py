"""Sets that are read as they are needed: folders, TFRecord shards, TensorFlow data sets.

The variation of a picture depends only on the recipe's seed and the picture's place in the run.
"""

import json
from pathlib import Path

import numpy as np
import tensorflow as tf

import nf_zoo
from nf_zoo.extras import require
from nf_zoo.pictures.class_folders import FolderError, scan
from nf_zoo.pictures.tensorflow_images import decode, random_view, resize_and_crop
from training.augmentation import augmentation_of
from training.data.order import Order, Share, evaluation_rows
from training.recipe import RecipeError

MANIFEST = "dataset.json"


class FolderPictures:
    """Files SPLIT/CLASS/NAME of a folder; every host can read all of them."""

    def __init__(self, root: str, train: str, test: str):
        try:
            self._train = scan(Path(root) / train)
            self._test = scan(Path(root) / test, self._train.labels)
        except (FolderError, OSError) as error:
            raise RecipeError(f"{error} (data.source={root})") from error
        self.labels = self._train.labels
        self.train_size, self.test_size = len(self._train.files), len(self._test.files)

    def train_batches(self, recipe, share: Share, first_step: int) -> tf.data.Dataset:
        """Return endless batches of (images, classes, draws), one replica after the other."""
        order = Order(recipe.seed, self.train_size, recipe.batch_size)

        def rows():
            step = first_step
            while True:
                first = share.first(0)
                indices = order.indices(step, first, share.host_batch)
                yield indices, step * recipe.batch_size + first + np.arange(share.host_batch)
                step += 1

        spec = tf.TensorSpec((share.host_batch,), tf.int64)
        records = tf.data.Dataset.from_generator(rows, output_signature=(spec, spec)).unbatch()
        records = records.map(lambda index, serial: (*_read(self._train, index), serial))
        return _varied_batches(records, recipe, share, first_step)

    def test_batches(self, recipe, share: Share) -> tf.data.Dataset:
        """Return batches of (images, classes, weights) of this host."""
        rows = evaluation_rows(self.test_size, share, recipe.evaluation.batch_size)
        indices = np.concatenate([row[0] for row in rows])
        weights = np.concatenate([row[1] for row in rows])
        records = tf.data.Dataset.from_tensor_slices((indices, weights))
        records = records.map(lambda index, weight: (*_read(self._test, index), weight))
        return _test_batches(records, recipe)


class RecordPictures:
    """Records (encoded picture, class), read in sequence; each host reads its own part.

    ``open_split`` is (split, host, hosts) -> a finite data set of that host's records, and
    ``counts`` their number. ``sizes`` and ``splits`` are (training, test), over all hosts.
    """

    def __init__(self, labels, sizes, open_split, counts, splits):
        self.labels = tuple(labels)
        self.train_size, self.test_size = sizes
        self._open, self._counts, self._splits = open_split, counts, splits

    def train_batches(self, recipe, share: Share, first_step: int) -> tf.data.Dataset:
        split = self._splits[0]
        size = self._counts(split, share.host, share.hosts)
        if not size:
            raise RecipeError(
                f"{split!r} must have at least as many files as there are hosts. "
                f"Received: {share.hosts} hosts"
            )
        seen = first_step * share.host_batch
        first_round = seen // size

        def one_round(number):
            seed = tf.random.experimental.stateless_fold_in(
                tf.constant([recipe.seed, 0], tf.int64), number
            )
            records = self._open(split, share.host, share.hosts)
            buffer = recipe.data.shuffle_buffer
            return records.shuffle(buffer, seed=seed[0], reshuffle_each_iteration=False)

        rounds = tf.data.Dataset.range(first_round, np.iinfo("int64").max)
        records = rounds.flat_map(one_round).skip(seen - first_round * size)

        def with_serial(position, record):
            # The place in the whole run, so that no two hosts vary a picture alike.
            step, place = position // share.host_batch, position % share.host_batch
            serial = (step + first_step) * recipe.batch_size + share.first(0) + place
            return *record, serial

        records = records.enumerate().map(with_serial)
        return _varied_batches(records, recipe, share, first_step)

    def test_batches(self, recipe, share: Share) -> tf.data.Dataset:
        split, batch = self._splits[1], recipe.evaluation.batch_size
        counts = [self._counts(split, host, share.hosts) for host in range(share.hosts)]
        rows = -(-max(counts) // (batch * share.replicas)) * batch * share.replicas
        records = self._open(split, share.host, share.hosts).map(lambda *r: (*r, 1.0))
        # Rows of weight 0 fill up, so that all replicas have the same number of batches.
        spare = self._open(split, 0, 1).take(1).repeat().map(lambda *r: (*r, 0.0))
        return _test_batches(records.concatenate(spare).take(rows), recipe)


def open_records(root: str, train: str, test: str) -> RecordPictures:
    """Open TFRecord shards made by ``python -m training.prepare``."""
    folder = Path(root)
    try:
        manifest = json.loads((folder / MANIFEST).read_bytes())
        files = {split: manifest["splits"][split] for split in (train, test)}
    except (OSError, ValueError, KeyError) as error:
        raise RecipeError(
            f"{MANIFEST} with the splits {train!r} and {test!r} is missing: the set was not "
            f"prepared completely. Run python -m training.prepare again ({error}). "
            f"Received: data.source={root}"
        ) from error
    for shards in files.values():
        missing = [name for name in shards if not (folder / name).is_file()]
        if missing:
            raise RecipeError(
                f"{len(missing)} files of the set are missing, such as {missing[0]}. Prepare the "
                f"set again. Received: data.source={root}"
            )

    def mine(split, host, hosts):
        return sorted(files[split])[host::hosts]

    def open_split(split, host, hosts):
        paths = [str(folder / name) for name in mine(split, host, hosts)]
        return tf.data.TFRecordDataset(paths).map(_parse)

    def counts(split, host, hosts):
        return sum(files[split][name] for name in mine(split, host, hosts))

    sizes = [sum(files[split].values()) for split in (train, test)]
    return RecordPictures(manifest["labels"], sizes, open_split, counts, (train, test))


def open_tfds(name: str, directory: str, train: str, test: str) -> RecordPictures:
    """Open a prepared TensorFlow data set of (image, label)."""
    what = f"Data sets by name, such as data.source=tfds:{name},"
    tfds = require("tensorflow_datasets", what, RecipeError)
    try:
        builder = tfds.builder(name, data_dir=directory or None)
        info = {split: builder.info.splits[split] for split in (train, test)}
        labels = builder.info.features["label"].names
    except Exception as error:  # its own types are many, and private
        raise RecipeError(
            f"The set is not prepared, or lacks the splits or labels: "
            f"{str(error).splitlines()[0]} (prepare it with tfds build {name}). Received: "
            f"data.source=tfds:{name}, data.directory={directory!r}, splits {train!r}, {test!r}"
        ) from error

    def part(split, host, hosts):
        return tfds.even_splits(split, hosts)[host] if hosts > 1 else split

    def open_split(split, host, hosts):
        records = builder.as_dataset(
            part(split, host, hosts),
            decoders={"image": tfds.decode.SkipDecoding()},
            read_config=tfds.ReadConfig(try_autocache=False, add_tfds_id=False),
        )
        return records.map(lambda record: (record["image"], tf.cast(record["label"], tf.int32)))

    def counts(split, host, hosts):
        return builder.info.splits[part(split, host, hosts)].num_examples

    sizes = [info[split].num_examples for split in (train, test)]
    return RecordPictures(labels, sizes, open_split, counts, (train, test))


def _parse(record):
    features = {
        "image": tf.io.FixedLenFeature((), tf.string),
        "class": tf.io.FixedLenFeature((), tf.int64),
    }
    parsed = tf.io.parse_single_example(record, features)
    return parsed["image"], tf.cast(parsed["class"], tf.int32)


def _read(folder, index):
    name = tf.gather(tf.constant([str(folder.root / file) for file in folder.files]), index)
    return tf.io.read_file(name), tf.gather(tf.constant(folder.classes, tf.int32), index)


def _varied_batches(records, recipe, share: Share, first_step: int) -> tf.data.Dataset:
    """Turn records (encoded, class, serial) into (images, classes, draws) of each replica."""
    count, augment, given = share.replica_batch, augmentation_of(recipe), recipe.augmentation
    geometry = _geometry(recipe, recipe.data.input_size)

    def draws(position):
        step, replica = divmod(int(position), share.replicas)
        return augment.draws(first_step + step, share.first(replica), count)

    def with_draws(position, batch):
        chances = tf.numpy_function(draws, [position], tf.float32)
        return *batch, tf.ensure_shape(chances, (count, augment.width))

    def view(encoded, picture_class, serial):
        seed = tf.constant([recipe.seed, 1], tf.int64)
        seed = tf.random.experimental.stateless_fold_in(seed, serial)
        pixels = random_view(encoded, geometry, seed, given.crop, given.smallest_area)
        return tf.cast(tf.round(pixels), tf.uint8), picture_class

    batches = records.map(view, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
    batches = batches.batch(count, drop_remainder=True).enumerate()
    return batches.map(with_draws).prefetch(tf.data.AUTOTUNE)


def _test_batches(records, recipe) -> tf.data.Dataset:
    geometry = _geometry(recipe, recipe.data.test_size)

    def view(encoded, picture_class, weight):
        pixels = tf.cast(resize_and_crop(decode(encoded), geometry), tf.uint8)
        return pixels, picture_class, tf.cast(weight, tf.float32)

    batches = records.map(view, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
    return batches.batch(recipe.evaluation.batch_size, drop_remainder=True).prefetch(2)


def _geometry(recipe, size: int) -> nf_zoo.Preprocessing:
    return nf_zoo.Preprocessing(input_size=size, crop_fraction=recipe.data.crop_fraction)
