"""The names and signatures of nf_zoo for editors and type checkers; they load on first use.

Written by `python docs/make_stub.py`, from the tables of names and the records of the families.
"""

import os
from collections.abc import Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any, Literal, TypedDict, Unpack

from nf_zoo import finetuning as finetuning
from nf_zoo import hub as hub
from nf_zoo import layers as layers
from nf_zoo import models as models
from nf_zoo import optimizers as optimizers
from nf_zoo import pictures as pictures
from nf_zoo.conversion.batch_norm_removal import remove_batch_norm as remove_batch_norm
from nf_zoo.conversion.normalizer_free import normalizer_free as normalizer_free
from nf_zoo.deploy.benchmarking import Benchmark
from nf_zoo.deploy.fold import fold as fold
from nf_zoo.deploy.quantization import quantization_report as quantization_report
from nf_zoo.finetuning.fine_tune import FineTuneResult
from nf_zoo.hub.card import CardDetails as CardDetails
from nf_zoo.hub.errors import CacheNotWritable as CacheNotWritable
from nf_zoo.hub.errors import CatalogError as CatalogError
from nf_zoo.hub.errors import ChecksumMismatch as ChecksumMismatch
from nf_zoo.hub.errors import CorruptWeights as CorruptWeights
from nf_zoo.hub.errors import InvalidConfig as InvalidConfig
from nf_zoo.hub.errors import PublishingFailed as PublishingFailed
from nf_zoo.hub.errors import RepositoryTaken as RepositoryTaken
from nf_zoo.hub.errors import UnknownWeights as UnknownWeights
from nf_zoo.hub.errors import UnsafeWeights as UnsafeWeights
from nf_zoo.hub.errors import WeightsAccessDenied as WeightsAccessDenied
from nf_zoo.hub.errors import WeightsError as WeightsError
from nf_zoo.hub.errors import WeightsMismatch as WeightsMismatch
from nf_zoo.hub.errors import WeightsNotFound as WeightsNotFound
from nf_zoo.hub.errors import WeightsOffline as WeightsOffline
from nf_zoo.hub.folder import save_pretrained as save_pretrained
from nf_zoo.hub.models import create_model as create_model
from nf_zoo.hub.models import list_models as list_models
from nf_zoo.hub.models import model_info as model_info
from nf_zoo.hub.pretrained import load_pretrained as load_pretrained
from nf_zoo.hub.publishing import push_to_hub as push_to_hub
from nf_zoo.hub.space import push_space as push_space
from nf_zoo.models.classifier import ImageClassifier as ImageClassifier
from nf_zoo.optimizers import AdaptiveGradientClipping as AdaptiveGradientClipping
from nf_zoo.optimizers import GroupedOptimizer as GroupedOptimizer
from nf_zoo.optimizers import parameter_groups as parameter_groups
from nf_zoo.pictures.class_folders import FolderError as FolderError
from nf_zoo.pictures.images import preprocess as preprocess
from nf_zoo.pictures.predictions import decode_predictions as decode_predictions
from nf_zoo.pictures.preprocessing import Preprocessing as Preprocessing
from nf_zoo.signal_propagation import SignalPropagationCallback as SignalPropagationCallback
from nf_zoo.signal_propagation import diagnose as diagnose
from nf_zoo.signal_propagation import signal_propagation as signal_propagation

__version__: str

def benchmark(
    model,
    *,
    batch_sizes: tuple[int, ...] = (1, 8, 32),
    size: tuple[int, int] | None = None,
    rounds: int = 7,
    pictures: Any = None,
) -> Benchmark:
    """Measure a network in every form whose runtime is installed."""

def demo(
    models,
    *,
    block: bool = True,
    host: str = "127.0.0.1",
    port: int | None = None,
    max_size: float = 20.0,
) -> Any:
    """Serve a page on which to try models in a browser."""

def evaluate(
    model,
    data,
    *,
    batch_size: int = 64,
    strict: bool = False,
) -> dict[str, Any]:
    """Evaluate a classifier on a folder of pictures or a data set."""

