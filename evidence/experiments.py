"""Experiments that compare trainings on CIFAR-10 shrunk to 16 pixels, with one table each.

Each experiment is a function of a :class:`Setting` that yields tasks. A task measures some rows,
one run after the other; tasks do not depend on each other and may go to different processes.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from evidence.table import Table, accuracy
from training import recipe as recipes

RECIPE = Path(__file__).parents[1] / "training" / "configs" / "wide_resnet_cifar10.py"
TRAINS = 15.0
"""Smallest accuracy in percent, of ten classes, with which a run counts as trained."""

SCHEMES: dict[str, dict] = {
    **{scheme: {"scheme": scheme} for scheme in ("bn", "nf", "skipinit")},
    "nf, gains from 1": {"scheme": "nf", "zero_init_gain": False},
    **{scheme: {"scheme": scheme} for scheme in ("skipinit_1/sqrt(d)", "divide_sqrt2", "none")},
}
"""Name -> fields of the Wide ResNet."""

Task = Callable[[], None]


@dataclasses.dataclass(frozen=True)
class Setting:
    """Settings that all runs of a call share.

    Attributes:
        pictures: .npz file of training.prepare, with 16 x 16 pixels.
        output: folder of the tables.
        seeds: number of runs of every cell.
        scale: factor on the number of pictures that a run sees.
    """

    pictures: str
    output: Path
    seeds: int = 3
    scale: float = 1.0

    def recipe(self, network: str, seen: int, batch_size: int, rate: float, **model):
        """Return the 2020 paper's recipe for Wide ResNet ``"n-k"`` and ``seen`` pictures.

        The rate falls along a cosine from ``rate`` without a warm-up.
        """
        recipe = recipes.load(f"{RECIPE}:{network},two_cores")
        recipe.model.fields = json.dumps(model)
        recipe.data.source = f"arrays:{self.pictures}"
        recipe.data.input_size = recipe.data.test_size = 16
        recipe.batch_size = batch_size
        recipe.steps = math.ceil(seen * self.scale / batch_size)
        recipe.optimizer.learning_rate = rate
        recipe.schedule.warmup_epochs = 0.0
        recipe.evaluation.every_epochs = 1e6
        recipe.run.log_every = 200
        recipe.run.checkpoint_minutes = 1e6
        return recipe


def learning_rate(setting: Setting) -> Iterator[Task]:
    """Find the best and largest stable rates by batch size and scheme (2020, section 4)."""
    schemes = ("bn", "nf", "skipinit", "none")
    return by_rate(setting, "learning_rate", schemes, (128, 512, 16, 8, 1024), seen=25600)


def learning_rate_open(setting: Setting) -> Iterator[Task]:
    """Find these rates over three passes, with the gains of ``nf`` from 0 and from 1."""
    schemes = ("bn", "nf, gains from 1", "nf", "skipinit")
    return by_rate(setting, "learning_rate_open", schemes, (128, 512), seen=150000)


def by_rate(
    setting: Setting, name: str, schemes: Sequence[str], batch_sizes: Sequence[int], seen: int
) -> Iterator[Task]:
    """Yield a task, which searches the rate, for each batch size and scheme of Wide ResNet 10-1.

    Args:
        setting: settings that all runs share.
        name: name of the CSV file.
        schemes: names in ``SCHEMES``.
        batch_sizes: batch sizes.
        seen: number of pictures that a run sees.
    """
    table = Table(setting.output / f"{name}.csv", ("scheme", "batch_size", "learning_rate"))
    for batch_size, scheme in itertools.product(batch_sizes, schemes):

        def task(scheme=scheme, batch_size=batch_size):
            def run(rate: float, seed: int = 0) -> float:
                recipe = setting.recipe("10-1", seen, batch_size, rate, **SCHEMES[scheme])
                recipe.seed = seed
                key = {"scheme": scheme, "batch_size": batch_size, "learning_rate": rate}
                return accuracy(table.measure(key, recipe))

            best = search(run, start=0.1 * batch_size / 64)
            for seed in range(1, setting.seeds):
                run(best, seed)

        yield task


def search(run: Callable[[float], float], start: float, largest: float = 51.2) -> float:
    """Return the best rate of start x 2^k: up until runs fail, down to two below the best.

    Args:
        run: learning rate -> accuracy in percent; 0 if it diverged.
        start: first learning rate.
        largest: largest rate to try.
    """
    found = {start: run(start)}
    rate = start
    while found[rate] >= TRAINS and rate * 2 <= largest:
        rate *= 2
        found[rate] = run(rate)
    rate = start
    # One worse rate proves nothing if two seeds differ as much as two rates.
    while max(found, key=found.get) in sorted(found)[:2] or max(found.values()) < TRAINS:
        rate /= 2
        if rate < start / 2**8:
            break
        found[rate] = run(rate)
    return max(found, key=found.get)


def small_batches(setting: Setting) -> Iterator[Task]:
    """Compare batches of 2 to 128, the rate in proportion (2021, section 5: 4 against 1024)."""
    starts = {"bn": (SCHEMES["bn"], 0.0), "nf": (SCHEMES["nf"], 0.0)}
    return by_batch_size(setting, "small_batches", starts, seen=12800, rate=0.1 / 64)


def small_batches_open(setting: Setting) -> Iterator[Task]:
    """Compare the same batches over two passes, with the gains of ``nf`` from 1."""
    opened = SCHEMES["nf, gains from 1"]
    starts = {
        "bn": (SCHEMES["bn"], 0.0),
        "nf, gains from 1": (opened, 0.0),
        "nf, gains from 1, clipped": (opened, 0.1),
    }
    return by_batch_size(setting, "small_batches_open", starts, seen=100000, rate=0.2 / 128)


def by_batch_size(
    setting: Setting, name: str, starts: dict, seen: int, rate: float
) -> Iterator[Task]:
    """Yield a task for each batch size and start of Wide ResNet 10-1.

    Args:
        setting: settings that all runs share.
        name: name of the CSV file.
        starts: name -> fields of the Wide ResNet, and where its gradients are clipped; 0: nowhere.
        seen: number of pictures that a run sees.
        rate: learning rate for each picture of a batch.
    """
    table = Table(setting.output / f"{name}.csv", ("scheme", "batch_size"))
    for batch_size, start in itertools.product((128, 32, 8, 4, 2), starts):

        def task(start=start, batch_size=batch_size):
            fields, clipping = starts[start]
            for seed in range(setting.seeds):
                recipe = setting.recipe("10-1", seen, batch_size, rate * batch_size, **fields)
                recipe.optimizer.agc = clipping
                recipe.seed = seed
                table.measure({"scheme": start, "batch_size": batch_size}, recipe)

        yield task


def depth(setting: Setting) -> Iterator[Task]:
    """Compare depths under one recipe (2020, table 1), from 400 layers on with one seed."""
    table = Table(setting.output / "depth.csv", ("layers", "scheme"))
    for layers in (16, 40, 100, 400, 1000):
        seeds = setting.seeds if layers < 400 else 1
        for scheme, fields in SCHEMES.items():

            def task(scheme=scheme, fields=fields, layers=layers, seeds=seeds):
                for seed in range(seeds):
                    recipe = setting.recipe("16-1", 12800, 32, 0.05, **fields)
                    recipe.model.architecture = f"wide_resnet{layers}_1"
                    recipe.seed = seed
                    table.measure({"layers": layers, "scheme": scheme}, recipe)

            yield task


def of_variants(setting: Setting, name: str, variants: dict, make: Callable) -> Iterator[Task]:
    """Yield a task for each variant of a recipe.

    Args:
        setting: settings that all runs share.
        name: name of the CSV file.
        variants: name -> (argument of ``make``, fields of the recipe).
        make: function that returns the recipe, which the fields then change.
    """
    table = Table(setting.output / f"{name}.csv", ("variant",))
    for variant, (network, changes) in variants.items():

        def task(variant=variant, network=network, changes=changes):
            for seed in range(setting.seeds):
                recipe = make(network)
                recipe.update_from_flattened_dict(changes)
                recipe.seed = seed
                table.measure({"variant": variant}, recipe)

        yield task


WIDE_RESNET_16_1 = {
    **{"depths": [2, 2, 2], "widths": [16, 32, 64], "stem_width": 16, "stem": "3x3"},
    **{"block": "basic", "shortcut": "strided", "alpha": 0.2, "zero_init_gain": True},
}
"""Fields that make nf_resnet14 the Wide ResNet 16-1 of scheme "nf"."""

ABLATIONS: dict[str, tuple[dict, dict]] = {
    "the whole recipe": ({}, {}),
    "without gamma": ({"gamma_in": None}, {}),
    "without standardization": ({"standardize": False}, {}),
    "without alpha and beta": ({"alpha": 1.0, "rescale": False}, {}),
    "gains from 1": ({"zero_init_gain": False}, {}),
    "alpha 1, gains from 1": ({"alpha": 1.0, "zero_init_gain": False}, {}),
    "with stochastic depth 0.1": ({}, {"regularization.stochastic_depth": 0.1}),
    "with adaptive gradient clipping": ({}, {"optimizer.agc": 0.02}),
}
"""Name -> (fields of the network, fields of the recipe)."""


def ablation(setting: Setting) -> Iterator[Task]:
    """Measure the effect of each part of the 2021 recipe."""

    def make(fields):
        recipe = setting.recipe("16-1", 25600, 64, 0.1, **{**WIDE_RESNET_16_1, **fields})
        recipe.model.architecture = "nf_resnet14"
        return recipe

    return of_variants(setting, "ablation", ABLATIONS, make)


OPEN = json.dumps(SCHEMES["nf, gains from 1"])
FIVE_EPOCHS: dict[str, tuple[str, dict]] = {
    "BatchNorm, rate 0.1": ("bn", {}),
    "BatchNorm, rate 0.2": ("bn", {"optimizer.learning_rate": 0.2}),
    "normalizer-free, rate 0.1": ("nf", {}),
    "gains from 1, rate 0.1": ("nf", {"model.fields": OPEN}),
    "gains from 1, rate 0.2, clipping at 0.1": (
        "nf",
        {"model.fields": OPEN, "optimizer.learning_rate": 0.2, "optimizer.agc": 0.1},
    ),
}
"""Name -> (scheme, fields of the recipe)."""


def five_epochs(setting: Setting) -> Iterator[Task]:
    """Compare recipes for a few passes over all pictures with BatchNorm's."""

    def make(scheme):
        recipe = setting.recipe("16-1", 250000, 128, 0.1, scheme=scheme)
        recipe.schedule.warmup_epochs = 0.5
        return recipe

    return of_variants(setting, "five_epochs", FIVE_EPOCHS, make)


