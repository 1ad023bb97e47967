"""Trains the 14-layer NF-ResNet (or its BatchNorm twin) on CIFAR-10, on a CPU.

    TF_ENABLE_ONEDNN_OPTS=1 python -m training.cifar10 --data=cifar10-jpeg.tar.xz \\
        --output=runs/cifar10

``--data`` is a folder, or a tar archive of one, that holds train/CLASS/*.jpg and
test/CLASS/*.jpg. The output folder receives model/ (model.safetensors in float16, config.json),
metrics.json, history.csv and last.weights.h5. The epochs' rows in history.csv are for the raw
weights; the accuracy in metrics.json is measured at the end, on the 10,000 test pictures, from
the saved file.
"""

from __future__ import annotations

import csv
import json
import math
import tarfile
import time
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf
from absl import app, flags, logging
from PIL import Image

import nf_zoo
from nf_zoo.models.classifier import build_model

FLAGS = flags.FLAGS
flags.DEFINE_string("data", None, "Folder or tar archive with train/CLASS and test/CLASS.")
flags.DEFINE_string("output", None, "Folder to write.")
flags.DEFINE_string("architecture", "nf_resnet14", "Any architecture for 32-pixel pictures.")
flags.DEFINE_string("fields", "{}", "JSON: fields of the architecture's configuration to change.")
flags.DEFINE_integer("epochs", 24, "Passes over the training pictures.")
flags.DEFINE_integer("batch_size", 64, "Pictures per step.")
flags.DEFINE_float("learning_rate", 2e-3, "Peak, reached after the warm-up.")
flags.DEFINE_float("warmup_epochs", 1.0, "Linear warm-up, in epochs.")
flags.DEFINE_float("weight_decay", 0.05, "Decoupled, times the learning rate; kernels only.")
flags.DEFINE_float("label_smoothing", 0.05, "Share of the target spread over all classes.")
flags.DEFINE_float("erasing", 0.5, "Share of the pictures of which a rectangle is grayed out.")
flags.DEFINE_float("clipnorm", 5.0, "Largest norm of the whole gradient.")
flags.DEFINE_float("ema", 0.998, "Momentum of the averaged weights, which are what is kept.")
flags.DEFINE_integer("seed", 0, "Seed of initialization, order and augmentation.")
flags.DEFINE_integer("limit", None, "Use this many training pictures only (for a rehearsal).")

MEAN = (0.4914, 0.4822, 0.4465)
STD = (0.2470, 0.2435, 0.2616)


