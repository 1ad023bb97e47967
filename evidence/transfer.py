"""Fine-tuning of the shipped checkpoints against training from scratch, on other pictures."""

from __future__ import annotations

import dataclasses
import itertools
import time
from collections.abc import Callable, Iterator

import keras
import numpy as np
import tensorflow as tf

import nf_zoo
from evidence.experiments import Setting, Task
from evidence.table import Table, measured
from training.data.arrays import ArrayPictures, read_arrays

CLASSES = 10
PER_CLASS = (10, 50, 200)
EPOCHS = 30
STARTS = ("checkpoint", "scratch")


@dataclasses.dataclass(frozen=True)
class Transfer:
    """Experiment that transfers checkpoints to other pictures.

    Attributes:
        table: name of the experiment.
        checkpoints: names ``"architecture.tag"``.
        size: side in pixels of the pictures that the networks see.
        test_per_class: number of test pictures of each class.
    """

    table: str
    checkpoints: tuple[str, ...]
    size: int
    test_per_class: int

    def __call__(self, setting: Setting) -> Iterator[Task]:
        """Measure the accuracy on ten random classes, by the number of pictures per class."""
        table = Table(setting.output / f"{self.table}.csv", ("network", "per_class", "start"))
        pictures = read_arrays(setting.pictures)
        cells = itertools.product(range(setting.seeds), self.checkpoints, PER_CLASS, STARTS)
        for seed, checkpoint, per_class, start in cells:

            def task(seed=seed, checkpoint=checkpoint, per_class=per_class, start=start):
                network = checkpoint.partition(".")[0]
                key = {"network": network, "per_class": per_class, "start": start}
                if not table.find(key, seed):
                    chosen = some_classes(pictures, seed).fewer(per_class, seed)
                    chosen = tested_on(chosen, self.test_per_class)
                    keras.backend.clear_session()
                    keras.utils.set_random_seed(seed)
                    # Without weights, a checkpoint's name still gives the options of its network.
                    model = nf_zoo.create_model(checkpoint, pretrained=start == "checkpoint")
                    table.add({**key, **_run(model, chosen, self.size, seed, setting.scale)})

            yield task


EXPERIMENTS: dict[str, Callable[[Setting], Iterator[Task]]] = {
    # The first transfers to classes of Tiny ImageNet, the second to CIFAR-10.
    one.table: one
    for one in (
        Transfer(
            "transfer",
            ("wide_resnet16_1.cifar10", "wide_resnet16_2.cifar10", "nf_resnet14.cifar10"),
            size=32,
            test_per_class=50,
        ),
        Transfer("transfer_to_cifar10", ("nf_resnet26.tiny_imagenet",), 64, test_per_class=100),
    )
}


def some_classes(pictures: ArrayPictures, seed: int) -> ArrayPictures:
    """Return the pictures of ten classes that the seed draws, with new numbers."""
    count = min(CLASSES, len(pictures.labels))
    chosen = np.sort(np.random.default_rng(seed).choice(len(pictures.labels), count, False))

    def of(images, classes):
        rows = np.isin(classes, chosen)
        return images[rows], np.searchsorted(chosen, classes[rows]).astype("int32")

    labels = [pictures.labels[index] for index in chosen]
    return ArrayPictures(of(*pictures.train), of(*pictures.test), labels)


def tested_on(pictures: ArrayPictures, per_class: int) -> ArrayPictures:
    """Return the pictures with only the first ``per_class`` test pictures of each class."""
    images, classes = pictures.test
    members = [np.flatnonzero(classes == one)[:per_class] for one in range(len(pictures.labels))]
    rows = np.sort(np.concatenate(members))
    return ArrayPictures(pictures.train, (images[rows], classes[rows]), pictures.labels)


def _run(model, pictures: ArrayPictures, size: int, seed: int, scale: float) -> dict:
    """Fine-tune and evaluate; return the measured columns of the row."""
    start = time.monotonic()
    epochs = max(round(EPOCHS * scale), 2)
    train, test = map(tf.data.Dataset.from_tensor_slices, (pictures.train, pictures.test))
    result = nf_zoo.finetune(
        model,
        train,
        labels=pictures.labels,
        validation_data=test,
        image_size=size,
        epochs=epochs,
        batch_size=32,
        seed=seed,
        verbose=0,
    )
    last = result.history[-1]
    recipe = f"nf_zoo.finetune, {epochs} epochs, batch 32, {size} pixels"
    return measured(seed, start, recipe, last["val_accuracy"], last["val_loss"])