def finetune(
    model,
    data,
    *,
    labels: Sequence[str] | None = None,
    validation_data: Any = None,
    validation_fraction: float = 0.2,
    output: str | os.PathLike | None = None,
    epochs: int | None = None,
    batch_size: int | None = None,
    accumulate: int | str = 1,
    image_size: int | Sequence[int] | None = None,
    optimizer: str = "sgd",
    learning_rate: float | None = None,
    weight_decay: float | None = None,
    layer_decay: float = 1.0,
    agc: float | None = None,
    freeze: str | Sequence[str] | None = None,
    label_smoothing: float = 0.1,
    warmup_epochs: int | None = None,
    randaugment: bool = False,
    flip: bool = True,
    erasing: float = 0.0,
    mixup: float = 0.0,
    cutmix: float = 0.0,
    class_weight: str | Mapping | None = None,
    early_stopping: int | None = None,
    ema: bool | float | None = None,
    precision: str | None = None,
    rematerialize: bool = False,
    seed: int = 0,
    strict: bool = False,
    resume: bool = False,
    finish: bool = False,
    overwrite: bool = False,
    verbose: int = 1,
) -> FineTuneResult:
    """Fit a network to new classes."""

def export_saved_model(
    model,
    path: str | os.PathLike,
    overwrite: bool = False,
    *,
    fold: bool = True,
    constants: bool = False,
) -> Path:
    """Write a SavedModel that needs neither nf_zoo nor Keras to run."""

def export_onnx(
    model,
    path: str | os.PathLike,
    overwrite: bool = False,
    *,
    precision: str = "float32",
    pictures: Any = None,
    keep_float: int | Sequence[str] = (),
    symmetric: bool = False,
    opset: int = 20,
) -> Path:
    """Write an ONNX file of the folded network."""

def export_litert(
    model,
    path: str | os.PathLike,
    overwrite: bool = False,
    *,
    precision: str = "float32",
    pictures: Any = None,
    keep_float: int | Sequence[str] = (),
    full_integer: bool = False,
) -> Path:
    """Write a LiteRT file of the folded network."""

def export_openvino(
    model,
    path: str | os.PathLike,
    overwrite: bool = False,
    *,
    precision: str = "float32",
    pictures: Any = None,
    keep_float: int | Sequence[str] = (),
) -> Path:
    """Write the folded network for OpenVINO, as ``m.xml`` and, beside it, ``m.bin``."""

class _Options(TypedDict, total=False):
    variant: str | None
    num_classes: int | None
    input_shape: Sequence[int | None] | None
    classifier_activation: str | None
    include_preprocessing: bool | None
    pooling: str | None
    features_only: bool
    out_indices: Sequence[int] | None
    preprocessing: Any
    labels: Sequence[str] | None
    dtype: str | None
    name: str | None

class _NFResNetConfig(_Options, total=False):
    depths: Sequence[int]
    widths: Sequence[int]
    activation: str
    padding: Literal["symmetric", "same", "reflect", "circular"]
    drop_rate: float
    stochastic_depth_rate: float
    stochastic_depth_rescale: bool
    stochastic_depth_last: bool
    output_stride: Literal[32, 16, 8]
    rematerialize: bool
    gamma_in: Literal["weights", "activation"] | None
    alpha: float
    standardize: bool
    eps: float
    eps_form: Literal["added", "floor"]
    zero_init_gain: bool
    skip_gain: float | None
    attention: Literal["se", "eca"] | None
    rescale: bool
    shortcut: Literal["average_pool", "strided"]
    attention_ratio: float
    attention_divisor: int
    block: Literal["bottleneck", "basic"]
    bottleneck_ratio: float
    stem: Literal["7x7_pool", "3x3"]
    stem_width: int

class _NFRegNetConfig(_Options, total=False):
    depths: Sequence[int]
    widths: Sequence[int]
    activation: str
    padding: Literal["symmetric", "same", "reflect", "circular"]
    drop_rate: float
    stochastic_depth_rate: float
    stochastic_depth_rescale: bool
    stochastic_depth_last: bool
    output_stride: Literal[32, 16, 8]
    rematerialize: bool
    gamma_in: Literal["weights", "activation"] | None
    alpha: float
    standardize: bool
    eps: float
    eps_form: Literal["added", "floor"]
    zero_init_gain: bool
    skip_gain: float | None
    attention: Literal["se", "eca"] | None
    rescale: bool
    shortcut: Literal["average_pool", "strided"]
    attention_ratio: float
    attention_divisor: int
    width_factor: float
    width_divisor: int
    expansion: float
    group_width: int

class _NFNetConfig(_Options, total=False):
    depths: Sequence[int]
    widths: Sequence[int]
    activation: str
    padding: Literal["symmetric", "same", "reflect", "circular"]
    drop_rate: float
    stochastic_depth_rate: float
    stochastic_depth_rescale: bool
    stochastic_depth_last: bool
    output_stride: Literal[32, 16, 8]
    rematerialize: bool
    gamma_in: Literal["weights", "activation"] | None
    alpha: float
    standardize: bool
    eps: float
    eps_form: Literal["added", "floor"]
    zero_init_gain: bool
    skip_gain: float | None
    attention: Literal["se", "eca"] | None
    rescale: bool
    shortcut: Literal["average_pool", "strided"]
    attention_ratio: float
    attention_divisor: int
    bottleneck_ratio: float
    group_width: int
    truncate_groups: bool
    stem_widths: Sequence[int]
    final_ratio: float

