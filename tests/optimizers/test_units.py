"""The units of adaptive gradient clipping follow from the type of the layer."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf

import nf_zoo
from nf_zoo.optimizers.adaptive_gradient_clipping import unit_axes
from nf_zoo.optimizers.variables import compiled_model, owners

AGC = nf_zoo.AdaptiveGradientClipping
LAYERS = keras.layers
CLIPPING = 0.01

LINEAR = {
    "dense": (lambda: LAYERS.Dense(5), (3, 4)),
    "conv1d": (lambda: LAYERS.Conv1D(5, 3), (6, 4)),
    "conv2d": (lambda: LAYERS.Conv2D(5, 3), (6, 6, 4)),
    "conv2d_grouped": (lambda: LAYERS.Conv2D(6, 3, groups=2), (6, 6, 4)),
    "conv3d": (lambda: LAYERS.Conv3D(5, 2), (4, 4, 4, 3)),
    "conv1d_transpose": (lambda: LAYERS.Conv1DTranspose(5, 3), (6, 4)),
    "conv2d_transpose": (lambda: LAYERS.Conv2DTranspose(5, 3), (6, 6, 4)),
    "conv3d_transpose": (lambda: LAYERS.Conv3DTranspose(5, 2), (3, 3, 3, 4)),
    "depthwise1d": (lambda: LAYERS.DepthwiseConv1D(3), (6, 4)),
    "depthwise2d": (lambda: LAYERS.DepthwiseConv2D(3), (6, 6, 4)),
    "depthwise2d_multiplied": (lambda: LAYERS.DepthwiseConv2D(3, depth_multiplier=2), (6, 6, 4)),
    "einsum": (lambda: LAYERS.EinsumDense("ab,bc->ac", 5), (4,)),
    "einsum_heads": (lambda: LAYERS.EinsumDense("abc,cde->abde", (None, 2, 5)), (3, 4)),
    "einsum_merged": (lambda: LAYERS.EinsumDense("abcd,cde->abe", (None, 5)), (3, 2, 4)),
    "einsum_ellipsis": (lambda: LAYERS.EinsumDense("...x,yx->...y", 5), (4,)),
    "einsum_by_position": (lambda: LAYERS.EinsumDense("abc,bcd->abd", (3, 5)), (3, 4)),
    "scaled_ws": (lambda: nf_zoo.layers.ScaledWSConv2D(5, 3), (6, 6, 4)),
    "scaled_ws_depthwise": (lambda: nf_zoo.layers.ScaledWSDepthwiseConv2D(3, 2), (6, 6, 4)),
    "scaled_ws_dense": (lambda: nf_zoo.layers.ScaledWSDense(5), (3, 4)),
}
"""Label -> a layer that is linear in its kernel, and the shape of one input."""


@pytest.mark.parametrize("label", LINEAR)
def test_a_unit_is_what_one_output_is_made_with(label):
    make, shape = LINEAR[label]
    model = keras.Sequential([LAYERS.Input(shape), make()])
    kernel = model.layers[0].kernel
    before = _randomize(kernel)
    apply_huge_gradient(model)
    step = before - np.asarray(kernel)
    x = tf.constant(np.random.default_rng(2).standard_normal((1, *shape)), "float32")
    with tf.GradientTape(persistent=True) as tape:
        # One position and channel after the other: what its gradient reaches, it is made with.
        outputs = tf.reshape(model(x), (-1,))
    # Without pfor, which has no gradient of a grouped convolution on a CPU without oneDNN.
    reached = np.asarray(tape.jacobian(outputs, kernel.value, experimental_use_pfor=False)) != 0
    units = np.unique(reached.reshape(len(reached), -1), axis=0)
    assert len(units) > 1
    for unit in units.reshape(-1, *kernel.shape):
        inside = [_norm(value[_whole_unit(unit, units, kernel.shape)]) for value in (step, before)]
        np.testing.assert_allclose(inside[0], CLIPPING * inside[1], rtol=1e-4)


def _whole_unit(unit, units, shape):
    """At the border of a transposed convolution, a position sees a part of its unit only."""
    units = units.reshape(-1, *shape)
    return max((other for other in units if (other & unit).any()), key=np.sum)


def _norm(value) -> float:
    return float(np.linalg.norm(value))


def _randomize(variable) -> np.ndarray:
    variable.assign(np.random.default_rng(0).standard_normal(variable.shape) + 0.1)
    return np.asarray(variable)


def apply_huge_gradient(model, exclude=()):
    """A step that is clipped in every unit: SGD at rate 1 moves each by the share of its norm."""
    optimizer = AGC(keras.optimizers.SGD(1.0), CLIPPING, eps=1e-9, exclude=exclude)
    rng = np.random.default_rng(1)
    gradients = [
        tf.constant(1e3 * (1.0 + rng.random(v.shape)), "float32") for v in model.trainable_variables
    ]
    optimizer.apply(gradients, model.trainable_variables)


def _attention():
    inputs = LAYERS.Input((3, 4))
    return keras.Model(inputs, LAYERS.MultiHeadAttention(2, 5, name="mha")(inputs, inputs))


def _single(layer, *shape, **options):
    return lambda: keras.Sequential([LAYERS.Input(shape, **options), layer])


KEPT = {
    "attention": (
        _attention,
        {"query/kernel": (1, 2), "attention_output/kernel": (2,), "query/bias": ()},
    ),
    "separable": (
        _single(LAYERS.SeparableConv2D(5, 3, depth_multiplier=2), 6, 6, 4),
        {"depthwise_kernel": (2, 3), "pointwise_kernel": (3,), "bias": ()},
    ),
    "separable1d": (
        _single(LAYERS.SeparableConv1D(5, 3), 6, 4),
        {"depthwise_kernel": (1, 2), "pointwise_kernel": (2,)},
    ),
    "lstm": (
        _single(LAYERS.LSTM(3), 4, 2),
        {"/kernel": (1,), "recurrent_kernel": (1,), "bias": ()},
    ),
    "gru": (_single(LAYERS.GRU(3), 4, 2), {"/kernel": (1,), "recurrent_kernel": (1,), "bias": ()}),
    "bidirectional": (
        _single(LAYERS.Bidirectional(LAYERS.SimpleRNN(3)), 4, 2),
        {"/kernel": (1,), "recurrent_kernel": (1,)},
    ),
    "conv_lstm1d": (
        _single(LAYERS.ConvLSTM1D(3, 3), 2, 6, 4),
        {"/kernel": (2,), "recurrent_kernel": (2,)},
    ),
    "conv_lstm2d": (_single(LAYERS.ConvLSTM2D(3, 3), 2, 6, 6, 4), {"/kernel": (3,)}),
    "embedding": (_single(LAYERS.Embedding(7, 3), 4, dtype="int32"), {"embeddings": (0,)}),
    "prelu": (_single(LAYERS.PReLU(), 3, 4, 5), {"alpha": ()}),
    "layer_normalization": (_single(LAYERS.LayerNormalization(axis=(1, 2)), 3, 4), {"gamma": ()}),
    "time_distributed": (
        _single(LAYERS.TimeDistributed(LAYERS.Conv2DTranspose(5, 3)), 2, 6, 6, 4),
        {"kernel": (2,)},
    ),
    "spectral": (
        _single(LAYERS.SpectralNormalization(LAYERS.Conv2DTranspose(5, 3)), 6, 6, 4),
        {"kernel": (2,)},
    ),
}
"""Label -> a model, and the end of a variable's path -> the axes along which units differ."""


