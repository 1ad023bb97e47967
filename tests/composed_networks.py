"""Keras models of every make, whose variables have paths that change when they are loaded.

Each is compiled with adaptive gradient clipping that leaves one kernel out and clips the others to
nearly nothing, around groups in which every variable has a learning rate of its own. A step thus
tells which variable was taken for which. Run as a program, it loads models and takes a step with
each: ``python -m composed_networks FOLDER``.
"""

from __future__ import annotations

import sys
from pathlib import Path

import keras
import numpy as np
import tiny_networks

import nf_zoo
import nf_zoo.optimizers

LAYERS = keras.layers
WIDTH = 6
"""Of input, output and all in between: shapes tell no two kernels apart."""


@keras.saving.register_keras_serializable("composed_networks")
class Subclassed(keras.Model):
    def __init__(self, deep: bool = False, **options):
        super().__init__(**options)
        self.deep = deep
        layers = [LAYERS.Dense(WIDTH, activation="tanh"), LAYERS.Dense(WIDTH)]
        self.body, self.last = [keras.Sequential([layer]) if deep else layer for layer in layers]

    def call(self, inputs):
        return self.last(self.body(inputs))

    def get_config(self):
        return {**super().get_config(), "deep": self.deep}


def _inner():
    inputs = LAYERS.Input((WIDTH,))
    hidden = LAYERS.Dense(WIDTH, activation="tanh", name="body")(inputs)
    return keras.Model(inputs, LAYERS.Dense(WIDTH, name="head")(hidden))


def _dense(count: int = 3) -> list:
    return [LAYERS.Dense(WIDTH, activation="tanh") for _ in range(count)]


def _sequential(layers=None):
    return keras.Sequential([LAYERS.Input((WIDTH,)), *(layers or _dense())])


def _deferred():
    model = keras.Sequential(_dense())
    model.build((None, WIDTH))
    return model


def _called(model):
    model(np.zeros((1, WIDTH), "float32"))
    return model


def _scoped():
    with keras.name_scope("scope"):
        return _sequential()


def _twins():
    inputs = LAYERS.Input((WIDTH,))
    one, other = _inner(), _inner()
    return keras.Model(inputs, LAYERS.Add()([one(inputs), other(inputs)]))


def _frozen():
    model = _sequential()
    model.layers[0].trainable = False
    return model


def _around_the_zoo():
    body = tiny_networks.build("nf_resnet", num_classes=0)
    return keras.Sequential(
        [LAYERS.Input((WIDTH,)), LAYERS.Reshape((1, 2, 3)), body, LAYERS.Dense(WIDTH)]
    )


MODELS = {
    "sequential": _sequential,
    "deferred": _deferred,
    "scoped": _scoped,
    "nested": lambda: _sequential([_inner(), *_dense(1)]),
    "nested_sequential": lambda: _sequential([_deferred(), keras.Sequential(_dense(1))]),
    "twins": _twins,
    "frozen": _frozen,
    "subclassed": lambda: _called(Subclassed()),
    "subclassed_deep": lambda: _called(Subclassed(deep=True)),
    "zoo": _around_the_zoo,
    "scaled": _sequential,
}
"""Label -> the model; it is built."""


def build(label: str, fit: bool = False):
    """The model of that label, compiled; unless ``fit``, its optimizer is not built."""
    model = MODELS[label]()
    rng = np.random.default_rng(0)
    for variable in model.trainable_variables:
        variable.assign(0.5 * rng.standard_normal(variable.shape))
    last = [v for v in model.trainable_variables if v.name == "kernel"][-1]
    groups = [
        nf_zoo.optimizers.ParameterGroup(variable.path, 0, (variable,), 0.97**index, 0.0)
        for index, variable in enumerate(model.trainable_variables)
    ]
    optimizer = nf_zoo.AdaptiveGradientClipping(
        nf_zoo.GroupedOptimizer(keras.optimizers.SGD(0.5), groups), clipping=1e-3, exclude=last
    )
    if label == "scaled":
        optimizer = keras.optimizers.LossScaleOptimizer(optimizer, initial_scale=2.0**10)
    model.compile(optimizer, "mse", run_eagerly=True)
    if fit:
        step(model)
    return model


def step(model) -> list[np.ndarray]:
    """How one step changes each trainable variable."""
    rng = np.random.default_rng(1)
    x, y = rng.standard_normal((2, 8, WIDTH)).astype("float32")
    before = [np.asarray(variable.value) for variable in model.trainable_variables]
    model.train_on_batch(x, y)
    return [
        np.asarray(variable.value) - start
        for variable, start in zip(model.trainable_variables, before, strict=True)
    ]


def save_step(model, path: Path) -> None:
    np.savez(path, *step(model))


if __name__ == "__main__":
    for file in sorted(Path(sys.argv[1]).glob("*.keras")):
        save_step(keras.models.load_model(file), file.with_suffix(".loaded.npz"))
