"""The zoo's networks under JAX, with random weights: folded, unfolded, and in a training step."""

from __future__ import annotations

import contextlib

import jax
import jax.numpy as jnp
import keras
import numpy as np

import nf_zoo

POLICIES = {"bfloat16": "mixed_bfloat16", "TF32": "float32", "float32": "float32"}
MATRIX_PRECISIONS = {"bfloat16": "default", "TF32": "default", "float32": "highest"}


class Network:
    """One network at one precision with its programs, or the card's matrix product.

    Args:
        task: an entry of :func:`benchmarks.gpu.plan.plan`.
    """

    threads = 4

    def __init__(self, task: dict):
        device = jax.devices()[0]
        self._size, self._traced = task["size"], {}
        self.facts = {
            "version": f"JAX {jax.__version__}, Keras {keras.__version__}",
            "device": device.device_kind,
        }
        if not task["network"]:
            return
        policy = POLICIES[task["programs"][0]["precision"]]
        # Built on the processor with little optimization, as every small operation is compiled.
        with jax.default_device(_processor()), _in_a_hurry():
            keras.utils.set_random_seed(0)
            self._model = _with_branches(nf_zoo.create_model(task["name"], dtype=policy))
            self._folded = nf_zoo.fold(self._model)
            self._optimizer = keras.optimizers.SGD(1e-3, momentum=0.9)
            self._optimizer.build(self._model.trainable_variables)
        work = self._model.multiply_adds(task["size"], task["size"])
        self.facts |= {"multiply_adds": work, "parameters": self._model.count_params()}

    def trace(self, program: dict) -> None:
        """Trace the program without running it."""
        function, *arguments = self._parts(program)
        shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), arguments)
        donated = (0,) if program["task"] == "training" else ()
        with jax.default_matmul_precision(MATRIX_PRECISIONS[program["precision"]]):
            traced = jax.jit(function, donate_argnums=donated).lower(*shapes)
        self._traced[_key(program)] = traced

    def compile(self, program: dict):
        """Return the program compiled for the card."""
        return self._traced.pop(_key(program)).compile()

    def start(self, program: dict, compiled):
        """Return functions that enqueue a run, wait for it, and return the used memory."""
        _, *arguments = self._parts(program, random=True)
        # Copies are needed, because a step reuses the memory of its arguments for its results.
        card = jax.devices()[0]
        arguments = jax.tree.map(lambda x: jax.device_put(np.array(x), card), arguments)
        last = [arguments[0], None]

        def call():
            if program["task"] == "training":
                last[0], last[1] = compiled(last[0], *arguments[1:])
            else:
                last[1] = compiled(*arguments)

        if program["task"] == "training":
            arguments[0] = None
        return call, lambda: jax.block_until_ready(last[1]), lambda: _memory_of(compiled)

    def clean(self) -> None:
        """Do nothing: memory is freed with the objects that hold it."""

    def _parts(self, program: dict, random: bool = False):
        """Return (function, arguments in host memory); images are random only if values matter."""
        batch, size = program["batch"], self._size
        kind = jnp.bfloat16 if program["precision"] == "bfloat16" else np.float32
        if program["task"] == "product":
            sides = (size, size)
            a, b = (_images(sides, seed, random).astype(kind) for seed in (0, 1))
            return jnp.matmul, a, b
        images = _images((batch, size, size, 3), 0, random)
        if program["task"] == "training":
            state = tuple(
                [np.asarray(v.value) for v in some]
                for some in (
                    self._model.trainable_variables,
                    self._model.non_trainable_variables,
                    self._optimizer.variables,
                )
            )
            return (
                self._step,
                state,
                images,
                np.arange(batch, dtype="int32") % self._model.num_classes,
            )
        model = self._folded if program["form"] == "folded" else self._model
        state = [
            [np.asarray(v.value) for v in some]
            for some in (model.trainable_variables, model.non_trainable_variables)
        ]
        if program["form"] == "folded" and program["precision"] == "bfloat16":
            # A server would hold rounded weights; otherwise every run rounds all of them again.
            state[0] = [value.astype(kind) for value in state[0]]

        def infer(state, images):
            return model.stateless_call(*state, images, training=False)[0]

        return infer, state, images

    def _step(self, state, images, classes):
        trainable, other, optimizer = state

        def loss_of(trainable):
            logits, after = self._model.stateless_call(trainable, other, images, training=True)
            logs = jax.nn.log_softmax(jnp.asarray(logits, "float32"))
            return -jnp.mean(jnp.take_along_axis(logs, classes[:, None], 1)), after

        (loss, other), gradients = jax.value_and_grad(loss_of, has_aux=True)(trainable)
        trainable, optimizer = self._optimizer.stateless_apply(optimizer, gradients, trainable)
        return (trainable, other, optimizer), loss


@contextlib.contextmanager
def _in_a_hurry():
    """Compile with little optimization until exit."""
    jax.config.update("jax_disable_most_optimizations", True)
    try:
        yield
    finally:
        jax.config.update("jax_disable_most_optimizations", False)


def _processor():
    """Return the processor; None, which is the card, if JAX was told to leave the processor out."""
    try:
        return jax.devices("cpu")[0]
    except RuntimeError:
        return None


def _key(program: dict) -> tuple:
    return tuple(program.values())


def _images(shape, seed: int, random: bool):
    """Return images of mean 0 and variance 1."""
    if not random:
        return np.empty(shape, "float32")
    uniform = np.random.default_rng(seed).random(shape, "float32")
    return (uniform - np.float32(0.5)) * np.float32(12**0.5)


def _with_branches(model):
    """Set every gain to nonzero values, as after training, so that no branch can be left out."""
    for variable in model.variables:
        if variable.name.endswith("gain"):
            variable.assign(np.ones(variable.shape))
    return model


def _memory_of(compiled) -> int:
    """Return the bytes on the card during a run: arguments, results and intermediate values."""
    found = compiled.memory_analysis()
    sizes = (found.argument_size_in_bytes, found.output_size_in_bytes, found.temp_size_in_bytes)
    return sum(sizes) - found.alias_size_in_bytes