@pytest.mark.parametrize("label", KEPT)
def test_units_by_type(label):
    make, expected = KEPT[label]
    model = make()
    found = []
    for variable, layers in zip(
        model.trainable_variables, owners(model.trainable_variables), strict=True
    ):
        axes = unit_axes(variable, layers)
        for end, kept in expected.items():
            if variable.path.endswith(end):
                found.append(end)
                assert set(range(len(variable.shape))) - set(axes) == set(kept), variable.path
    assert set(found) == set(expected)


@pytest.mark.fast
def test_the_matrices_of_lora_have_units():
    model = keras.Sequential([LAYERS.Input((4,), dtype="int32"), LAYERS.Embedding(7, 6)])
    model.layers[0].enable_lora(2)
    a, b = model.trainable_variables
    axes = [unit_axes(v, layers) for v, layers in zip((a, b), owners((a, b)), strict=True)]
    assert axes == [(1,), (0,)]


def upsampler(kind: str):
    """A model with a transposed convolution whose kernel looks like that of a convolution."""
    if kind == "subclassed":

        @keras.saving.register_keras_serializable("test_units")
        class Upsampler(keras.Model):
            def __init__(self, **options):
                super().__init__(**options)
                self.anything = LAYERS.Conv2DTranspose(4, 2)

            def call(self, inputs):
                return self.anything(inputs)

        model = Upsampler()
        model(np.zeros((1, 4, 4, 3), "float32"))
        return model
    inputs = LAYERS.Input((4, 4, 3))
    layer = LAYERS.Conv2DTranspose(4, 2, name="anything")
    if kind == "functional":
        return keras.Model(inputs, layer(inputs))
    return keras.Sequential([inputs, keras.Sequential([layer])])


