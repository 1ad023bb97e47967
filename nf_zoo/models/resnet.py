"""ResNet with batch normalization: v1.5 (post-activation) and v2 (pre-activation).

The twins of the normalizer-free networks. Sources: He et al., CVPR 2016 and ECCV 2016; timm
``resnet.py`` and ``resnetv2.py``; DeepMind nfnets ``resnet.py`` for ``variant="paper"``.
"""

import dataclasses
from collections.abc import Iterator
from typing import Literal

from nf_zoo.models.configuration import DEPTHS, SMALL, ResNetShape
from nf_zoo.models.family import BATCH_NORM, BLOCK, CONVOLUTION, LINEAR, Family, LinearGrowth, Part


@dataclasses.dataclass(frozen=True)
class ResNetConfig(ResNetShape):
    """Architecture of a BatchNorm ResNet.

    Attributes:
        preactivation: v2 if true, v1.5 (stride on the 3x3) if false.
        activation_first: in v2, (ReLU, BN, conv) instead of (BN, ReLU, conv); the 2021 paper
            compares both.
        stem: ``"7x7_pool"``, ``"deep_pool"`` (three 3x3, then pool; v2 only) or ``"3x3"``
            (stride 1, for small pictures).
        momentum: momentum of the moving statistics, 0.9 = PyTorch's 0.1.
        eps: added to the variance.
        zero_init_last: the last BN scale of every branch starts at 0 (v1.5).

    The other fields are those of :class:`~nf_zoo.models.configuration.ResNetShape`.
    """

    preactivation: bool = False
    activation_first: bool = False
    stem: Literal["7x7_pool", "deep_pool", "3x3"] = "7x7_pool"
    momentum: float = 0.9
    eps: float = 1e-5
    zero_init_last: bool = True

    def __post_init__(self):
        super().__post_init__()
        if self.stem == "deep_pool" and self.stem_width < 2:
            self._refuse("stem_width", "at least 2 with stem='deep_pool'")
        if self.stem == "deep_pool" and not self.preactivation:
            raise ValueError("stem='deep_pool' needs preactivation=True. Received: False")
        if self.activation_first and not self.preactivation:
            self._refuse("activation_first", "False unless preactivation=True")


PAPER = {"preactivation": True, "padding": "same", "stochastic_depth_last": False}
"""DeepMind's baseline is a v2 network with SAME padding: ``variant="paper"``."""

BASIC = {"block": "basic", "widths": (64, 128, 256, 512)}
_POOLED = {"shortcut": "average_pool"}
DEEP = {"stem": "deep_pool", **_POOLED}


def _row(size: str, **fields) -> dict:
    extra = BASIC if size in ("18", "34") else DEEP if size.endswith("d") else {}
    return {"depths": DEPTHS[size.removesuffix("d")], **extra, **fields}


ARCHITECTURES = {
    **{
        f"resnet{size}": (f"ResNet{size}", _row(size))
        for size in ("18", "26", "34", "50", "101", "152")
    },
    "resnetv2_10": ("ResNetV2_10", {**SMALL["10"], "preactivation": True}),
    "resnetv2_14": ("ResNetV2_14", {**SMALL["14"], "preactivation": True, **_POOLED}),
    **{
        f"resnetv2_{size}": (f"ResNetV2_{size}", _row(size, preactivation=True))
        for size in ("18", "26", "34", "50", "50d", "101", "152", "200", "288")
    },
}


def build_trunk(config: ResNetConfig, x) -> list:
    """Build the maps of the stem and of every stage from images (N, H, W, C).

    The map of the last stage is activated, and so are all maps of v1.5.
    """
    from nf_zoo.models.batch_norm_block import BatchNormBlock, normalized
    from nf_zoo.models.residual_block import Level, stack_blocks

    x, strides = _stem(config, x), config.stem_strides
    stem = Level("stem", strides, x)
    stages = stack_blocks(
        config, config.pool(x), BatchNormBlock, config.block_arguments, stride=strides**2
    )
    if config.preactivation:
        last = stages[-1]
        last.tensor = normalized(config, last.tensor, "final_norm", "final_activation")
    return [stem, *stages]