class _SkipInitResNetConfig(_Options, total=False):
    depths: Sequence[int]
    widths: Sequence[int]
    activation: str
    padding: Literal["symmetric", "same", "reflect", "circular"]
    drop_rate: float
    stochastic_depth_rate: float
    stochastic_depth_rescale: bool
    stochastic_depth_last: bool
    output_stride: Literal[32, 16, 8]
    rematerialize: bool
    block: Literal["bottleneck", "basic"]
    bottleneck_ratio: float
    stem: Literal["7x7_pool", "3x3"]
    stem_width: int
    shortcut: Literal["strided", "average_pool"]
    skip_gain: float | Literal["1/sqrt(blocks)"] | None
    merge_scale: float

class _FixupResNetConfig(_Options, total=False):
    depths: Sequence[int]
    widths: Sequence[int]
    activation: str
    padding: Literal["symmetric", "same", "reflect", "circular"]
    drop_rate: float
    stochastic_depth_rate: float
    stochastic_depth_rescale: bool
    stochastic_depth_last: bool
    output_stride: Literal[32, 16, 8]
    rematerialize: bool
    block: Literal["bottleneck", "basic"]
    bottleneck_ratio: float
    stem: Literal["7x7_pool", "3x3"]
    stem_width: int
    shortcut: Literal["strided", "average_pool"]

class _ResNetConfig(_Options, total=False):
    depths: Sequence[int]
    widths: Sequence[int]
    activation: str
    padding: Literal["symmetric", "same", "reflect", "circular"]
    drop_rate: float
    stochastic_depth_rate: float
    stochastic_depth_rescale: bool
    stochastic_depth_last: bool
    output_stride: Literal[32, 16, 8]
    rematerialize: bool
    block: Literal["bottleneck", "basic"]
    bottleneck_ratio: float
    stem: Literal["7x7_pool", "deep_pool", "3x3"]
    stem_width: int
    shortcut: Literal["strided", "average_pool"]
    preactivation: bool
    activation_first: bool
    momentum: float
    eps: float
    zero_init_last: bool

class _RegNetYConfig(_Options, total=False):
    depths: Sequence[int]
    widths: Sequence[int]
    activation: str
    padding: Literal["symmetric", "same", "reflect", "circular"]
    drop_rate: float
    stochastic_depth_rate: float
    stochastic_depth_rescale: bool
    stochastic_depth_last: bool
    output_stride: Literal[32, 16, 8]
    rematerialize: bool
    group_width: int
    attention_ratio: float
    stem_width: int
    shortcut: Literal["strided", "average_pool"]
    momentum: float
    eps: float
    zero_init_last: bool

class _WideResNetConfig(_Options, total=False):
    depths: Sequence[int]
    widths: Sequence[int]
    activation: str
    padding: Literal["symmetric", "same", "reflect", "circular"]
    drop_rate: float
    stochastic_depth_rate: float
    stochastic_depth_rescale: bool
    stochastic_depth_last: bool
    output_stride: Literal[32, 16, 8]
    rematerialize: bool
    scheme: Literal["nf", "bn", "skipinit", "skipinit_1/sqrt(d)", "divide_sqrt2", "fixup", "none"]
    alpha: float
    zero_init_gain: bool
    stem_width: int
    shortcut: Literal["strided", "average_pool"]

def NFResNet10(
    pretrained: bool | str | PathLike[str] = False, **options: Unpack[_NFResNetConfig]
) -> ImageClassifier:
    """Build ``nf_resnet10``: 4 blocks in stages of (1, 1, 1, 1)."""

def NFResNet14(
    pretrained: bool | str | PathLike[str] = False, **options: Unpack[_NFResNetConfig]
) -> ImageClassifier:
    """Build ``nf_resnet14``: 6 blocks in stages of (2, 2, 2)."""

def NFResNet26(
    pretrained: bool | str | PathLike[str] = False, **options: Unpack[_NFResNetConfig]
) -> ImageClassifier:
    """Build ``nf_resnet26``: 8 blocks in stages of (2, 2, 2, 2)."""