SMALL_DATA: dict[str, tuple[str, dict]] = {
    "BatchNorm, rate 0.8": ("bn", {}),
    "normalizer-free, rate 0.8": ("nf", {}),
    "with warm-up": ("nf", {"schedule.warmup_epochs": 2.0}),
    "with clipping": ("nf", {"optimizer.agc": 0.02}),
    "with both": ("nf", {"schedule.warmup_epochs": 2.0, "optimizer.agc": 0.02}),
    "rate 0.1 instead": ("nf", {"optimizer.learning_rate": 0.1}),
    "rate 0.1, with clipping": ("nf", {"optimizer.learning_rate": 0.1, "optimizer.agc": 0.02}),
    "rate 0.1, gains from 1": (
        "nf",
        {"optimizer.learning_rate": 0.1, "model.fields": OPEN},
    ),
}
"""Name -> (scheme, fields of the recipe)."""


def small_data(setting: Setting) -> Iterator[Task]:
    """Compare ways to keep a recipe for BatchNorm stable on 500 pictures per class."""

    def make(scheme):
        recipe = setting.recipe("16-1", 25600, 64, 0.8, scheme=scheme)
        recipe.data.train_per_class = 500
        return recipe

    return of_variants(setting, "small_data", SMALL_DATA, make)


EXPERIMENTS: dict[str, Callable[[Setting], Iterator[Task]]] = {
    "learning_rate": learning_rate,
    "learning_rate_open": learning_rate_open,
    "small_batches": small_batches,
    "small_batches_open": small_batches_open,
    "depth": depth,
    "ablation": ablation,
    "small_data": small_data,
    "five_epochs": five_epochs,
}