def read_pictures(source: Path, split: str) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Pictures (N, 32, 32, 3) uint8, labels (N,) and class names of one split."""
    pictures: dict[tuple[str, str], np.ndarray] = {}
    if source.is_dir():
        for path in source.glob(f"{split}/*/*.jpg"):
            pictures[path.parent.name, path.name] = np.asarray(Image.open(path).convert("RGB"))
    else:
        with tarfile.open(source) as archive:
            for member in archive:
                parts = Path(member.name).parts
                if member.isfile() and len(parts) >= 3 and parts[-3] == split:
                    picture = Image.open(archive.extractfile(member)).convert("RGB")
                    pictures[parts[-2:]] = np.asarray(picture)
    if not pictures:
        raise app.UsageError(f"No {split}/CLASS/*.jpg found. Received: --data={source}")
    names = sorted({name for name, _ in pictures})
    keys = sorted(pictures)
    labels = np.array([names.index(name) for name, _ in keys], "int32")
    return np.stack([pictures[key] for key in keys]), labels, names


def training_batches(pictures, labels, classes: int, normalize) -> tf.data.Dataset:
    """Shuffled, translated by up to 4 pixels, flipped, partly erased, normalized, one-hot."""
    augment = keras.Sequential(
        [
            keras.layers.RandomTranslation(
                0.125, 0.125, "constant", interpolation="nearest", seed=FLAGS.seed
            ),
            keras.layers.RandomFlip("horizontal", seed=FLAGS.seed + 1),
            keras.layers.RandomErasing(
                FLAGS.erasing, scale=(0.02, 0.2), fill_value=127.0, seed=FLAGS.seed + 2
            ),
        ]
    )

    def prepare(batch, label):
        batch = augment(tf.cast(batch, tf.float32), training=True)
        return normalize(batch), tf.one_hot(label, classes)

    data = tf.data.Dataset.from_tensor_slices((pictures, labels))
    data = data.shuffle(len(labels), seed=FLAGS.seed).batch(FLAGS.batch_size, drop_remainder=True)
    return data.map(prepare, num_parallel_calls=1).prefetch(2)


def make_optimizer(model, steps: int):
    warmup = int(FLAGS.warmup_epochs * steps / FLAGS.epochs)
    schedule = keras.optimizers.schedules.CosineDecay(
        0.0, steps - warmup, warmup_target=FLAGS.learning_rate, warmup_steps=warmup
    )
    optimizer = keras.optimizers.AdamW(
        schedule,
        beta_2=0.99,
        weight_decay=FLAGS.weight_decay,
        global_clipnorm=FLAGS.clipnorm,
        use_ema=FLAGS.ema > 0,
        ema_momentum=FLAGS.ema or 0.99,
    )
    plain = [v for v in model.trainable_variables if not v.path.endswith("kernel")]
    optimizer.exclude_from_weight_decay(var_list=plain)
    return optimizer


def train(model, data, steps_per_epoch: int, test, output: Path) -> None:
    optimizer = make_optimizer(model, steps_per_epoch * FLAGS.epochs)
    smoothing = FLAGS.label_smoothing
    model.compile(
        optimizer,
        keras.losses.CategoricalCrossentropy(from_logits=True, label_smoothing=smoothing),
        metrics=["accuracy"],
    )
    rows = []
    started = time.time()

    def log(epoch, logs):
        model.save_weights(output / "last.weights.h5")
        row = {"epoch": epoch + 1, "seconds": round(time.time() - started, 1)}
        rows.append({**row, **{key: round(float(value), 5) for key, value in logs.items()}})
        logging.info("%s", rows[-1])
        with (output / "history.csv").open("w", newline="") as file:
            writer = csv.DictWriter(file, rows[0].keys())
            writer.writeheader()
            writer.writerows(rows)

    model.fit(
        data,
        epochs=FLAGS.epochs,
        validation_data=test,
        callbacks=[
            keras.callbacks.LambdaCallback(on_epoch_end=log),
            keras.callbacks.TerminateOnNaN(),
        ],
        verbose=0,
    )
    if FLAGS.ema:
        optimizer.finalize_variable_values(model.trainable_variables)


def main(argv) -> None:
    del argv
    keras.utils.set_random_seed(FLAGS.seed)
    source, output = Path(FLAGS.data), Path(FLAGS.output)
    output.mkdir(parents=True, exist_ok=True)
    pictures, labels, names = read_pictures(source, "train")
    test_pictures, test_labels, _ = read_pictures(source, "test")
    if FLAGS.limit:
        chosen = np.random.default_rng(FLAGS.seed).permutation(len(labels))[: FLAGS.limit]
        pictures, labels = pictures[chosen], labels[chosen]
    preprocessing = nf_zoo.Preprocessing(input_size=(32, 32), crop_fraction=1.0, mean=MEAN, std=STD)
    model = build_model(
        FLAGS.architecture, labels=names, preprocessing=preprocessing, **json.loads(FLAGS.fields)
    )

    def normalize(batch):
        return (tf.cast(batch, tf.float32) / 255.0 - MEAN) / STD

    data = training_batches(pictures, labels, len(names), normalize)
    one_hot = np.eye(len(names), dtype="float32")[test_labels]
    test = tf.data.Dataset.from_tensor_slices((normalize(test_pictures), one_hot)).batch(500)
    steps = math.floor(len(labels) / FLAGS.batch_size)
    started = time.time()
    train(model, data, steps, test, output)
    nf_zoo.save_pretrained(model, output / "model", dtype="float16", overwrite=True)
    saved = nf_zoo.load_pretrained(output / "model")
    logits = saved.predict(normalize(test_pictures), batch_size=500, verbose=0)
    metrics = {
        "top1": round(100 * float(np.mean(logits.argmax(-1) == test_labels)), 2),
        "test_pictures": len(test_labels),
        "training_pictures": len(labels),
        "seconds": round(time.time() - started),
        "flags": {
            flag.name: flag.value
            for flag in FLAGS.get_key_flags_for_module(__file__)
            if flag.name not in ("data", "output")
        },
    }
    logging.info("%s", metrics)
    (output / "metrics.json").write_text(json.dumps(metrics, indent=2) + "\n")


if __name__ == "__main__":
    flags.mark_flags_as_required(["data", "output"])
    app.run(main)