def NFResNet50(
    pretrained: bool | str | PathLike[str] = False, **options: Unpack[_NFResNetConfig]
) -> ImageClassifier:
    """Build ``nf_resnet50``: 16 blocks in stages of (3, 4, 6, 3)."""

def NFResNet101(
    pretrained: bool | str | PathLike[str] = False, **options: Unpack[_NFResNetConfig]
) -> ImageClassifier:
    """Build ``nf_resnet101``: 33 blocks in stages of (3, 4, 23, 3)."""

def NFResNet152(
    pretrained: bool | str | PathLike[str] = False, **options: Unpack[_NFResNetConfig]
) -> ImageClassifier:
    """Build ``nf_resnet152``: 50 blocks in stages of (3, 8, 36, 3)."""

def NFResNet200(
    pretrained: bool | str | PathLike[str] = False, **options: Unpack[_NFResNetConfig]
) -> ImageClassifier:
    """Build ``nf_resnet200``: 66 blocks in stages of (3, 24, 36, 3)."""

def NFResNet288(
    pretrained: bool | str | PathLike[str] = False, **options: Unpack[_NFResNetConfig]
) -> ImageClassifier:
    """Build ``nf_resnet288``: 96 blocks in stages of (24, 24, 24, 24)."""

def NFResNet600(
    pretrained: bool | str | PathLike[str] = False, **options: Unpack[_NFResNetConfig]
) -> ImageClassifier:
    """Build ``nf_resnet600``: 200 blocks in stages of (50, 50, 50, 50)."""

def NFSEResNet26(
    pretrained: bool | str | PathLike[str] = False, **options: Unpack[_NFResNetConfig]
) -> ImageClassifier:
    """Build ``nf_seresnet26``: 8 blocks in stages of (2, 2, 2, 2)."""

def NFSEResNet50(
    pretrained: bool | str | PathLike[str] = False, **options: Unpack[_NFResNetConfig]
) -> ImageClassifier:
    """Build ``nf_seresnet50``: 16 blocks in stages of (3, 4, 6, 3)."""

def NFSEResNet101(
    pretrained: bool | str | PathLike[str] = False, **options: Unpack[_NFResNetConfig]
) -> ImageClassifier:
    """Build ``nf_seresnet101``: 33 blocks in stages of (3, 4, 23, 3)."""

def NFECAResNet26(
    pretrained: bool | str | PathLike[str] = False, **options: Unpack[_NFResNetConfig]
) -> ImageClassifier:
    """Build ``nf_ecaresnet26``: 8 blocks in stages of (2, 2, 2, 2)."""

def NFECAResNet50(
    pretrained: bool | str | PathLike[str] = False, **options: Unpack[_NFResNetConfig]
) -> ImageClassifier:
    """Build ``nf_ecaresnet50``: 16 blocks in stages of (3, 4, 6, 3)."""

def NFECAResNet101(
    pretrained: bool | str | PathLike[str] = False, **options: Unpack[_NFResNetConfig]
) -> ImageClassifier:
    """Build ``nf_ecaresnet101``: 33 blocks in stages of (3, 4, 23, 3)."""

def NFRegNetB0(
    pretrained: bool | str | PathLike[str] = False, **options: Unpack[_NFRegNetConfig]
) -> ImageClassifier:
    """Build ``nf_regnet_b0``: 16 blocks in stages of (1, 3, 6, 6)."""

def NFRegNetB1(
    pretrained: bool | str | PathLike[str] = False, **options: Unpack[_NFRegNetConfig]
) -> ImageClassifier:
    """Build ``nf_regnet_b1``: 20 blocks in stages of (2, 4, 7, 7)."""

def NFRegNetB2(
    pretrained: bool | str | PathLike[str] = False, **options: Unpack[_NFRegNetConfig]
) -> ImageClassifier:
    """Build ``nf_regnet_b2``: 22 blocks in stages of (2, 4, 8, 8)."""

def NFRegNetB3(
    pretrained: bool | str | PathLike[str] = False, **options: Unpack[_NFRegNetConfig]
) -> ImageClassifier:
    """Build ``nf_regnet_b3``: 25 blocks in stages of (2, 5, 9, 9)."""

def NFRegNetB4(
    pretrained: bool | str | PathLike[str] = False, **options: Unpack[_NFRegNetConfig]
) -> ImageClassifier:
    """Build ``nf_regnet_b4``: 30 blocks in stages of (2, 6, 11, 11)."""

def NFRegNetB5(
    pretrained: bool | str | PathLike[str] = False, **options: Unpack[_NFRegNetConfig]
) -> ImageClassifier:
    """Build ``nf_regnet_b5``: 38 blocks in stages of (3, 7, 14, 14)."""

