"""Adaptive gradient clipping and parameter groups, around any Keras optimizer."""

from nf_zoo.optimizers.adaptive_gradient_clipping import AdaptiveGradientClipping
from nf_zoo.optimizers.parameter_groups import GroupedOptimizer, ParameterGroup, parameter_groups

__all__ = ["AdaptiveGradientClipping", "GroupedOptimizer", "ParameterGroup", "parameter_groups"]
