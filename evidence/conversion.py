"""Networks with BatchNormalization against their conversions by ``nf_zoo.conversion``.

Signal propagation at the start, training from scratch by batch size, and fine-tuning.
"""

from __future__ import annotations

import functools
import itertools
import math
import time
from collections.abc import Callable, Iterator

import numpy as np

from evidence.experiments import Setting, Task
from evidence.small_batch_finetuning import SETS, Variant, at_the_better_rate, compare, drawn
from evidence.table import Table, measured
from training import provenance
from training.data.arrays import ArrayPictures, read_arrays

BATCH_NORM, UNNORMALIZED, NORMALIZER_FREE = "BatchNorm", "unnormalized", "normalizer-free"
FORMS = (BATCH_NORM, UNNORMALIZED, NORMALIZER_FREE)

NOISE = 16
"""Pictures of noise that a signal is measured on."""

SIGNAL = ("seed", "name", "variance", "predicted", "commit", "device", "recipe")


def conversion_signals(setting: Setting) -> Iterator[Task]:
    """Measure the variance of every block: with BatchNorm, without, and normalizer-free."""
    from evidence.conversion_networks import SIGNALS

    path = setting.output / "conversion_signals.csv"
    table = Table(path, ("network", "form", "block"), measured=SIGNAL)
    for seed, network in itertools.product(range(setting.seeds), SIGNALS):

        def task(seed=seed, network=network):
            if not table.find({"network": network, "form": NORMALIZER_FREE, "block": 1}, seed):
                rows = _signals(SIGNALS[network], seed)
                table.add_together([{"network": network, "seed": seed, **row} for row in rows])

        yield task


def _signals(make: Callable, seed: int) -> Iterator[dict]:
    """Yield the rows of a network's blocks in every form.

    At the start the moving statistics are 0 and 1: without those of the batch, BatchNorm does
    nothing, as if it were removed.
    """
    import keras

    import nf_zoo

    keras.backend.clear_session()
    keras.utils.set_random_seed(seed)
    model = make()
    origin = {
        **{"commit": provenance.commit(), "device": provenance.device()},
        "recipe": f"fresh weights, {NOISE} pictures of noise of {model.input_shape[1]} pixels",
    }
    for form, network, options in (
        (BATCH_NORM, model, {"batch_statistics": True}),
        (UNNORMALIZED, model, {"batch_statistics": False}),
        (NORMALIZER_FREE, nf_zoo.normalizer_free(model), {}),
    ):
        # Not the noise that the conversion measures on.
        found = nf_zoo.signal_propagation(network, batch_size=NOISE, seed=seed + 100, **options)
        for number, block in enumerate(found, start=1):
            predicted = block.predicted_variance
            yield {
                **{"form": form, "block": number, "name": block.name},
                "variance": f"{block.variance:.4g}",
                "predicted": "" if predicted is None else f"{predicted:.4g}",
                **origin,
            }


TRAINED, VALIDATED = 500, 100
"""Pictures of a class that a run sees once, and those that choose its rate."""

AVERAGED = 320
"""Pictures over which BatchNorm's moving statistics average, at every batch size.

With Keras's default they would average over more batches of 32 than a run has in all.
"""

TRAINED_FORMS = (BATCH_NORM, NORMALIZER_FREE)
BATCH_SIZES = (2, 32, 4)
"""In the order of the runs."""

RATES = (0.03 / 64, 0.1 / 64)
"""Learning rates for each picture of a batch."""


def conversion_training(setting: Setting) -> Iterator[Task]:
    """Train small networks from scratch at batches of 2 to 32, each cell at the better rate."""
    from evidence.conversion_networks import TRAINED as NETWORKS

    path = setting.output / "conversion_training.csv"
    keys = ("network", "form", "batch_size", "learning_rate")
    table = Table(path, keys, also=("validation",))
    for seed, batch_size, network, form in itertools.product(
        range(setting.seeds), BATCH_SIZES, NETWORKS, TRAINED_FORMS
    ):
        cell = {"network": network, "form": form, "batch_size": batch_size}

        def task(cell=cell, seed=seed):
            rates = [f"{rate * cell['batch_size']:.4g}" for rate in RATES]
            make = NETWORKS[cell["network"]]
            at_the_better_rate(table, cell, rates, seed, lambda *run: _train(setting, make, *run))

        yield task


