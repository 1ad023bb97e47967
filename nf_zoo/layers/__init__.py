"""Keras layers of normalizer-free networks, each usable on its own."""

from nf_zoo.layers.activations import GAMMA, Rectifier, ScaledActivation, gamma_of
from nf_zoo.layers.affine import ChannelAffine, ScalarBias
from nf_zoo.layers.attention import EfficientChannelAttention, SqueezeExcite
from nf_zoo.layers.convolution import Conv2D, convolve, given_kernels
from nf_zoo.layers.pooling import DilatedAveragePool2D, MaxPool2D
from nf_zoo.layers.residual import Dropout, SkipInit, StochasticDepth
from nf_zoo.layers.standardization import (
    ScaledWSConv2D,
    ScaledWSDense,
    ScaledWSDepthwiseConv2D,
)

__all__ = [
    "GAMMA",
    "ChannelAffine",
    "Conv2D",
    "DilatedAveragePool2D",
    "Dropout",
    "EfficientChannelAttention",
    "MaxPool2D",
    "Rectifier",
    "ScalarBias",
    "ScaledActivation",
    "ScaledWSConv2D",
    "ScaledWSDense",
    "ScaledWSDepthwiseConv2D",
    "SkipInit",
    "SqueezeExcite",
    "StochasticDepth",
    "convolve",
    "gamma_of",
    "given_kernels",
]
