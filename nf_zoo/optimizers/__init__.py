"""What training needs of optimisers beyond Keras: groups of parameters."""

from nf_zoo.optimizers.parameter_groups import ParameterGroup, parameter_groups

__all__ = ["ParameterGroup", "parameter_groups"]
