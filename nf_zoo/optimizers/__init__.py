"""What training needs of optimizers beyond Keras."""

from nf_zoo.optimizers.adaptive_gradient_clipping import AdaptiveGradientClipping
from nf_zoo.optimizers.grouped import GroupedOptimizer
from nf_zoo.optimizers.parameter_groups import ParameterGroup, parameter_groups

__all__ = ["AdaptiveGradientClipping", "GroupedOptimizer", "ParameterGroup", "parameter_groups"]