def NFRegNetB6(
    pretrained: bool | str | PathLike[str] = False, **options: Unpack[_NFRegNetConfig]
) -> ImageClassifier:
    """Build ``nf_regnet_b6``: 43 blocks in stages of (3, 8, 16, 16)."""

def NFRegNetB7(
    pretrained: bool | str | PathLike[str] = False, **options: Unpack[_NFRegNetConfig]
) -> ImageClassifier:
    """Build ``nf_regnet_b7``: 52 blocks in stages of (4, 10, 19, 19)."""

def NFRegNetB8(
    pretrained: bool | str | PathLike[str] = False, **options: Unpack[_NFRegNetConfig]
) -> ImageClassifier:
    """Build ``nf_regnet_b8``: 59 blocks in stages of (4, 11, 22, 22)."""

def NFNetF0(
    pretrained: bool | str | PathLike[str] = False, **options: Unpack[_NFNetConfig]
) -> ImageClassifier:
    """Build ``nfnet_f0``: 12 blocks in stages of (1, 2, 6, 3)."""

def NFNetF1(
    pretrained: bool | str | PathLike[str] = False, **options: Unpack[_NFNetConfig]
) -> ImageClassifier:
    """Build ``nfnet_f1``: 24 blocks in stages of (2, 4, 12, 6)."""

def NFNetF2(
    pretrained: bool | str | PathLike[str] = False, **options: Unpack[_NFNetConfig]
) -> ImageClassifier:
    """Build ``nfnet_f2``: 36 blocks in stages of (3, 6, 18, 9)."""

def NFNetF3(
    pretrained: bool | str | PathLike[str] = False, **options: Unpack[_NFNetConfig]
) -> ImageClassifier:
    """Build ``nfnet_f3``: 48 blocks in stages of (4, 8, 24, 12)."""

def NFNetF4(
    pretrained: bool | str | PathLike[str] = False, **options: Unpack[_NFNetConfig]
) -> ImageClassifier:
    """Build ``nfnet_f4``: 60 blocks in stages of (5, 10, 30, 15)."""

def NFNetF5(
    pretrained: bool | str | PathLike[str] = False, **options: Unpack[_NFNetConfig]
) -> ImageClassifier:
    """Build ``nfnet_f5``: 72 blocks in stages of (6, 12, 36, 18)."""

def NFNetF6(
    pretrained: bool | str | PathLike[str] = False, **options: Unpack[_NFNetConfig]
) -> ImageClassifier:
    """Build ``nfnet_f6``: 84 blocks in stages of (7, 14, 42, 21)."""

def NFNetF7(
    pretrained: bool | str | PathLike[str] = False, **options: Unpack[_NFNetConfig]
) -> ImageClassifier:
    """Build ``nfnet_f7``: 96 blocks in stages of (8, 16, 48, 24)."""

def NFNetF0Plus(
    pretrained: bool | str | PathLike[str] = False, **options: Unpack[_NFNetConfig]
) -> ImageClassifier:
    """Build ``nfnet_f0_plus``: 12 blocks in stages of (1, 2, 6, 3)."""

def NFNetF1Plus(
    pretrained: bool | str | PathLike[str] = False, **options: Unpack[_NFNetConfig]
) -> ImageClassifier:
    """Build ``nfnet_f1_plus``: 24 blocks in stages of (2, 4, 12, 6)."""

def NFNetF2Plus(
    pretrained: bool | str | PathLike[str] = False, **options: Unpack[_NFNetConfig]
) -> ImageClassifier:
    """Build ``nfnet_f2_plus``: 36 blocks in stages of (3, 6, 18, 9)."""

def NFNetF3Plus(
    pretrained: bool | str | PathLike[str] = False, **options: Unpack[_NFNetConfig]
) -> ImageClassifier:
    """Build ``nfnet_f3_plus``: 48 blocks in stages of (4, 8, 24, 12)."""

def NFNetF4Plus(
    pretrained: bool | str | PathLike[str] = False, **options: Unpack[_NFNetConfig]
) -> ImageClassifier:
    """Build ``nfnet_f4_plus``: 60 blocks in stages of (5, 10, 30, 15)."""

def NFNetF5Plus(
    pretrained: bool | str | PathLike[str] = False, **options: Unpack[_NFNetConfig]
) -> ImageClassifier:
    """Build ``nfnet_f5_plus``: 72 blocks in stages of (6, 12, 36, 18)."""

