"""Fine-tuning from CIFAR-10 checkpoints against from scratch, on classes of Tiny ImageNet."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator

import keras
import numpy as np
import tensorflow as tf

import nf_zoo
from evidence.experiments import Setting, Task
from evidence.table import Table
from training import provenance
from training.data.arrays import ArrayPictures, read_arrays

CLASSES = 10
PER_CLASS = (10, 50, 200)
EPOCHS = 30
NETWORKS = ("wide_resnet16_1", "wide_resnet16_2", "nf_resnet14")
STARTS = {"checkpoint": "cifar10", "scratch": False}


def transfer(setting: Setting) -> Iterator[Task]:
    """Accuracy on ten classes that the seed draws, by pictures of a class; 50 a class to test."""
    table = Table(setting.output / "transfer.csv", ("network", "per_class", "start"))
    pictures = read_arrays(setting.pictures)
    cells = itertools.product(range(setting.seeds), NETWORKS, PER_CLASS, STARTS)
    for seed, network, per_class, start in cells:

        def task(seed=seed, network=network, per_class=per_class, start=start):
            key = {"network": network, "per_class": per_class, "start": start}
            if not table.find(key, seed):
                chosen = some_classes(pictures, seed).fewer(per_class, seed)
                keras.backend.clear_session()
                keras.utils.set_random_seed(seed)
                model = nf_zoo.create_model(network, pretrained=STARTS[start])
                table.add({**key, **_run(model, chosen, seed, setting.scale)})

        yield task


def some_classes(pictures: ArrayPictures, seed: int) -> ArrayPictures:
    """The pictures of ten classes that the seed draws, numbered anew."""
    count = min(CLASSES, len(pictures.labels))
    chosen = np.sort(np.random.default_rng(seed).choice(len(pictures.labels), count, False))

    def of(images, classes):
        rows = np.isin(classes, chosen)
        return images[rows], np.searchsorted(chosen, classes[rows]).astype("int32")

    labels = [pictures.labels[index] for index in chosen]
    return ArrayPictures(of(*pictures.train), of(*pictures.test), labels)


def _run(model, pictures: ArrayPictures, seed: int, scale: float) -> dict:
    """Fine-tunes and evaluates; the measured columns of the row."""
    start = time.monotonic()
    epochs = max(round(EPOCHS * scale), 2)
    train, test = map(tf.data.Dataset.from_tensor_slices, (pictures.train, pictures.test))
    result = nf_zoo.finetune(
        model,
        train,
        labels=pictures.labels,
        validation_data=test,
        image_size=32,
        epochs=epochs,
        batch_size=32,
        seed=seed,
        verbose=0,
    )
    last = result.history[-1]
    return {
        "seed": seed,
        "outcome": "finished",
        "top1": f"{100 * last['val_accuracy']:.2f}",
        "loss": f"{last['val_loss']:.4f}",
        "seconds": f"{time.monotonic() - start:.0f}",
        "commit": provenance.commit(),
        "device": provenance.device(),
        "recipe": f"nf_zoo.finetune, {epochs} epochs, batch 32, 32 pixels",
    }
