"""Prepare pictures for training: TFRecord shards, or one .npz file of small pictures.

    python -m training.prepare --source=imagenet/ --splits=train,validation --output=shards/
    python -m training.prepare --source=cifar10-jpeg.tar.xz --splits=train,test --size=32 \\
        --output=cifar10.npz

``--source`` holds SPLIT/CLASS/picture. The pictures of a shard are in random order. The manifest,
dataset.json, is written last; a set without it is not used.
"""

import json
import sys
from pathlib import Path

import numpy as np
from absl import app, flags, logging

from nf_zoo import atomic
from training.recipe import RecipeError

FLAGS = flags.FLAGS
flags.DEFINE_string("source", None, "Folder; for .npz also a tar archive, or several (*).")
flags.DEFINE_string("output", None, "Folder to write the shards to, or a file ending in .npz.")
flags.DEFINE_list("splits", ["train", "validation"], "The training and the test split.")
flags.DEFINE_integer("size", 32, "Side of the pictures of an .npz file, in pixels.")
flags.DEFINE_integer("shards", 64, "Number of files that each split is cut into.")


def write_arrays(source: str, output: Path, splits: list[str], size: int) -> None:
    """Decode all pictures into one .npz file; see :mod:`training.data.arrays`."""
    from training.data.arrays import KEYS, read_pictures

    pictures = read_pictures(source, *splits, size)
    values = (*pictures.train, *pictures.test, np.array(pictures.labels))
    with atomic.replacing(output) as written:
        np.savez(written, **dict(zip(KEYS, values, strict=True)))


def write_shards(source: str, output: Path, splits: list[str], shards: int) -> None:
    """Copy the encoded pictures into TFRecord files, and then write the manifest."""
    import tensorflow as tf

    from nf_zoo.pictures.class_folders import FolderError, scan
    from training.data.streams import MANIFEST

    if (output / MANIFEST).exists():
        raise RecipeError(
            "The output folder holds a prepared set already; choose another. "
            f"Received: --output={output}"
        )
    output.mkdir(parents=True, exist_ok=True)
    manifest: dict = {"labels": None, "splits": {}}
    for split in splits:
        try:
            folder = scan(Path(source) / split, manifest["labels"])
        except (FolderError, OSError) as error:
            raise RecipeError(str(error)) from error
        manifest["labels"] = folder.labels
        order = np.random.default_rng(0).permutation(len(folder.files))
        counts = manifest["splits"][split] = {}
        for number, members in enumerate(np.array_split(order, min(shards, len(order)))):
            name = f"{split}-{number:05d}.tfrecord"
            with tf.io.TFRecordWriter(str(output / name)) as writer:
                for index in members:
                    encoded = (folder.root / folder.files[index]).read_bytes()
                    writer.write(_record(tf, encoded, int(folder.classes[index])))
            counts[name] = len(members)
            logging.info("%s: %d pictures", name, len(members))
    atomic.write_text(output / MANIFEST, json.dumps(manifest))


def _record(tf, encoded: bytes, picture_class: int) -> bytes:
    features = {
        "image": tf.train.Feature(bytes_list=tf.train.BytesList(value=[encoded])),
        "class": tf.train.Feature(int64_list=tf.train.Int64List(value=[picture_class])),
    }
    return tf.train.Example(features=tf.train.Features(feature=features)).SerializeToString()


def main(argv) -> int:
    del argv
    logging.set_verbosity(logging.INFO)
    output = Path(FLAGS.output)
    try:
        if len(FLAGS.splits) != 2:
            raise RecipeError(f"--splits takes two names. Received: {','.join(FLAGS.splits)}")
        if output.suffix == ".npz":
            write_arrays(FLAGS.source, output, FLAGS.splits, FLAGS.size)
        else:
            write_shards(FLAGS.source, output, FLAGS.splits, FLAGS.shards)
    except (RecipeError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    flags.mark_flags_as_required(["source", "output"])
    app.run(main)
