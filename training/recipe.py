"""Fields of a recipe, their defaults and their checks.

A recipe is a file in training/configs/ with ``get_config(variants="")``, which changes the
defaults given here. Any field can be overridden from the command line:
``--config.optimizer.learning_rate=0.2``.
"""

import importlib.util
import json
import math
from pathlib import Path

from ml_collections import ConfigDict

from nf_zoo.pictures import augmentation


class RecipeError(ValueError):
    """A recipe that cannot be run; the message says why, and what to do."""


INFINITE = math.inf

FIELDS: dict = {  # default; (default, choices); (default, least, largest, or [what is too large])
    "name": "",
    "seed": (0, 0, 2**31 - 1),  # of initialization, order and augmentation
    "batch_size": (256, 1, INFINITE),  # pictures a step, over all replicas
    "epochs": (90.0, 0, INFINITE),  # passes over the training pictures
    "steps": (0, 0, INFINITE),  # above 0: so many steps, whatever epochs says
    "accumulate": (1, 1, INFINITE),  # micro-batches that a replica cuts its share of the batch into
    "ema": (0.0, 0, [1]),  # momentum of the averaged weights; 0 for none
    "model.architecture": "nf_resnet50",
    "model.variant": "",  # "paper" for DeepMind's
    # Weights to begin with: the tag of a checkpoint, "hf://owner/name", or the path of a folder,
    # such as the model/ of an earlier run; "" for fresh ones.
    "model.weights": "",
    "model.fields": "{}",  # JSON: fields of the architecture's record to change
    # A folder or tar archive of class folders ("folder:PATH"), TFRecord shards made by
    # training.prepare ("tfrecord:PATH"), or a TensorFlow data set ("tfds:NAME").
    "data.source": "",
    "data.directory": "",  # where TensorFlow data sets lie
    "data.train": "train",
    "data.test": "validation",
    "data.train_per_class": (0, 0, INFINITE),  # above 0: so many of each class, drawn by the seed
    "data.in_memory": False,  # decode once and keep; sets of small pictures only
    "data.stored_size": (0, 0, 4096),  # pixels of those in memory; 0: input_size
    "data.input_size": (224, 8, 4096),  # pixels, in training
    "data.test_size": (224, 8, 4096),  # pixels, in evaluation
    "data.early_epochs": (0.0, 0, [INFINITE]),  # begun on smaller pictures, of early_size
    "data.early_size": 0,  # pixels; both 0: input_size from the first step on
    # Share of the resized picture that evaluation keeps; of pictures in memory, always all.
    "data.crop_fraction": (0.875, 1e-3, 1),
    "data.mean": (0.485, 0.456, 0.406),
    "data.std": (0.229, 0.224, 0.225),
    "data.shuffle_buffer": (16384, 1, INFINITE),  # records; for sets that are read as streams
    # What may be done to pictures, and how much: the table of nf_zoo.pictures.augmentation.
    **{f"augmentation.{name}": field.default for name, field in augmentation.FIELDS.items()},
    "regularization.label_smoothing": (0.0, 0, [1]),
    "regularization.stochastic_depth": (0.0, 0, [1]),
    "regularization.dropout": (-1.0, -1, [1]),  # below 0: the architecture's own
    "regularization.weight_decay": (0.0, 0, [INFINITE]),  # of kernels; decoupled, but for sgd
    "optimizer.name": ("sgd", ("sgd", "adamw", "lamb")),
    "optimizer.learning_rate": (0.1, 1e-12, [INFINITE]),  # peak
    "optimizer.per_batch": 0,  # above 0: the rate is for that batch size, and scales with it
    "optimizer.momentum": 0.9,
    "optimizer.nesterov": True,
    "optimizer.beta_1": 0.9,
    "optimizer.beta_2": 0.999,
    "optimizer.agc": (0.0, 0, [INFINITE]),  # clipping of adaptive gradient clipping; 0 for none
    "optimizer.agc_eps": 1e-3,
    "optimizer.layer_decay": (1.0, 1e-6, 1),
    "schedule.kind": ("cosine", ("cosine", "step", "constant")),
    "schedule.warmup_epochs": (5.0, 0, [INFINITE]),  # not of "step"
    "schedule.end": (0.0, 0, [INFINITE]),  # the last learning rate, of "cosine"
    "schedule.hold": (0.5, 0, 1),  # share of the run before the first halving, of "step"
    "schedule.every_epochs": (10.0, 0, [INFINITE]),  # between halvings, of "step"
    "evaluation.batch_size": (250, 1, INFINITE),
    "evaluation.every_epochs": (1.0, 1e-6, INFINITE),
    # What does not change the result.
    "run.log_every": (50, 1, INFINITE),  # steps
    "run.checkpoint_minutes": 10.0,
    "run.checkpoint_steps": 0,  # 0: by time alone
    "run.keep": (3, 1, INFINITE),  # checkpoints, beside the best
}
PLAIN = ("data.mean", "data.std")
"""Fields whose default is a tuple."""


def default() -> ConfigDict:
    """Return the fields of a recipe with their defaults; FIELDS says units and ranges."""
    nested: dict = {}
    for key, row in FIELDS.items():
        group, _, name = key.rpartition(".")
        owner = nested.setdefault(group, {}) if group else nested
        owner[name] = row[0] if isinstance(row, tuple) and key not in PLAIN else row
    return ConfigDict(nested).lock()


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
    """Load the recipe of a file, ``FILE.py`` or ``FILE.py:VARIANTS``."""
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
    """Split ``"nf_resnet101,smoke"`` into words, and check each."""
    chosen = [word for word in variants.split(",") if word]
    unknown = [word for word in chosen if word not in allowed]
    if unknown:
        raise RecipeError(
            f"This recipe has the variants {', '.join(allowed)}. Received: {', '.join(unknown)}"
        )
    return chosen


def check(recipe: ConfigDict) -> None:
    """Check that every field is within its range."""
    for field, value in flatten(recipe).items():
        row = FIELDS[field]
        if isinstance(row, tuple) and field not in PLAIN:
            _check_field(field, value, row[1:])
    try:
        augmentation.Settings(**recipe.augmentation.to_dict())
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
    usual = FIELDS["data.crop_fraction"][0]
    if in_memory(recipe) and recipe.data.crop_fraction not in (usual, 1.0):
        raise RecipeError(
            "Pictures in memory are kept whole: leave data.crop_fraction out, or set it to 1. "
            f"Received: {recipe.data.crop_fraction}"
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


def _check_field(field: str, value, allowed: tuple) -> None:
    if len(allowed) == 1:
        if value not in allowed[0]:
            raise RecipeError(
                f"{field} must be one of {', '.join(allowed[0])}. Received: {value!r}"
            )
        return
    least, end = allowed
    largest = end[0] if isinstance(end, list) else end
    if not least <= value <= largest or (isinstance(end, list) and value == largest):
        bracket = ")" if isinstance(end, list) or math.isinf(largest) else "]"
        raise RecipeError(f"{field} must be in [{least}, {largest}{bracket}. Received: {value!r}")


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