def _stem(config: ResNetConfig, x):
    """Return the stem's map before pooling."""
    from nf_zoo.models.batch_norm_block import convolution, normalized

    names = ("",)
    if config.stem == "deep_pool":
        names = ("1", "2", "3")
    for name in names:
        is_last = name == names[-1]
        x = convolution(
            filters=config.stem_width if is_last else config.stem_width // 2,
            kernel_size=config.stem_kernel_size,
            strides=config.stem_strides if name == names[0] else 1,
            padding=config.padding,
            name=f"stem_conv{name}",
        )(x)
        if not (is_last and config.preactivation):
            x = normalized(config, x, f"stem_norm{name}", f"stem_norm{name}_activation")
    return x


def parts(config: ResNetConfig) -> Iterator[Part]:
    """Return the layers with weights, and their names in timm's and DeepMind's files."""
    convolutions = (1, 2) if config.block == "basic" else (1, 2, 3)
    return (_v2_parts if config.preactivation else _v1_parts)(config.stem, convolutions)


def _v1_parts(stem: str, convolutions: tuple[int, ...]) -> Iterator[Part]:
    timm = "layer{stage}.{b}."
    yield Part("stem/conv", CONVOLUTION, "conv1")
    yield Part("stem/norm", BATCH_NORM, "bn1")
    for i in convolutions:
        yield Part(f"{BLOCK}conv{i}", CONVOLUTION, f"{timm}conv{i}")
        yield Part(f"{BLOCK}norm{i}", BATCH_NORM, f"{timm}bn{i}")
    yield Part(f"{BLOCK}shortcut_conv", CONVOLUTION, f"{timm}downsample.0", optional=True)
    yield Part(f"{BLOCK}shortcut_norm", BATCH_NORM, f"{timm}downsample.1", optional=True)
    yield Part("head", LINEAR, "fc")


def _v2_parts(stem: str, convolutions: tuple[int, ...]) -> Iterator[Part]:
    timm, haiku = "stages.{s}.blocks.{b}.", "ResNet/~/res_block_v2{n}/~/"
    if stem == "deep_pool":
        for i in (1, 2, 3):
            yield Part(f"stem/conv{i}", CONVOLUTION, f"stem.conv{i}")
        for i in (1, 2):
            yield Part(f"stem/norm{i}", BATCH_NORM, f"stem.norm{i}")
    else:
        yield Part("stem/conv", CONVOLUTION, "stem.conv", "ResNet/~/initial_conv")
    for i in convolutions:
        yield Part(f"{BLOCK}conv{i}", CONVOLUTION, f"{timm}conv{i}", f"{haiku}conv{i - 1}")
        yield Part(f"{BLOCK}norm{i}", BATCH_NORM, f"{timm}norm{i}", f"{haiku}bn{i - 1}")
    shortcut = f"{timm}downsample.conv", f"{haiku}conv_shortcut"
    yield Part(f"{BLOCK}shortcut_conv", CONVOLUTION, *shortcut, optional=True)
    yield Part("final_norm", BATCH_NORM, "norm", "ResNet/~/final_bn")
    yield Part("head", LINEAR, "head.fc", "ResNet/~/linear/{own}")


def variance(config: ResNetConfig) -> LinearGrowth | None:
    """Return linear growth for pre-activation networks with BatchNorm before the activations."""
    return LinearGrowth() if config.preactivation and not config.activation_first else None


FAMILY = Family(
    name="resnet",
    config=ResNetConfig,
    architectures=ARCHITECTURES,
    build_trunk=build_trunk,
    parts=parts,
    variants={"paper": PAPER},
    form=("padding", "preactivation"),
    variance=variance,
)
