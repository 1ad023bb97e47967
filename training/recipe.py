"""Fields of a recipe, their defaults and their checks.

A recipe is a file in training/configs/ with ``get_config(variants="")``, which changes the
defaults given here. Any field can be overridden from the command line:
``--config.optimizer.learning_rate=0.2``.
"""

from __future__ import annotations

import importlib.util
import json
import math
from pathlib import Path

from ml_collections import ConfigDict

from nf_zoo.pictures.augmentation import FIELDS, Settings


class RecipeError(ValueError):
    """A recipe that cannot be run; the message says why, and what to do."""


def default() -> ConfigDict:
    """Return the fields of a recipe with their defaults. Comments give units and ranges."""
    recipe = ConfigDict()
    recipe.name = ""
    recipe.seed = 0  # of initialization, order and augmentation
    recipe.batch_size = 256  # pictures a step, over all replicas
    recipe.epochs = 90.0  # passes over the training pictures
    recipe.steps = 0  # above 0: length of the run in steps, instead of epochs
    recipe.accumulate = 1  # micro-batches that a replica cuts its share of the batch into
    recipe.ema = 0.0  # momentum of the averaged weights, in [0, 1); 0 for none

    recipe.model = ConfigDict()
    recipe.model.architecture = "nf_resnet50"
    recipe.model.variant = ""  # "paper" for DeepMind's networks
    recipe.model.fields = "{}"  # JSON: fields of the architecture's record to change

    recipe.data = ConfigDict()
    # A folder or tar archive of class folders ("folder:PATH"), TFRecord shards made by
    # training.prepare ("tfrecord:PATH"), or a TensorFlow data set ("tfds:NAME").
    recipe.data.source = ""
    recipe.data.directory = ""  # folder of TensorFlow data sets
    recipe.data.train = "train"
    recipe.data.test = "validation"
    recipe.data.train_per_class = 0  # above 0: pictures of each class, chosen by the seed
    recipe.data.in_memory = False  # decode once and keep; sets of small pictures only
    recipe.data.stored_size = 0  # pixels of pictures in memory; 0: input_size
    recipe.data.input_size = 224  # pixels, in training
    recipe.data.test_size = 224  # pixels, in evaluation
    recipe.data.early_epochs = 0.0  # first epochs, on smaller pictures of early_size
    recipe.data.early_size = 0  # pixels; both 0: input_size from the first step on
    recipe.data.crop_fraction = 0.875  # of the resized picture that evaluation keeps, in (0, 1]
    recipe.data.mean = (0.485, 0.456, 0.406)
    recipe.data.std = (0.229, 0.224, 0.225)
    recipe.data.shuffle_buffer = 16384  # records; for sets that are read as streams

    # Random variations of pictures: the table of nf_zoo.pictures.augmentation.
    recipe.augmentation = ConfigDict({name: field.default for name, field in FIELDS.items()})

    recipe.regularization = ConfigDict()
    recipe.regularization.label_smoothing = 0.0
    recipe.regularization.stochastic_depth = 0.0
    recipe.regularization.dropout = -1.0  # below 0: the architecture's own
    recipe.regularization.weight_decay = 0.0  # of kernels; decoupled, except for sgd

    recipe.optimizer = ConfigDict()
    recipe.optimizer.name = "sgd"  # "sgd", "adamw", "lamb"
    recipe.optimizer.learning_rate = 0.1  # peak
    recipe.optimizer.per_batch = 0  # above 0: the rate is for that batch size, and scales with it
    recipe.optimizer.momentum = 0.9
    recipe.optimizer.nesterov = True
    recipe.optimizer.beta_1 = 0.9
    recipe.optimizer.beta_2 = 0.999
    recipe.optimizer.agc = 0.0  # clipping of adaptive gradient clipping; 0 for none
    recipe.optimizer.agc_eps = 1e-3
    recipe.optimizer.layer_decay = 1.0

    recipe.schedule = ConfigDict()
    recipe.schedule.kind = "cosine"  # "cosine", "step", "constant"
    recipe.schedule.warmup_epochs = 5.0  # "cosine" and "constant"
    recipe.schedule.end = 0.0  # "cosine": the last learning rate
    recipe.schedule.hold = 0.5  # "step": share of the run before the first halving
    recipe.schedule.every_epochs = 10.0  # "step": epochs between halvings

    recipe.evaluation = ConfigDict()
    recipe.evaluation.batch_size = 250
    recipe.evaluation.every_epochs = 1.0

    recipe.run = ConfigDict()  # fields that do not change the result
    recipe.run.log_every = 50  # steps
    recipe.run.checkpoint_minutes = 10.0
    recipe.run.checkpoint_steps = 0  # 0: by time alone
    recipe.run.keep = 3  # checkpoints, beside the best
    recipe.lock()
    return recipe


CHOICES = {
    "optimizer.name": ("sgd", "adamw", "lamb"),
    "schedule.kind": ("cosine", "step", "constant"),
}

RANGES = {  # field -> (least, largest, is the largest excluded)
    "batch_size": (1, math.inf, False),
    "epochs": (0, math.inf, False),
    "steps": (0, math.inf, False),
    "accumulate": (1, math.inf, False),
    "ema": (0, 1, True),
    "data.input_size": (8, 4096, False),
    "data.test_size": (8, 4096, False),
    "data.stored_size": (0, 4096, False),
    "data.early_epochs": (0, math.inf, True),
    "data.crop_fraction": (1e-3, 1, False),
    "data.train_per_class": (0, math.inf, False),
    "data.shuffle_buffer": (1, math.inf, False),
    "regularization.label_smoothing": (0, 1, True),
    "regularization.stochastic_depth": (0, 1, True),
    "regularization.dropout": (-1, 1, True),
    "regularization.weight_decay": (0, math.inf, True),
    "optimizer.learning_rate": (1e-12, math.inf, True),
    "optimizer.agc": (0, math.inf, True),
    "optimizer.layer_decay": (1e-6, 1, False),
    "schedule.warmup_epochs": (0, math.inf, True),
    "schedule.end": (0, math.inf, True),
    "schedule.hold": (0, 1, False),
    "schedule.every_epochs": (0, math.inf, True),
    "evaluation.batch_size": (1, math.inf, False),
    "evaluation.every_epochs": (1e-6, math.inf, False),
    "run.log_every": (1, math.inf, False),
    "run.keep": (1, math.inf, False),
}


