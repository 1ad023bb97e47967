"""NFNets on ImageNet, with adaptive gradient clipping.

    python -m training.main --config=training/configs/nfnet_imagenet.py:F0 \\
        --config.data.directory=/data/tensorflow_datasets --precision=mixed_bfloat16 --jit \\
        --workdir=runs/nfnet_f0

Variants, joined by commas: F0 to F5, ``smoke`` (20 steps).

The recipe is that of DeepMind's nfnets ``experiment_nfnets.py``: batch 4096, 360 epochs, Nesterov
momentum 0.9, rate 0.1 for each 256 pictures with five epochs of warm-up and half a cosine,
clipping 0.01, weight decay 2e-5, label smoothing 0.1, RandAugment of four layers (magnitude 5 for
F0, 10 for F1 and F2, 15 beyond), mixup and cutmix, averaged weights (0.99999), stochastic depth
0.25 and the architecture's dropout. The alphas of mixup (0.2) and cutmix (1) are those of their
papers.

Expected accuracy (Brock et al., ICML 2021; not run here): F0 83.6, F1 84.7, F2 85.1, F3 85.7,
F4 85.9, F5 86.0 %. Cost: about 113,000 steps of 4096 pictures.
"""

from training import recipe as recipes

SIZES = {  # size -> (pixels in training, in evaluation, magnitude of RandAugment)
    "F0": (192, 256, 5.0),
    "F1": (224, 320, 10.0),
    "F2": (256, 352, 10.0),
    "F3": (320, 416, 15.0),
    "F4": (384, 512, 15.0),
    "F5": (416, 544, 15.0),
}


def get_config(variants=""):
    chosen = recipes.words(variants, (*SIZES, "smoke"))
    size = next((word for word in chosen if word in SIZES), "F0")
    recipe = recipes.imagenet(f"nfnet_{size.lower()}", batch_size=4096, epochs=360.0)
    recipe.model.variant = "paper"
    recipe.ema = 0.99999
    pixels, test_pixels, magnitude = SIZES[size]
    recipe.data.input_size, recipe.data.test_size = pixels, test_pixels
    recipe.data.crop_fraction = test_pixels / (test_pixels + 32)
    recipe.optimizer.learning_rate, recipe.optimizer.per_batch = 0.1, 256
    recipe.optimizer.agc = 0.01
    recipe.regularization.weight_decay = 2e-5
    recipe.regularization.stochastic_depth = 0.25
    recipe.augmentation.randaugment_layers = 4
    recipe.augmentation.randaugment_magnitude = magnitude
    recipe.augmentation.mixup, recipe.augmentation.cutmix = 0.2, 1.0
    return recipes.smoke(recipe) if "smoke" in chosen else recipe