def NFNetF6Plus(
    pretrained: bool | str | PathLike[str] = False, **options: Unpack[_NFNetConfig]
) -> ImageClassifier:
    """Build ``nfnet_f6_plus``: 84 blocks in stages of (7, 14, 42, 21)."""

def NFNetF7Plus(
    pretrained: bool | str | PathLike[str] = False, **options: Unpack[_NFNetConfig]
) -> ImageClassifier:
    """Build ``nfnet_f7_plus``: 96 blocks in stages of (8, 16, 48, 24)."""

def DMNFNetF0(
    pretrained: bool | str | PathLike[str] = False, **options: Unpack[_NFNetConfig]
) -> ImageClassifier:
    """Build ``dm_nfnet_f0``: 12 blocks in stages of (1, 2, 6, 3)."""

def DMNFNetF1(
    pretrained: bool | str | PathLike[str] = False, **options: Unpack[_NFNetConfig]
) -> ImageClassifier:
    """Build ``dm_nfnet_f1``: 24 blocks in stages of (2, 4, 12, 6)."""

def DMNFNetF2(
    pretrained: bool | str | PathLike[str] = False, **options: Unpack[_NFNetConfig]
) -> ImageClassifier:
    """Build ``dm_nfnet_f2``: 36 blocks in stages of (3, 6, 18, 9)."""

def DMNFNetF3(
    pretrained: bool | str | PathLike[str] = False, **options: Unpack[_NFNetConfig]
) -> ImageClassifier:
    """Build ``dm_nfnet_f3``: 48 blocks in stages of (4, 8, 24, 12)."""

def DMNFNetF4(
    pretrained: bool | str | PathLike[str] = False, **options: Unpack[_NFNetConfig]
) -> ImageClassifier:
    """Build ``dm_nfnet_f4``: 60 blocks in stages of (5, 10, 30, 15)."""

def DMNFNetF5(
    pretrained: bool | str | PathLike[str] = False, **options: Unpack[_NFNetConfig]
) -> ImageClassifier:
    """Build ``dm_nfnet_f5``: 72 blocks in stages of (6, 12, 36, 18)."""

def DMNFNetF6(
    pretrained: bool | str | PathLike[str] = False, **options: Unpack[_NFNetConfig]
) -> ImageClassifier:
    """Build ``dm_nfnet_f6``: 84 blocks in stages of (7, 14, 42, 21)."""

def NFNetL0(
    pretrained: bool | str | PathLike[str] = False, **options: Unpack[_NFNetConfig]
) -> ImageClassifier:
    """Build ``nfnet_l0``: 12 blocks in stages of (1, 2, 6, 3)."""

def ECANFNetL0(
    pretrained: bool | str | PathLike[str] = False, **options: Unpack[_NFNetConfig]
) -> ImageClassifier:
    """Build ``eca_nfnet_l0``: 12 blocks in stages of (1, 2, 6, 3)."""

def ECANFNetL1(
    pretrained: bool | str | PathLike[str] = False, **options: Unpack[_NFNetConfig]
) -> ImageClassifier:
    """Build ``eca_nfnet_l1``: 24 blocks in stages of (2, 4, 12, 6)."""

def ECANFNetL2(
    pretrained: bool | str | PathLike[str] = False, **options: Unpack[_NFNetConfig]
) -> ImageClassifier:
    """Build ``eca_nfnet_l2``: 36 blocks in stages of (3, 6, 18, 9)."""

def ECANFNetL3(
    pretrained: bool | str | PathLike[str] = False, **options: Unpack[_NFNetConfig]
) -> ImageClassifier:
    """Build ``eca_nfnet_l3``: 48 blocks in stages of (4, 8, 24, 12)."""

def TestNFNet(
    pretrained: bool | str | PathLike[str] = False, **options: Unpack[_NFNetConfig]
) -> ImageClassifier:
    """Build ``test_nfnet``: 4 blocks in stages of (1, 1, 1, 1)."""

def SkipInitResNet50(
    pretrained: bool | str | PathLike[str] = False, **options: Unpack[_SkipInitResNetConfig]
) -> ImageClassifier:
    """Build ``skipinit_resnet50``: 16 blocks in stages of (3, 4, 6, 3)."""

def SkipInitResNet101(
    pretrained: bool | str | PathLike[str] = False, **options: Unpack[_SkipInitResNetConfig]
) -> ImageClassifier:
    """Build ``skipinit_resnet101``: 33 blocks in stages of (3, 4, 23, 3)."""