def imagenet(architecture: str, batch_size: int, epochs: float) -> ConfigDict:
    """Return the fields that the ImageNet recipes share (DeepMind nfnets ``experiment.py``)."""
    recipe = default()
    recipe.name = f"{architecture}_imagenet"
    recipe.model.architecture = architecture
    recipe.batch_size, recipe.epochs = batch_size, epochs
    recipe.data.source = "tfds:imagenet2012"
    recipe.regularization.label_smoothing = 0.1
    return recipe


def smoke(recipe: ConfigDict) -> ConfigDict:
    """Cut a recipe down to twenty steps for two cores, to see whether it runs at all."""
    recipe.steps, recipe.batch_size = 20, 8
    recipe.optimizer.per_batch = 0
    recipe.optimizer.learning_rate = min(recipe.optimizer.learning_rate, 0.005)
    recipe.data.input_size = recipe.data.test_size = 32
    recipe.evaluation.batch_size, recipe.evaluation.every_epochs = 25, 1e6
    recipe.run.log_every = 5
    return recipe


def load(path: str) -> ConfigDict:
    """Load the recipe of a file, ``FILE.py`` or ``FILE.py:VARIANTS``.

    Raises:
        RecipeError: if there is no such file, or it has no such variant.
    """
    name, _, variants = path.partition(":")
    if not Path(name).is_file():
        near = sorted(Path(__file__).parent.joinpath("configs").glob("[a-z]*.py"))
        raise RecipeError(
            f"There is no such recipe; there are {', '.join(p.name for p in near)} in "
            f"training/configs. Received: {path}"
        )
    spec = importlib.util.spec_from_file_location("recipe_file", name)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.get_config(variants)


def words(variants: str, allowed) -> list[str]:
    """Split ``"nf_resnet101,smoke"`` into words, and check each.

    Raises:
        RecipeError: on a word that is not allowed.
    """
    chosen = [word for word in variants.split(",") if word]
    unknown = [word for word in chosen if word not in allowed]
    if unknown:
        raise RecipeError(
            f"This recipe has the variants {', '.join(allowed)}. Received: {', '.join(unknown)}"
        )
    return chosen


def check(recipe: ConfigDict) -> None:
    """Check that every field is within its range.

    Raises:
        RecipeError: naming the field, its range and its value.
    """
    flat = flatten(recipe)
    for field, choices in CHOICES.items():
        if flat[field] not in choices:
            raise RecipeError(
                f"{field} must be one of {', '.join(choices)}. Received: {flat[field]!r}"
            )
    for field, (least, largest, excluded) in RANGES.items():
        value = flat[field]
        if not (least <= value <= largest) or (excluded and value == largest):
            end = ")" if excluded or math.isinf(largest) else "]"
            raise RecipeError(f"{field} must be in [{least}, {largest}{end}. Received: {value!r}")
    try:
        Settings(**recipe.augmentation.to_dict())
    except ValueError as error:
        raise RecipeError(f"augmentation.{error}") from None
    if recipe.schedule.kind == "step" and recipe.schedule.warmup_epochs:
        raise RecipeError(
            "The schedule 'step' has no warm-up: set schedule.warmup_epochs=0. "
            f"Received: {recipe.schedule.warmup_epochs}"
        )
    early, size = recipe.data.early_epochs, recipe.data.early_size
    if (early or size) and not (early and 8 <= size <= recipe.data.input_size):
        raise RecipeError(
            "To begin on smaller pictures, data.early_epochs must be above 0, and "
            f"data.early_size in [8, data.input_size = {recipe.data.input_size}]. "
            f"Received: {early} and {size}"
        )
    if not recipe.epochs and not recipe.steps:
        raise RecipeError("epochs or steps must be above 0. Received: 0 and 0")
    try:
        fields = json.loads(recipe.model.fields)
    except json.JSONDecodeError as error:
        raise RecipeError(
            f"model.fields must be a JSON object ({error}). Received: {recipe.model.fields!r}"
        ) from error
    if not isinstance(fields, dict):
        raise RecipeError(f"model.fields must be a JSON object. Received: {recipe.model.fields!r}")


def in_memory(recipe: ConfigDict) -> bool:
    """Return True if all pictures are decoded once and kept."""
    kind = recipe.data.source.partition(":")[0]
    return kind == "arrays" or (kind == "folder" and recipe.data.in_memory)


def flatten(recipe: ConfigDict) -> dict:
    """Return ``{"optimizer.momentum": 0.9, ...}``, in the recipe's order."""
    rows = {}
    for key, value in recipe.items():
        if isinstance(value, ConfigDict):
            rows.update({f"{key}.{name}": one for name, one in flatten(value).items()})
        else:
            rows[key] = value
    return rows


def identity(recipe: ConfigDict) -> dict:
    """Return the fields that a run shares with the run whose checkpoint it resumes, JSON-able."""
    rows = {key: value for key, value in flatten(recipe).items() if not key.startswith("run.")}
    return json.loads(json.dumps(rows))
