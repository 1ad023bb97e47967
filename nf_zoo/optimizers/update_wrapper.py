"""Wrapper around an optimizer that changes the update of each variable."""

import keras

from nf_zoo.optimizers.momentum import fused_update
from nf_zoo.optimizers.variables import compiled_model


class UpdateWrapper(keras.optimizers.Optimizer):
    """Wrapper that changes the arguments of an optimizer's ``update_step``.

    Only ``update_step`` of a Keras optimizer sees the gradient of the whole step: summed over the
    replicas of a strategy, averaged over accumulated batches and without the loss scale. A change
    before that acts on each replica's share separately.

    Subclasses override ``adjust``, which changes nothing here, and inspect the variables
    beforehand in ``prepare``. A wrapper may wrap another one: the outer ``adjust`` comes first.
    """

    def __init__(self, optimizer, name: str | None = None):
        if not isinstance(optimizer, keras.optimizers.Optimizer):
            raise TypeError(
                "The optimizer to wrap must be an instance of a Keras optimizer, such as "
                f"keras.optimizers.SGD(0.1). Received: {optimizer!r}"
            )
        innermost = optimizer
        while isinstance(innermost, UpdateWrapper):  # its `apply` bypasses its `update_step`
            innermost = innermost.inner_optimizer
        if type(innermost).apply is not keras.optimizers.Optimizer.apply:
            raise TypeError(
                f"{type(self).__name__} must wrap the optimizer that updates the variables: "
                f"LossScaleOptimizer({type(self).__name__}(SGD(...))). Received: "
                f"{type(optimizer).__name__}"
            )
        # The wrapped optimizer keeps its rate, decay, clipping and averages.
        super().__init__(learning_rate=0.0, name=name)
        self.inner_optimizer, given, optimizer = optimizer, optimizer, innermost
        if getattr(optimizer.update_step, "wrapper", None) not in (None, id(given)):
            raise ValueError(
                "The optimizer must not be in another wrapper already, whose changes would stay: "
                f"make a new {type(optimizer).__name__}. Received: {given!r}"
            )
        update = fused_update(optimizer)

        def update_step(gradient, variable, learning_rate):
            index = optimizer._get_variable_index(variable)
            return update(*self.adjust(index, gradient, variable, learning_rate))

        update_step.wrapper = id(self)
        optimizer.update_step = update_step
        if hasattr(optimizer, "_parallel_update_step"):
            # Under PyTorch some optimizers update all variables at once, without `update_step`.
            def one_by_one(gradients, variables, learning_rate):
                for gradient, variable in zip(gradients, variables, strict=True):
                    optimizer.update_step(gradient, variable, learning_rate)

            optimizer._backend_update_step = one_by_one

    def prepare(self, variables) -> None:
        """Inspect the variables once, before anything is built."""

    def adjust(self, index: int, gradient, variable, learning_rate):
        """Return the ``(gradient, variable, learning_rate)`` to update with.

        ``index`` is the variable's place in the list that the optimizer was built with.
        """
        return gradient, variable, learning_rate

    def build(self, variables):
        if self.built:
            return
        self.prepare(variables)
        if not self.inner_optimizer.built:
            self.inner_optimizer.build(variables)
        super().build(variables)
        self.use_ema = self.inner_optimizer.use_ema
        if self.use_ema:  # callbacks that evaluate the averages look for them here
            averages = self.inner_optimizer._model_variables_moving_average
            self._model_variables_moving_average = averages

    def trained_variables(self) -> list | None:
        """Return the variables that the optimizer is or will be built with; None if unknown yet."""
        if self.built:
            return self._trainable_variables
        model = compiled_model(self)
        return model.trainable_variables if model is not None and model.built else None

    @property
    def variables(self):
        return self._variables + self.inner_optimizer.variables

    def apply(self, grads, trainable_variables=None):
        if trainable_variables is not None:
            trainable_variables = list(trainable_variables)
            self.build(trainable_variables)
        elif self.inner_optimizer.built:
            self.build(self.inner_optimizer._trainable_variables)
        self.inner_optimizer.apply(grads, trainable_variables)

    def update_step(self, gradient, variable, learning_rate):
        return self.inner_optimizer.update_step(gradient, variable, learning_rate)

    @property
    def learning_rate(self):
        return self.inner_optimizer.learning_rate

    @learning_rate.setter
    def learning_rate(self, learning_rate):
        self.inner_optimizer.learning_rate = learning_rate

    @property
    def loss_scale_factor(self):
        return getattr(getattr(self, "inner_optimizer", None), "loss_scale_factor", None)

    @loss_scale_factor.setter
    def loss_scale_factor(self, factor):
        if hasattr(self, "inner_optimizer"):  # Keras sets it before there is one
            self.inner_optimizer.loss_scale_factor = factor

    @property
    def iterations(self):
        return self.inner_optimizer.iterations

    def scale_loss(self, loss):
        return self.inner_optimizer.scale_loss(loss)

    def finalize_variable_values(self, var_list):
        self.inner_optimizer.finalize_variable_values(var_list)

    def exclude_from_weight_decay(self, var_list=None, var_names=None):
        self.inner_optimizer.exclude_from_weight_decay(var_list, var_names)

    def get_config(self):
        inner = keras.saving.serialize_keras_object(self.inner_optimizer)
        return {"name": self.name, "optimizer": inner}

    @classmethod
    def from_config(cls, config, custom_objects=None):
        config = dict(config)
        inner = keras.saving.deserialize_keras_object(config.pop("optimizer"), custom_objects)
        return cls(inner, **config)