def SkipInitResNet152(
    pretrained: bool | str | PathLike[str] = False, **options: Unpack[_SkipInitResNetConfig]
) -> ImageClassifier:
    """Build ``skipinit_resnet152``: 50 blocks in stages of (3, 8, 36, 3)."""

def SkipInitResNet200(
    pretrained: bool | str | PathLike[str] = False, **options: Unpack[_SkipInitResNetConfig]
) -> ImageClassifier:
    """Build ``skipinit_resnet200``: 66 blocks in stages of (3, 24, 36, 3)."""

def SkipInitResNet288(
    pretrained: bool | str | PathLike[str] = False, **options: Unpack[_SkipInitResNetConfig]
) -> ImageClassifier:
    """Build ``skipinit_resnet288``: 96 blocks in stages of (24, 24, 24, 24)."""

def FixupResNet50(
    pretrained: bool | str | PathLike[str] = False, **options: Unpack[_FixupResNetConfig]
) -> ImageClassifier:
    """Build ``fixup_resnet50``: 16 blocks in stages of (3, 4, 6, 3)."""

def FixupResNet101(
    pretrained: bool | str | PathLike[str] = False, **options: Unpack[_FixupResNetConfig]
) -> ImageClassifier:
    """Build ``fixup_resnet101``: 33 blocks in stages of (3, 4, 23, 3)."""

def FixupResNet152(
    pretrained: bool | str | PathLike[str] = False, **options: Unpack[_FixupResNetConfig]
) -> ImageClassifier:
    """Build ``fixup_resnet152``: 50 blocks in stages of (3, 8, 36, 3)."""

def ResNet18(
    pretrained: bool | str | PathLike[str] = False, **options: Unpack[_ResNetConfig]
) -> ImageClassifier:
    """Build ``resnet18``: 8 blocks in stages of (2, 2, 2, 2)."""

def ResNet26(
    pretrained: bool | str | PathLike[str] = False, **options: Unpack[_ResNetConfig]
) -> ImageClassifier:
    """Build ``resnet26``: 8 blocks in stages of (2, 2, 2, 2)."""

def ResNet34(
    pretrained: bool | str | PathLike[str] = False, **options: Unpack[_ResNetConfig]
) -> ImageClassifier:
    """Build ``resnet34``: 16 blocks in stages of (3, 4, 6, 3)."""

def ResNet50(
    pretrained: bool | str | PathLike[str] = False, **options: Unpack[_ResNetConfig]
) -> ImageClassifier:
    """Build ``resnet50``: 16 blocks in stages of (3, 4, 6, 3)."""

def ResNet101(
    pretrained: bool | str | PathLike[str] = False, **options: Unpack[_ResNetConfig]
) -> ImageClassifier:
    """Build ``resnet101``: 33 blocks in stages of (3, 4, 23, 3)."""

def ResNet152(
    pretrained: bool | str | PathLike[str] = False, **options: Unpack[_ResNetConfig]
) -> ImageClassifier:
    """Build ``resnet152``: 50 blocks in stages of (3, 8, 36, 3)."""

def ResNetV2_10(
    pretrained: bool | str | PathLike[str] = False, **options: Unpack[_ResNetConfig]
) -> ImageClassifier:
    """Build ``resnetv2_10``: 4 blocks in stages of (1, 1, 1, 1)."""

def ResNetV2_14(
    pretrained: bool | str | PathLike[str] = False, **options: Unpack[_ResNetConfig]
) -> ImageClassifier:
    """Build ``resnetv2_14``: 6 blocks in stages of (2, 2, 2)."""

def ResNetV2_18(
    pretrained: bool | str | PathLike[str] = False, **options: Unpack[_ResNetConfig]
) -> ImageClassifier:
    """Build ``resnetv2_18``: 8 blocks in stages of (2, 2, 2, 2)."""

def ResNetV2_26(
    pretrained: bool | str | PathLike[str] = False, **options: Unpack[_ResNetConfig]
) -> ImageClassifier:
    """Build ``resnetv2_26``: 8 blocks in stages of (2, 2, 2, 2)."""

def ResNetV2_34(
    pretrained: bool | str | PathLike[str] = False, **options: Unpack[_ResNetConfig]
) -> ImageClassifier:
    """Build ``resnetv2_34``: 16 blocks in stages of (3, 4, 6, 3)."""

def ResNetV2_50(
    pretrained: bool | str | PathLike[str] = False, **options: Unpack[_ResNetConfig]
) -> ImageClassifier:
    """Build ``resnetv2_50``: 16 blocks in stages of (3, 4, 6, 3)."""

