"""The zoo's networks in TensorFlow, compiled by XLA, with random weights."""

from __future__ import annotations

import keras
import numpy as np
import tensorflow as tf

import nf_zoo

POLICIES = {"bfloat16": "mixed_bfloat16", "TF32": "float32", "float32": "float32"}


class Network:
    """One network at one precision, and its programs.

    Args:
        task: an entry of :func:`benchmarks.gpu.plan.plan`.

    Raises:
        RuntimeError: if TensorFlow sees no GPU.
    """

    threads = 1

    def __init__(self, task: dict):
        self._card = bool(tf.config.list_physical_devices("GPU"))
        if not (self._card or task.get("rehearsed")):
            raise RuntimeError("TensorFlow sees no GPU")
        self._size, precision = task["size"], task["programs"][0]["precision"]
        tf.config.experimental.enable_tensor_float_32_execution(precision != "float32")
        keras.utils.set_random_seed(0)
        self._model = nf_zoo.create_model(task["name"], dtype=POLICIES[precision])
        for variable in self._model.variables:
            if variable.name.endswith("gain"):
                variable.assign(np.ones(variable.shape))
        self._folded = nf_zoo.fold(self._model)
        self._optimizer = keras.optimizers.SGD(1e-3, momentum=0.9)
        self._optimizer.build(self._model.trainable_variables)
        self.facts = {
            "version": f"TensorFlow {tf.__version__}, Keras {keras.__version__}",
            "device": self._name(),
            "multiply_adds": self._model.multiply_adds(self._size, self._size),
        }

    def trace(self, program: dict) -> None:
        """Do nothing: TensorFlow traces when it compiles."""

    def compile(self, program: dict):
        """Return the program after its first run."""
        model = self._folded if program["form"] == "folded" else self._model
        if program["task"] == "training":
            function = tf.function(self._step, jit_compile=True, autograph=False)
        else:
            function = tf.function(
                lambda images, classes: model(images, training=False),
                jit_compile=True,
                autograph=False,
            )
        function(*self._batch(program))
        return function

    def start(self, program: dict, compiled):
        """Return functions that enqueue a run, wait for it, and return the used memory."""
        if self._card:
            tf.config.experimental.reset_memory_stats("GPU:0")
        arguments, last = self._batch(program), [None]

        def call():
            last[0] = compiled(*arguments)

        def memory():
            return tf.config.experimental.get_memory_info("GPU:0")["peak"] if self._card else 0

        return call, lambda: last[0].numpy(), memory

    def clean(self) -> None:
        """Do nothing: memory is freed with the objects that hold it."""

    def _batch(self, program: dict):
        batch = program["batch"]
        images = tf.random.normal((batch, self._size, self._size, 3))
        return images, tf.range(batch) % self._model.num_classes

    def _step(self, images, classes):
        variables = self._model.trainable_variables
        with tf.GradientTape() as tape:
            logits = tf.cast(self._model(images, training=True), tf.float32)
            losses = tf.nn.sparse_softmax_cross_entropy_with_logits(classes, logits)
            loss = tf.reduce_mean(losses)
        gradients = tape.gradient(loss, [variable.value for variable in variables])
        self._optimizer.apply(gradients, variables)
        return loss

    def _name(self) -> str:
        if not self._card:
            return "cpu"
        card = tf.config.list_physical_devices("GPU")[0]
        return tf.config.experimental.get_device_details(card).get("device_name", "GPU")
