"""NF-ResNets on ImageNet, and their BatchNorm twins under the same recipe.

    python -m training.main --config=training/configs/nf_resnet50_imagenet.py \\
        --config.data.directory=/data/tensorflow_datasets --precision=mixed_bfloat16 --jit \\
        --workdir=runs/nf_resnet50

Variants, joined by commas: an architecture (nf_resnet50, nf_resnet101, nf_resnet152, nf_resnet200,
nf_resnet288, resnetv2_50, ..., skipinit_resnet50), ``smoke`` (20 steps).

The recipe is that of DeepMind's nfnets ``experiment.py``: batch 1024, 90 epochs, Nesterov momentum
0.9, rate 0.1 for each 256 pictures of the batch, five epochs of warm-up, then half a cosine,
weight decay 1e-4 on kernels, label smoothing 0.1; with the stochastic depth (0.1) and the dropout
(0.25) that Brock, De & Smith 2021 give networks without normalization.

Expected accuracy: the paper finds the networks level with their BatchNorm twins at 224 px (section
5); timm reports 80.7 % for its own, longer recipe of nf_resnet50 at 288 px. This recipe has not
been run here.
Cost: about 112,600 steps of 1024 pictures.
"""

from training import recipe as recipes

ARCHITECTURES = (
    *(f"nf_resnet{depth}" for depth in (26, 50, 101, 152, 200, 288)),
    *(f"resnetv2_{depth}" for depth in (50, 101, 152, 200, 288)),
    "skipinit_resnet50",
)


def get_config(variants=""):
    chosen = recipes.words(variants, (*ARCHITECTURES, "smoke"))
    name = next((word for word in chosen if word in ARCHITECTURES), "nf_resnet50")
    recipe = recipes.imagenet(name, batch_size=1024, epochs=90.0)
    recipe.model.variant = "paper"
    recipe.optimizer.learning_rate, recipe.optimizer.per_batch = 0.1, 256
    recipe.regularization.weight_decay = 1e-4
    if not name.startswith("resnetv2"):
        recipe.regularization.stochastic_depth = 0.1
        recipe.regularization.dropout = 0.25
    return recipes.smoke(recipe) if "smoke" in chosen else recipe