@pytest.mark.fast
@pytest.mark.parametrize("loaded", [False, True])
@pytest.mark.parametrize("kind", ["functional", "nested", "subclassed"])
def test_transposed_convolutions_are_known_in_every_model(kind, loaded, tmp_path):
    model = upsampler(kind)
    if loaded:
        model.save(tmp_path / "model.keras")
        model = keras.models.load_model(tmp_path / "model.keras")
    (kernel,) = (v for v in model.trainable_variables if v.name == "kernel")
    before = _randomize(kernel)
    apply_huge_gradient(model)
    step = before - np.asarray(kernel)
    norms = [np.sqrt(np.sum(value**2, axis=(0, 1, 3))) for value in (step, before)]
    np.testing.assert_allclose(norms[0], CLIPPING * norms[1], rtol=1e-4)


class Odd(LAYERS.Layer):
    """A layer of one's own: its type says nothing."""

    def __init__(self, *shape, name=None):
        super().__init__(name=name)
        self.weight = self.add_weight(name="weight", shape=shape)


@pytest.mark.fast
def test_what_is_not_known_is_named():
    odd = [Odd(2, 3, 4, name="cube"), Odd(3, 4, name="matrix"), Odd(2, 3, 4, 5, 6, name="deep")]
    variables = [layer.weight for layer in odd]
    with pytest.raises(ValueError, match=r"(?s)exclude them.*cube/weight, shape \(2, 3, 4\).*deep"):
        AGC(keras.optimizers.SGD()).build(variables)
    optimizer = AGC(keras.optimizers.SGD(), exclude=[odd[0], odd[2]])
    optimizer.build(variables)
    assert optimizer._axes == (None, (0,), None)


@pytest.mark.fast
def test_layers_that_share_a_variable_and_disagree_are_named():
    table, dense = LAYERS.Embedding(3, 4), LAYERS.Dense(4)
    table.build()
    dense.kernel_of_table = table.embeddings
    assert len(owners([table.embeddings])[0]) == 2
    with pytest.raises(ValueError, match=r"embeddings, shape \(3, 4\).*'Dense', 'Embedding'"):
        AGC(keras.optimizers.SGD()).build([table.embeddings])


@pytest.mark.fast
def test_rows_of_an_embedding_are_clipped():
    model = keras.Sequential(
        [LAYERS.Input((3,), dtype="int32"), LAYERS.Embedding(5, 4), LAYERS.Flatten()]
    )
    table = model.layers[0].embeddings
    before = _randomize(table)
    model.compile(AGC(keras.optimizers.SGD(1.0), CLIPPING), loss=lambda y, z: 1e3 * (z - y) ** 2)
    model.train_on_batch(np.array([[0, 2, 2]]), np.zeros((1, 12), "float32"))
    step = np.linalg.norm(before - np.asarray(table), axis=1)
    limits = CLIPPING * np.linalg.norm(before, axis=1)
    np.testing.assert_allclose(step, limits * [1, 0, 1, 0, 0], rtol=1e-4, atol=1e-7)


@pytest.mark.fast
def test_the_model_of_an_optimizer_is_found():
    inner = keras.optimizers.SGD()
    optimizer = AGC(inner)
    model = upsampler("functional")
    assert compiled_model(optimizer) is None
    model.compile(keras.optimizers.LossScaleOptimizer(optimizer), "mse")
    assert compiled_model(optimizer) is model
    assert compiled_model(inner) is model
    assert compiled_model(keras.optimizers.SGD()) is None


def test_an_optimizer_that_hands_the_update_on_is_refused():
    several = keras.optimizers.MultiOptimizer(keras.optimizers.OptimizerMap(keras.optimizers.SGD()))
    with pytest.raises(TypeError, match="must wrap the optimizer that updates the variables"):
        nf_zoo.AdaptiveGradientClipping(several)


def test_the_loss_scale_of_the_wrapped_optimizer_is_its_own():
    sgd = keras.optimizers.SGD(0.1, loss_scale_factor=1024.0)
    wrapper = nf_zoo.AdaptiveGradientClipping(sgd)
    assert wrapper.loss_scale_factor == 1024.0
    keras.optimizers.LossScaleOptimizer(wrapper)
    assert sgd.loss_scale_factor is None
