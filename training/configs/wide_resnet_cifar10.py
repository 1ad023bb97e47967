"""Wide ResNets on CIFAR-10, the schemes of De & Smith 2020 side by side.

    python -m training.main --config=training/configs/wide_resnet_cifar10.py:nf \\
        --config.data.source=folder:cifar10-jpeg.tar.xz --workdir=runs/nf

Variants, joined by commas: a scheme (bn, nf, skipinit, skipinit_1/sqrt(d), divide_sqrt2, fixup,
none), a size from ``10-1`` to ``1000-4`` (SIZES; 16-4 unless one is named), and

    short       30 epochs instead of 200
    two_cores   40 epochs along a cosine, for processors without a GPU
    growing     40 epochs along a cosine, the first 26 on pictures of 24 pixels, with 56 % of the
                multiply-adds; half the pictures have a rectangle grayed out; smoothed targets
    gpu         for a GPU that is available for minutes: 60 epochs of batch 256 along a cosine, half
                the pictures with a rectangle grayed out, smoothed targets
    open        for few epochs: rate 0.2, adaptive gradient clipping at 0.1, and gains of nf that
                start at 1
    smoke       20 steps

The recipe is that of the paper's section 4 and its appendix: SGD with momentum at batch 128, 200
epochs, the rate constant for the first half and then halved every ten epochs, weight decay 5e-4 in
the loss on kernels, pictures shifted and mirrored.

Expected accuracy: about 95 % for 16-4 in the paper, a little less on the JPEG pictures. Cost: about
an hour on one GPU.
"""

import json

from training import recipe as recipes

SCHEMES = ("bn", "nf", "skipinit", "skipinit_1/sqrt(d)", "divide_sqrt2", "fixup", "none")
SIZES = ("10-1", "16-1", "16-2", "16-4", "28-10", "40-4", "100-4", "1000-4")
LENGTHS = ("short", "two_cores", "growing", "gpu")


def get_config(variants=""):
    chosen = recipes.words(variants, (*SCHEMES, *SIZES, *LENGTHS, "open", "smoke"))
    scheme = next((word for word in chosen if word in SCHEMES), "nf")
    size = next((word for word in chosen if word in SIZES), "16-4")

    recipe = recipes.default()
    recipe.name = f"wide_resnet{size.replace('-', '_')}_{scheme}_cifar10"
    recipe.model.architecture = f"wide_resnet{size.replace('-', '_')}"
    fields = {"scheme": scheme}
    if size == "1000-4":
        fields["rematerialize"] = True  # or its activations need some 35 GB
    recipe.model.fields = json.dumps(fields)
    recipe.batch_size = 128
    recipe.epochs = 200.0

    recipe.data.in_memory = True
    recipe.data.test = "test"
    recipe.data.input_size = recipe.data.test_size = 32
    recipe.data.crop_fraction = 1.0
    recipe.data.mean = (0.4914, 0.4822, 0.4465)
    recipe.data.std = (0.2470, 0.2435, 0.2616)
    recipe.augmentation.crop = "shift"

    recipe.optimizer.learning_rate = 0.1
    recipe.optimizer.nesterov = False
    recipe.regularization.weight_decay = 5e-4
    recipe.schedule.kind = "step"
    recipe.schedule.warmup_epochs = 0.0
    recipe.evaluation.batch_size = 500
    if "short" in chosen:
        recipe.epochs = 30.0
        recipe.schedule.every_epochs = 3.0
    if "two_cores" in chosen:
        recipe.epochs = 40.0
    if "growing" in chosen:
        recipe.epochs, recipe.data.early_epochs, recipe.data.early_size = 40.0, 26.0, 24
        recipe.augmentation.erasing, recipe.regularization.label_smoothing = 0.5, 0.1
    if "gpu" in chosen:
        recipe.batch_size, recipe.epochs, recipe.optimizer.nesterov = 256, 60.0, True
        recipe.augmentation.erasing, recipe.regularization.label_smoothing = 0.5, 0.1
        recipe.evaluation.batch_size, recipe.evaluation.every_epochs = 1000, 5.0
    if set(chosen) & {"two_cores", "growing", "gpu"}:
        recipe.schedule.kind = "cosine"
        recipe.schedule.warmup_epochs = 1.0
    if "open" in chosen:
        if scheme == "nf":
            recipe.model.fields = json.dumps({**fields, "zero_init_gain": False})
        recipe.optimizer.learning_rate = 0.3 if "gpu" in chosen else 0.2
        recipe.optimizer.agc = 0.1
    return recipes.smoke(recipe) if "smoke" in chosen else recipe
