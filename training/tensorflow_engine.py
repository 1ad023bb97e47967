"""Training and evaluation steps under tf.distribute.

In a step every replica varies its pictures and takes the gradient of its share of the loss, which
is the sum over its pictures divided by the size of the whole batch. The optimizer adds up the
shares. In networks in which no picture sees another this is the gradient of the whole batch,
however the batch is cut up.
"""

import contextlib

import numpy as np
import tensorflow as tf

from nf_zoo.layers import ScaledWSConv2D, given_kernels
from nf_zoo.models.replicas import step_as_on_one_device
from training import augmentation
from training.engine import Engine, averages_of, innermost
from training.normalization import fuse_batch_normalization


class TensorFlowEngine(Engine):
    """Steps of one model, made with its optimizer in the scope of the strategy.

    ``jit`` compiles the gradient with XLA; else BatchNormalization layers are fused in place.
    """

    def __init__(self, recipe, strategy, model, optimizer, jit: bool = False):
        super().__init__(recipe, model, optimizer, strategy.num_replicas_in_sync)
        self.strategy = strategy
        self.hosts = self.replicas // len(strategy.extended.worker_devices)
        self._variables = model.trainable_variables
        step_as_on_one_device(optimizer)
        self._standardized = _standardized_layers(model)
        if not jit:  # XLA fuses by itself
            fuse_batch_normalization(model)
        double = model.dtype_policy.compute_dtype == "float64"
        self._loss_type = tf.float64 if double else tf.float32
        self._gradient = tf.function(
            self._accumulated if recipe.accumulate > 1 else self._loss_and_gradient,
            jit_compile=jit,
            autograph=False,
        )
        self._vary = tf.function(self._varied, jit_compile=True, autograph=False)
        self._train = tf.function(self._train_step, autograph=False)
        self.sums = tf.function(self._evaluation_step, autograph=False)

    def train_step(self, batch, size: int | None = None):
        """Update once, on pictures shrunk to ``size`` pixels; return the mean loss, a scalar.

        The loss is not finite if the step diverged. The update of a step whose gradient is not
        finite is left out; of several replicas, those with such a gradient give none, and with loss
        scaling none of them does.
        """
        return self._train(batch, size)

    def iterations(self) -> int:
        return int(np.asarray(innermost(self.optimizer).iterations.value))  # on every host

    def set_iterations(self, step: int) -> None:
        innermost(self.optimizer).iterations.assign(step)

    @contextlib.contextmanager
    def averaged(self):
        self._swap()
        try:
            yield
        finally:
            self._swap()

    def agree(self, value: float) -> float:
        if self.hosts == 1:
            return value
        values = self.strategy.experimental_distribute_values_from_function(
            lambda _: tf.constant([value], tf.float64)
        )
        return float(tf.reduce_max(self.strategy.gather(values, axis=0)))

    def _swap(self) -> None:
        for variable, average in zip(self._variables, averages_of(self.optimizer), strict=True):
            value = tf.identity(tf.convert_to_tensor(variable.value))
            variable.assign(average.value)
            average.assign(value)

    def _varied(self, images, classes, draws, size):
        count = self.model.num_classes
        return augmentation.vary(self.recipe, images, classes, draws, count, size)

    def _loss_and_gradient(self, images, targets):
        """Return this replica's share of the loss, and its gradient."""
        return self._loss_and_gradient_of(images, targets, [v.value for v in self._variables])

    def _loss_and_gradient_of(self, images, targets, sources):
        with tf.GradientTape() as tape:
            tape.watch(sources)
            logits = tf.cast(self.model(images, training=True), self._loss_type)
            targets = tf.cast(targets, logits.dtype)
            losses = tf.nn.softmax_cross_entropy_with_logits(targets, logits)
            loss = tf.reduce_sum(losses) / self.recipe.batch_size
            objective = self.optimizer.scale_loss(loss) if self.scaled else loss
        return loss, tape.gradient(objective, sources)

    def _accumulated(self, images, targets):
        """Return the same, micro-batch by micro-batch; kernels are standardized once for all."""
        count = self.recipe.accumulate
        images = tf.reshape(images, (count, -1, *images.shape[1:]))
        targets = tf.reshape(targets, (count, -1, *targets.shape[1:]))
        with tf.GradientTape() as tape:
            kernels = {layer: layer.effective_kernel() for layer in self._standardized}
        behind, others, trained = self._cut_at(kernels)
        sources = [v.value for v in others] + trained

        def add(index, total, sums):
            with given_kernels(kernels):
                loss, gradients = self._loss_and_gradient_of(images[index], targets[index], sources)
            return index + 1, total + loss, [a + b for a, b in zip(sums, gradients, strict=True)]

        zeros = [tf.zeros(source.shape, source.dtype) for source in sources]
        _, loss, sums = tf.while_loop(
            lambda index, *_: index < count, add, (0, tf.zeros((), self._loss_type), zeros)
        )
        sums, upstream = sums[: len(others)], sums[len(others) :]
        sums += tape.gradient(trained, [v.value for v in behind], upstream)
        of_variable = {id(v): g for v, g in zip([*others, *behind], sums, strict=True)}
        return loss, [of_variable[id(v)] for v in self._variables]

    def _cut_at(self, kernels):
        """Return the variables of the kernels, all others, and the kernels that are trained."""
        inside = {id(v) for layer in kernels for v in (layer.kernel, layer.gain)}
        behind = [v for v in self._variables if id(v) in inside]
        others = [v for v in self._variables if id(v) not in inside]
        moving = {id(v) for v in behind}
        trained = [k for layer, k in kernels.items() if moving & {id(layer.kernel), id(layer.gain)}]
        return behind, others, trained

    def _train_step(self, batch, size):
        def step(images, classes, draws):
            loss, gradients = self._gradient(*self._vary(images, classes, draws, size))
            if self.scaled:  # loss scaling itself skips steps with infinities
                self.optimizer.apply(gradients, self._variables)
                return loss
            largest = [tf.reduce_max(tf.abs(gradient)) for gradient in gradients]
            finite = tf.math.is_finite(loss) & tf.math.is_finite(tf.add_n(largest))

            def update():
                self.optimizer.apply(gradients, self._variables)
                return loss

            nothing = tf.constant(float("nan"), loss.dtype)
            if self.replicas == 1:
                return tf.cond(finite, update, lambda: nothing)
            # Replicas cannot meet in a branch.
            gradients = [tf.where(finite, g, tf.zeros_like(g)) for g in gradients]
            return tf.where(finite, update(), nothing)

        losses = self.strategy.run(step, args=batch)
        return self.strategy.reduce(tf.distribute.ReduceOp.SUM, losses, axis=None)

    def _evaluation_step(self, batch):
        def step(images, classes, weights):
            logits = self.model(augmentation.for_test(self.recipe, images), training=False)
            logits = tf.cast(logits, tf.float32)
            losses = tf.nn.sparse_softmax_cross_entropy_with_logits(classes, logits)
            first = tf.cast(tf.nn.in_top_k(classes, logits, 1), tf.float32)
            five = min(5, self.model.num_classes)
            fifth = tf.cast(tf.nn.in_top_k(classes, logits, five), tf.float32)
            columns = tf.stack([losses, first, fifth, tf.ones_like(losses)], 1)
            return tf.reduce_sum(columns * weights[:, None], 0)

        sums = self.strategy.run(step, args=batch)
        return self.strategy.reduce(tf.distribute.ReduceOp.SUM, sums, axis=None)


def _standardized_layers(model) -> list:
    """Return the layers whose kernels can be given: gradients do not leave recomputed blocks."""
    blocks = [one for one in model._flatten_layers() if getattr(one, "rematerialize", False)]
    recomputed = {id(part) for block in blocks for part in block._flatten_layers()}
    return [
        layer
        for layer in model._flatten_layers()
        if isinstance(layer, ScaledWSConv2D) and id(layer) not in recomputed
    ]