def ResNetV2_50d(
    pretrained: bool | str | PathLike[str] = False, **options: Unpack[_ResNetConfig]
) -> ImageClassifier:
    """Build ``resnetv2_50d``: 16 blocks in stages of (3, 4, 6, 3)."""

def ResNetV2_101(
    pretrained: bool | str | PathLike[str] = False, **options: Unpack[_ResNetConfig]
) -> ImageClassifier:
    """Build ``resnetv2_101``: 33 blocks in stages of (3, 4, 23, 3)."""

def ResNetV2_152(
    pretrained: bool | str | PathLike[str] = False, **options: Unpack[_ResNetConfig]
) -> ImageClassifier:
    """Build ``resnetv2_152``: 50 blocks in stages of (3, 8, 36, 3)."""

def ResNetV2_200(
    pretrained: bool | str | PathLike[str] = False, **options: Unpack[_ResNetConfig]
) -> ImageClassifier:
    """Build ``resnetv2_200``: 66 blocks in stages of (3, 24, 36, 3)."""

def ResNetV2_288(
    pretrained: bool | str | PathLike[str] = False, **options: Unpack[_ResNetConfig]
) -> ImageClassifier:
    """Build ``resnetv2_288``: 96 blocks in stages of (24, 24, 24, 24)."""

def RegNetY002(
    pretrained: bool | str | PathLike[str] = False, **options: Unpack[_RegNetYConfig]
) -> ImageClassifier:
    """Build ``regnety_002``: 13 blocks in stages of (1, 1, 4, 7)."""

def RegNetY004(
    pretrained: bool | str | PathLike[str] = False, **options: Unpack[_RegNetYConfig]
) -> ImageClassifier:
    """Build ``regnety_004``: 16 blocks in stages of (1, 3, 6, 6)."""

def RegNetY006(
    pretrained: bool | str | PathLike[str] = False, **options: Unpack[_RegNetYConfig]
) -> ImageClassifier:
    """Build ``regnety_006``: 15 blocks in stages of (1, 3, 7, 4)."""

def RegNetY008(
    pretrained: bool | str | PathLike[str] = False, **options: Unpack[_RegNetYConfig]
) -> ImageClassifier:
    """Build ``regnety_008``: 14 blocks in stages of (1, 3, 8, 2)."""

def RegNetY016(
    pretrained: bool | str | PathLike[str] = False, **options: Unpack[_RegNetYConfig]
) -> ImageClassifier:
    """Build ``regnety_016``: 27 blocks in stages of (2, 6, 17, 2)."""

def RegNetY032(
    pretrained: bool | str | PathLike[str] = False, **options: Unpack[_RegNetYConfig]
) -> ImageClassifier:
    """Build ``regnety_032``: 21 blocks in stages of (2, 5, 13, 1)."""

def WideResNet16_1(
    pretrained: bool | str | PathLike[str] = False, **options: Unpack[_WideResNetConfig]
) -> ImageClassifier:
    """Build ``wide_resnet16_1``: 6 blocks in stages of (2, 2, 2)."""

def WideResNet16_2(
    pretrained: bool | str | PathLike[str] = False, **options: Unpack[_WideResNetConfig]
) -> ImageClassifier:
    """Build ``wide_resnet16_2``: 6 blocks in stages of (2, 2, 2)."""

def WideResNet16_4(
    pretrained: bool | str | PathLike[str] = False, **options: Unpack[_WideResNetConfig]
) -> ImageClassifier:
    """Build ``wide_resnet16_4``: 6 blocks in stages of (2, 2, 2)."""

def WideResNet28_10(
    pretrained: bool | str | PathLike[str] = False, **options: Unpack[_WideResNetConfig]
) -> ImageClassifier:
    """Build ``wide_resnet28_10``: 12 blocks in stages of (4, 4, 4)."""

def WideResNet40_4(
    pretrained: bool | str | PathLike[str] = False, **options: Unpack[_WideResNetConfig]
) -> ImageClassifier:
    """Build ``wide_resnet40_4``: 18 blocks in stages of (6, 6, 6)."""

def WideResNet100_4(
    pretrained: bool | str | PathLike[str] = False, **options: Unpack[_WideResNetConfig]
) -> ImageClassifier:
    """Build ``wide_resnet100_4``: 48 blocks in stages of (16, 16, 16)."""

def WideResNet1000_4(
    pretrained: bool | str | PathLike[str] = False, **options: Unpack[_WideResNetConfig]
) -> ImageClassifier:
    """Build ``wide_resnet1000_4``: 498 blocks in stages of (166, 166, 166)."""