def _train(setting: Setting, make: Callable, key: dict, seed: int) -> dict:
    """Train a network for one pass over its pictures; return the measured columns."""
    import keras

    import nf_zoo
    from nf_zoo.finetuning.phases import learning_rate_schedule

    keras.backend.clear_session()
    keras.utils.set_random_seed(seed)
    start, batch_size, found = time.monotonic(), key["batch_size"], {}
    pictures = _pictures(setting.pictures)
    trained = max(round(TRAINED * setting.scale), 1)
    train, validation = drawn(pictures, seed, trained, VALIDATED)
    images, *others = _standardized(train[0], validation[0], pictures.test[0])
    model = make(images.shape[1])
    for layer in model.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.momentum = 1 - batch_size / AVERAGED
    if key["form"] == NORMALIZER_FREE:
        model = nf_zoo.normalizer_free(model, images=images)
    schedule = learning_rate_schedule(float(key["learning_rate"]), len(images) // batch_size)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(
        keras.optimizers.SGD(schedule, momentum=0.9),
        loss,
        metrics=["accuracy"],
        jit_compile=False,
    )
    history = model.fit(
        images,
        train[1],
        batch_size,
        verbose=0,
        callbacks=[keras.callbacks.TerminateOnNaN()],
    )
    if math.isfinite(history.history["loss"][-1]):
        (_, validated), (loss, top1) = (
            model.evaluate(x, classes, batch_size=250, verbose=0)
            for x, classes in zip(others, (validation[1], pictures.test[1]), strict=True)
        )
        found = {"top1": top1, "loss": loss, "validation": f"{100 * validated:.2f}"}
    recipe = (
        f"SGD, momentum 0.9, cosine from {key['learning_rate']}, one pass over "
        f"{len(images)} pictures of {images.shape[1]} pixels, batch {batch_size}"
    )
    return measured(seed, start, recipe, **found)


@functools.lru_cache(maxsize=1)
def _pictures(path: str) -> ArrayPictures:
    return read_arrays(path)


def _standardized(train: np.ndarray, *others: np.ndarray) -> list[np.ndarray]:
    """Return the pictures with the mean and deviation of each channel of the first ones removed."""
    mean, deviation = train.mean((0, 1, 2)), train.std((0, 1, 2))
    return [((x - mean) / deviation).astype("float32") for x in (train, *others)]


def without_batch_norm(model):
    """Return a network of the zoo without its BatchNormalization, as ``finetune`` takes one."""
    import nf_zoo
    from nf_zoo.functional import structures_of
    from nf_zoo.models.picture_model import PictureModel

    class Absorbed(PictureModel):
        """The network of ``remove_batch_norm``, with what ``finetune`` asks of a classifier."""

        def with_classifier(self, *args, **options):
            return without_batch_norm(model.with_classifier(*args, **options))

        def options(self):
            return model.options()

    found = Absorbed(*structures_of(nf_zoo.remove_batch_norm(model)), name=model.name)
    for name in (
        *("architecture", "preprocessing", "labels", "weights_tag", "num_classes"),
        *("classifier_activation", "include_preprocessing"),
    ):
        setattr(found, name, getattr(model, name))
    return found


VARIANTS = {"BatchNorm, removed": Variant(1, change=without_batch_norm)}
FINETUNED_AT = (1, 2, 4)
"""Batch sizes."""


def conversion_finetuning(setting: Setting) -> Iterator[Task]:
    """Fine-tune as ``small_batch_finetuning``, which has the other networks, on CIFAR-10 alone."""
    return compare(setting, "conversion_finetuning", list(SETS)[:1], FINETUNED_AT, VARIANTS)


EXPERIMENTS: dict[str, Callable[[Setting], Iterator[Task]]] = {
    "conversion_signals": conversion_signals,
    "conversion_training": conversion_training,
    "conversion_finetuning": conversion_finetuning,
}
WITHOUT_PICTURES = ("conversion_signals",)
