"""NF-RegNets on ImageNet.

    python -m training.main --config=training/configs/nf_regnet_imagenet.py:B1 \\
        --config.data.directory=/data/tensorflow_datasets --precision=mixed_bfloat16 --jit \\
        --workdir=runs/nf_regnet_b1

Variants, joined by commas: B0 to B5, ``smoke`` (20 steps).

The recipe is that of DeepMind's nfnets ``experiment_nf_regnets.py``: batch 1024, 360 epochs,
Nesterov momentum 0.9, rate 0.4 with five epochs of warm-up and half a cosine to 0.001, weight
decay 5e-5 and 1e-5 more for each size, label smoothing 0.1, mixup and cutmix, averaged weights
(0.99999), stochastic depth 0.1 and the architecture's dropout. The alphas of mixup (0.2) and cutmix
(1) are those of their papers.

Expected accuracy: timm reports 79.4 % for its own recipe of B1 at 288 px (the catalog's
nf_regnet_b1.ra2_in1k); this recipe has not been run here. Cost: about 450,000 steps.
"""

from training import recipe as recipes

SIZES = {  # size -> (pixels in training, in evaluation, weight decay)
    "B0": (192, 224, 5e-5),
    "B1": (224, 256, 6e-5),
    "B2": (240, 272, 7e-5),
    "B3": (288, 320, 8e-5),
    "B4": (320, 384, 9e-5),
    "B5": (384, 456, 1e-4),
}


def get_config(variants=""):
    chosen = recipes.words(variants, (*SIZES, "smoke"))
    size = next((word for word in chosen if word in SIZES), "B0")
    recipe = recipes.imagenet(f"nf_regnet_{size.lower()}", batch_size=1024, epochs=360.0)
    recipe.model.variant = "paper"
    recipe.ema = 0.99999
    recipe.optimizer.learning_rate = 0.4
    recipe.schedule.end = 0.001
    recipe.data.input_size, recipe.data.test_size, recipe.regularization.weight_decay = SIZES[size]
    recipe.regularization.stochastic_depth = 0.1
    recipe.augmentation.mixup, recipe.augmentation.cutmix = 0.2, 1.0
    return recipes.smoke(recipe) if "smoke" in chosen else recipe
