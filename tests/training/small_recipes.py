"""A recipe of a network of a few thousand parameters: five steps of 16 pictures."""

from __future__ import annotations

from training import recipe as recipes

REPEATABLE = {"TF_ENABLE_ONEDNN_OPTS": "0"}
"""Environment of a run whose weights must be those of another to the last bit.

On processors without AVX-512 TensorFlow 2.21's oneDNN kernels, where they are forced on, give a
network of four channels other results from run to run.
"""


def get_config(scheme="nf"):
    """The recipe as the command line loads it; the pictures are an override."""
    return small_recipe("", scheme)


def small_recipe(arrays, scheme: str = "nf"):
    recipe = recipes.default()
    recipe.model.architecture = "wide_resnet10_1"
    recipe.model.fields = f'{{"scheme": "{scheme}", "widths": [4, 4, 8], "stem_width": 4}}'
    recipe.data.source = f"arrays:{arrays}"
    recipe.data.input_size = recipe.data.test_size = 16
    recipe.data.crop_fraction = 1.0
    recipe.augmentation.crop = "shift"
    recipe.batch_size, recipe.steps = 16, 5
    recipe.optimizer.learning_rate = 0.1
    recipe.optimizer.agc = 0.05
    recipe.regularization.weight_decay = 1e-3
    recipe.regularization.label_smoothing = 0.1
    recipe.schedule.warmup_epochs = 0.5
    recipe.evaluation.batch_size = 7
    recipe.run.log_every = 2
    return recipe
