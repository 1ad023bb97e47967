"""NF-ResNets on Tiny ImageNet at 64 px, and their BatchNorm twins under the same recipe.

    python -m training.main --config=training/configs/nf_resnet50_tiny_imagenet.py \\
        --config.data.source='folder:tiny-imagenet-*.tar.xz' --workdir=runs/tiny

Variants, joined by commas: an architecture (nf_resnet26, nf_resnet50 or their BatchNorm twins
resnetv2_26, resnetv2_50) and

    two_cores   for processors without a GPU: the stem of stride 4, pictures that grow to 64 pixels,
                and gains that start at 1. The 26-layer networks have half their width and 15
                epochs, the first 9 at 48 pixels; the 50-layer networks 12, the first 6 at 40
    gpu         for a GPU that is available for minutes: the stem of stride 4 and the pictures at
                twice their size, 80 pixels for 30 epochs, 112 for 20, and 128 to test; resized
                crops, a larger rate, and gains that start at 1
    smoke       20 steps

SGD at batch 256 for 90 epochs, rate 0.1 with warm-up and half a cosine, adaptive gradient clipping
for the networks without normalization, label smoothing, mixup and cutmix, averaged weights. The
3 x 3 stem without pooling leaves the last stage maps of 8 x 8. Runs under KERAS_BACKEND=jax too.

The 26-layer networks bear a rate of 0.2 with clipping at 0.1. NF-ResNet-50 of full width lost all
that it had learned by 2,700 steps of it, so the 50-layer networks have half of both.

Expected accuracy: 54.6 % for ``nf_resnet50,two_cores``, 51.9 % for ``nf_resnet26,two_cores`` and
49.4 % for ``resnetv2_26,two_cores`` (docs/results.md); above 60 % for the 50-layer networks on one
GPU in about an hour, which has not been run here.
"""

import json

from training import recipe as recipes

ARCHITECTURES = ("nf_resnet26", "nf_resnet50", "resnetv2_26", "resnetv2_50")


def get_config(variants=""):
    chosen = recipes.words(variants, (*ARCHITECTURES, "two_cores", "gpu", "smoke"))
    name = next((word for word in chosen if word in ARCHITECTURES), "nf_resnet50")
    recipe = recipes.default()
    recipe.name = f"{name}_tiny_imagenet"
    recipe.model.architecture = name
    recipe.model.fields = json.dumps({"stem": "3x3"})
    recipe.batch_size, recipe.epochs, recipe.ema = 256, 90.0, 0.999
    recipe.data.in_memory = True
    recipe.data.test = "val"
    recipe.data.input_size = recipe.data.test_size = 64
    recipe.data.crop_fraction = 1.0
    recipe.augmentation.crop = "shift"
    recipe.augmentation.mixup, recipe.augmentation.cutmix = 0.2, 1.0
    recipe.optimizer.learning_rate = 0.1
    recipe.optimizer.agc = 0.0 if name.startswith("resnet") else 0.02
    recipe.regularization.weight_decay = 1e-4
    recipe.regularization.label_smoothing = 0.1
    recipe.regularization.stochastic_depth = 0.1
    # The twins have the shortcut of the networks without normalization.
    is_free = name.startswith("nf_")
    fields = {"zero_init_gain": False} if is_free else {"shortcut": "average_pool"}
    if "two_cores" in chosen:
        _for_two_cores(recipe, fields, small=name.endswith("26"))
    if "gpu" in chosen:
        _for_minutes(recipe, fields)
        recipe.optimizer.agc = 0.1 if is_free else 0.0
    return recipes.smoke(recipe) if "smoke" in chosen else recipe


def _for_minutes(recipe, fields: dict) -> None:
    recipe.model.fields = json.dumps(fields)
    recipe.epochs, recipe.optimizer.learning_rate = 50.0, 0.3
    recipe.data.early_epochs, recipe.data.early_size = 30.0, 80
    recipe.data.stored_size, recipe.data.input_size, recipe.data.test_size = 64, 112, 128
    recipe.augmentation.crop, recipe.augmentation.smallest_area = "resized", 0.25
    recipe.schedule.warmup_epochs = 2.0
    recipe.regularization.weight_decay = 5e-4
    recipe.evaluation.batch_size, recipe.evaluation.every_epochs = 500, 5.0


def _for_two_cores(recipe, fields: dict, small: bool) -> None:
    sizes = {"widths": (128, 256, 512, 1024), "stem_width": 32} if small else {}
    recipe.model.fields = json.dumps({**sizes, **fields})
    recipe.batch_size, recipe.ema = 128, 0.0
    recipe.epochs, recipe.data.early_epochs = (15.0, 9.0) if small else (12.0, 6.0)
    recipe.data.early_size = 48 if small else 40
    recipe.augmentation.mixup = recipe.augmentation.cutmix = 0.0
    recipe.augmentation.erasing = 0.5
    recipe.optimizer.learning_rate, recipe.optimizer.agc = (0.2, 0.1) if small else (0.1, 0.05)
    recipe.schedule.warmup_epochs = 1.0
    recipe.regularization.weight_decay = 5e-4
    recipe.regularization.stochastic_depth = 0.0
