from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf
from programs import printed_by

from nf_zoo.layers import (
    Conv2D,
    MaxPool2D,
    ScaledWSConv2D,
    ScaledWSDense,
    ScaledWSDepthwiseConv2D,
    convolve,
    primitives,
)


def normal(shape, seed=0, scale=1.0):
    return scale * np.random.default_rng(seed).standard_normal(shape).astype("float32")


def reference(x, kernel, strides, pads, dilation=1, groups=1):
    """Direct convolution in float64; pads = ((top, bottom), (left, right))."""
    x = np.pad(x.astype("float64"), ((0, 0), *pads, (0, 0)))
    kh, kw, fan, filters = kernel.shape
    height = (x.shape[1] - dilation * (kh - 1) - 1) // strides + 1
    width = (x.shape[2] - dilation * (kw - 1) - 1) // strides + 1
    y = np.zeros((len(x), height, width, filters))
    per_group = filters // groups
    for i in range(kh):
        for j in range(kw):
            rows = slice(i * dilation, i * dilation + strides * (height - 1) + 1, strides)
            columns = slice(j * dilation, j * dilation + strides * (width - 1) + 1, strides)
            patch = x[:, rows, columns]
            for group in range(groups):
                out = slice(group * per_group, (group + 1) * per_group)
                tap = kernel[i, j, :, out].astype("float64")
                y[..., out] += patch[..., group * fan : (group + 1) * fan] @ tap
    return y


@pytest.mark.fast
@pytest.mark.parametrize("size", [(8, 9), (9, 8)])
@pytest.mark.parametrize("kernel_size", [1, 3, 7])
@pytest.mark.parametrize("strides", [1, 2])
@pytest.mark.parametrize("dilation", [1, 2])
@pytest.mark.parametrize("groups", [1, 2])
def test_symmetric_padding(size, kernel_size, strides, dilation, groups):
    x, kernel = normal((2, *size, 4)), normal((kernel_size, kernel_size, 4 // groups, 6), 1)
    side = dilation * (kernel_size - 1) // 2
    if strides > 1 and dilation > 1:
        with pytest.raises(ValueError, match="dilation"):
            convolve(x, kernel, strides, "symmetric", dilation, groups)
        return
    y = convolve(x, kernel, strides, "symmetric", dilation, groups)
    expected = reference(x, kernel, strides, ((side, side), (side, side)), dilation, groups)
    np.testing.assert_allclose(y, expected, atol=1e-4)


@pytest.mark.fast
@pytest.mark.parametrize("side", [1, 2, 3])
def test_circular_padding_wider_than_the_map(side):
    x, kernel = normal((2, side, side, 4)), normal((3, 3, 4, 6), 1)
    padded = np.pad(x, ((0, 0), (4, 4), (4, 4), (0, 0)), mode="wrap")
    expected = reference(padded, kernel, 1, ((0, 0), (0, 0)), 4, groups=1)
    np.testing.assert_allclose(convolve(x, kernel, 1, "circular", 4), expected, atol=1e-4)


@pytest.mark.fast
@pytest.mark.parametrize(("padding", "mode"), [("reflect", "reflect"), ("circular", "wrap")])
@pytest.mark.parametrize(("kernel_size", "strides", "dilation"), [(3, 1, 1), (3, 2, 1), (5, 1, 2)])
def test_padding_with_the_pictures_own_pixels(padding, mode, kernel_size, strides, dilation):
    x, kernel = normal((2, 9, 12, 4)), normal((kernel_size, kernel_size, 2, 6), 1)
    side = dilation * (kernel_size - 1) // 2
    padded = np.pad(x, ((0, 0), (side, side), (side, side), (0, 0)), mode=mode)
    expected = reference(padded, kernel, strides, ((0, 0), (0, 0)), dilation, groups=2)
    y = convolve(x, kernel, strides, padding, dilation, groups=2)
    np.testing.assert_allclose(y, expected, atol=1e-4)
    layer = Conv2D(6, kernel_size, strides, padding, dilation, groups=2)
    assert layer(x).shape == layer.compute_output_shape(x.shape) == expected.shape


@pytest.mark.fast
def test_same_padding_puts_the_surplus_at_the_end():
    x, kernel = normal((1, 8, 8, 3)), normal((3, 3, 3, 5), 1)
    y = convolve(x, kernel, 2, "same")
    np.testing.assert_allclose(y, reference(x, kernel, 2, ((0, 1), (0, 1))), atol=1e-4)
    assert np.abs(y - convolve(x, kernel, 2, "symmetric")).max() > 0.1


@pytest.mark.parametrize("groups", [2, 3, 6], ids=["pairs", "threes", "depthwise"])
@pytest.mark.parametrize(
    ("kernel_size", "strides", "dilation"),
    [(1, 1, 1), (1, 2, 1), (2, 1, 1), (2, 2, 1), (3, 1, 1), (3, 2, 1), (3, 1, 2)],
)
@pytest.mark.parametrize("padding", ["same", "valid", "symmetric"])
def test_grouped_gradients_equal_split_and_concatenate(
    strides, padding, kernel_size, dilation, groups
):
    shape = (kernel_size, kernel_size, 6 // groups, 12)
    x = tf.constant(normal((2, 8, 9, 6)), tf.float64)
    kernel = tf.constant(normal(shape, 1), tf.float64)

    def split(x, kernel):
        parts = zip(tf.split(x, groups, -1), tf.split(kernel, groups, -1), strict=True)
        return tf.concat([convolve(a, b, strides, padding, dilation) for a, b in parts], -1)

    def grouped(x, kernel):
        return convolve(x, kernel, strides, padding, dilation, groups)

    def gradients(function):
        with tf.GradientTape() as tape:
            tape.watch([x, kernel])
            y = function(x, kernel)
            loss = tf.reduce_sum(tf.sin(y))
        return [y, *tape.gradient(loss, [x, kernel])]

    in_graph = tf.function(lambda: gradients(grouped))()
    for a, b, c in zip(gradients(grouped), in_graph, gradients(split), strict=True):
        np.testing.assert_allclose(a, c, rtol=1e-10, atol=1e-10)
        np.testing.assert_allclose(b, c, rtol=1e-10, atol=1e-10)


def of_tensorflow(x, kernel, strides, padding):
    return tf.nn.conv2d(x, kernel, strides, padding.upper())


def of_each_group(x, kernel, strides, padding, groups):
    parts = zip(tf.split(x, groups, -1), tf.split(kernel, groups, -1), strict=True)
    return tf.concat([of_tensorflow(a, b, strides, padding) for a, b in parts], -1)


def derivatives(function, *arguments, twice=False):
    """Return the result, its gradients, and with ``twice`` those of the gradients' squares."""
    with tf.GradientTape() as outer:
        outer.watch(arguments)
        with tf.GradientTape() as inner:
            inner.watch(arguments)
            y = function(*arguments)
            loss = tf.reduce_sum(tf.sin(y))
        first = inner.gradient(loss, arguments)
        penalty = sum(tf.reduce_sum(tf.square(gradient)) for gradient in first)
    return [y, *first, *(outer.gradient(penalty, arguments) if twice else ())]


def assert_same_derivatives(ours, theirs, *arguments, twice=False):
    pairs = zip(
        derivatives(ours, *arguments, twice=twice),
        derivatives(theirs, *arguments, twice=twice),
        strict=True,
    )
    for a, b in pairs:
        scale = np.abs(b).max()
        np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-12 * scale)


@pytest.mark.parametrize(
    ("size", "channels", "groups"),
    [((3, 50, 63), 12, 6), ((2, 7, 6), 12, 6), ((2, 5, 6), 34, 2)],
    ids=["packed", "pictures as channels", "wide"],
)
@pytest.mark.parametrize(
    ("kernel_size", "strides", "padding"),
    [(3, 1, "same"), (3, 2, "same"), (3, 2, "valid"), (2, 1, "same"), (1, 3, "valid")],
)
def test_second_derivatives_of_groups(size, channels, groups, kernel_size, strides, padding):
    x = tf.constant(normal((*size, channels)), tf.float64)
    shape = (kernel_size, kernel_size, channels // groups, 2 * channels)
    kernel = tf.constant(normal(shape, 1), tf.float64)
    pixels = np.prod(convolve(x, kernel, strides, padding, groups=groups).shape[:3])
    if kernel_size == 3:
        assert (pixels > primitives.FEW_PIXELS) == (size[0] == 3)  # else a form is left untested
    assert_same_derivatives(
        lambda x, kernel: convolve(x, kernel, strides, padding, groups=groups),
        lambda x, kernel: of_each_group(x, kernel, strides, padding, groups),
        *(x, kernel),
        twice=True,
    )


@pytest.mark.fast
@pytest.mark.parametrize("size", [(None, 6, 7, 8), (None, None, None, 8)])
def test_gradients_of_groups_of_unknown_sizes(size):
    x = tf.constant(normal((2, 6, 7, 8)), tf.float64)
    kernel = tf.constant(normal((3, 3, 2, 8), 1), tf.float64)
    types = [tf.TensorSpec(size, tf.float64), tf.TensorSpec(kernel.shape, tf.float64)]
    graph = tf.function(lambda *a: convolve(*a, 2, groups=4), input_signature=types)
    assert_same_derivatives(graph, lambda *a: of_each_group(*a, 2, "same", 4), x, kernel)


@pytest.mark.fast
@pytest.mark.parametrize("size", [(3, 4), (1, 1), (2, 2)])
@pytest.mark.parametrize("kernel_size", [1, 2, 3, 5])
@pytest.mark.parametrize("strides", [1, 2])
@pytest.mark.parametrize("padding", ["same", "valid"])
def test_forms_are_a_convolution_and_its_gradients(size, kernel_size, strides, padding):
    if padding == "valid" and kernel_size > min(size):
        return
    x = tf.constant(normal((3, *size, 4)), tf.float64)
    kernel = tf.constant(normal((kernel_size, kernel_size, 4, 6), 1), tf.float64)
    forms = [
        primitives._with_own_gradients(strides, padding.upper(), turned, products)
        for turned, products in [(False, True), (True, True), (True, False)]
    ]
    if size != (3, 4):
        forms.append(lambda *a: primitives._as_one_product(*a, strides, padding.upper()))
    for form in forms:
        assert_same_derivatives(
            form, lambda *a: of_tensorflow(*a, strides, padding), x, kernel, twice=True
        )


def in_graph(layer, size, training):
    """Return the types of the operations of a layer and of its gradients, functions inlined."""
    layer.build(size)

    def step(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            loss = tf.reduce_sum(layer(x, training=training))
        return tape.gradient(loss, [x, *(v.value for v in layer.trainable_variables)])

    graph = tf.function(step).get_concrete_function(tf.TensorSpec(size, layer.compute_dtype))
    functions = graph.graph.as_graph_def().library.function
    return {
        *(op.type for op in graph.graph.get_operations()),
        *(node.op for function in functions for node in function.node_def),
    }


@pytest.mark.fast
@pytest.mark.parametrize(
    ("size", "kernel_size", "strides", "replaced_in"),
    [  # where oneDNN is on
        ((8, 14, 14, 16), 1, 1, ("float32", "mixed_bfloat16")),
        ((8, 14, 14, 16), 1, 2, ()),
        ((8, 4, 4, 16), 3, 1, ("float32", "mixed_bfloat16")),
        ((1, 4, 4, 16), 3, 1, ("mixed_bfloat16",)),
        ((8, 8, 8, 16), 3, 2, ("float32", "mixed_bfloat16")),
        ((8, 5, 5, 16), 3, 1, ()),
        ((8, 7, 7, 448), 3, 1, ("mixed_bfloat16",)),
        ((8, 2, 2, 16), 3, 1, ("float32", "mixed_bfloat16")),
        ((1, 2, 2, 16), 3, 1, ("mixed_bfloat16",)),
        ((1, 1, 1, 16), 3, 1, ("float32", "mixed_bfloat16")),
        ((8, None, None, 16), 1, 1, ()),
    ],
)
def test_training_takes_matrix_products(size, kernel_size, strides, replaced_in, monkeypatch):
    monkeypatch.setattr(primitives, "_has_onednn", lambda: True)

    def operations(policy, training):
        filters = size[-1]
        return in_graph(Conv2D(filters, kernel_size, strides, dtype=policy), size, training)

    slow = "Conv2DBackpropFilter"
    for policy in ("float32", "mixed_bfloat16"):
        assert (slow not in operations(policy, True)) == (policy in replaced_in)
        for_inference = operations(policy, False)
        assert slow in for_inference and "PartitionedCall" not in "".join(for_inference)


@pytest.mark.fast
@pytest.mark.parametrize(
    ("pictures", "side", "strides", "own"),
    [
        (8, 2, 1, {"to the input", "to the kernel"}),
        (2, 2, 1, {"to the input", "to the kernel"}),
        (8, 4, 1, {"to the input", "to the kernel"}),
        (1, 4, 1, set()),
        (8, 9, 2, {"to the input"}),
        (8, 16, 1, {"to the input"}),
        (1, 16, 1, set()),
        (8, 17, 1, set()),
    ],
)
def test_training_where_onednn_is_off(pictures, side, strides, own, monkeypatch):
    """TensorFlow's own gradient to the input of several small maps is slow there."""
    monkeypatch.setattr(primitives, "_has_onednn", lambda: False)
    size, layer = (pictures, side, side, 16), Conv2D(16, 3, strides)
    operations = in_graph(layer, size, True)
    if own and side == 2:  # one product takes the whole map, where the batch pays for its matrix
        assert ("Conv2D" in operations) == (pictures < 8)
    assert ("Conv2DBackpropInput" in operations) == ("to the input" not in own)
    assert ("Conv2DBackpropFilter" in operations) == ("to the kernel" not in own)
    assert_same_derivatives(
        lambda x, kernel: convolve(x, kernel, strides, training=True),
        lambda x, kernel: of_tensorflow(x, kernel, strides, "same"),
        tf.constant(normal(size), tf.float64),
        tf.constant(normal((3, 3, 16, 16), 1), tf.float64),
    )


@pytest.mark.fast
@pytest.mark.parametrize("training", [False, True])
def test_depthwise_convolution_where_onednn_is_off(training, monkeypatch):
    monkeypatch.setattr(primitives, "_has_onednn", lambda: False)
    operations = in_graph(Conv2D(16, 3, groups=16), (8, 9, 9, 16), training)
    assert "DepthwiseConv2dNative" in operations and "Conv2D" not in operations


def test_tensorflow_says_whether_onednn_is_on():
    program = "from nf_zoo.layers.primitives import _has_onednn; print(int(_has_onednn()))"
    for setting in ("0", "1"):
        assert printed_by(program, TF_ENABLE_ONEDNN_OPTS=setting).strip() == setting


@pytest.mark.fast
@pytest.mark.parametrize("side", [1, 2, 4, 9])
@pytest.mark.parametrize("kernel_size", [1, 3])
def test_training_in_bfloat16_is_that_in_float32_rounded(side, kernel_size):
    x, results = normal((4, side, side, 64)), {}
    for policy in ("float32", "mixed_bfloat16"):
        layer = ScaledWSConv2D(64, kernel_size, use_bias=False, dtype=policy)
        layer.build(x.shape)
        layer.kernel.assign(normal(layer.kernel.shape, 1))
        inputs = tf.cast(x, layer.compute_dtype)
        with tf.GradientTape() as tape:
            tape.watch(inputs)
            y = layer(inputs, training=True)
            loss = tf.reduce_sum(tf.sin(tf.cast(y, "float32")))
        variables = [inputs, *(v.value for v in layer.trainable_variables)]
        results[policy] = [y, *tape.gradient(loss, variables)]
    # TensorFlow's own sums, which larger maps have where oneDNN is off, are kept in bfloat16.
    tolerance = 0.02 if side <= 4 or primitives._has_onednn() else 0.03
    for exact, rounded in zip(*results.values(), strict=True):
        error = tf.cast(rounded, "float32") - exact
        assert tf.norm(error) <= tolerance * tf.norm(exact)


@pytest.mark.fast
@pytest.mark.parametrize("layer_class", [Conv2D, ScaledWSConv2D])
def test_gradients_of_a_grouped_layer_are_those_of_its_groups(layer_class):
    """In float64 up to the kernel, which ScaledWSConv2D standardizes in float32."""
    layer = layer_class(6, 3, groups=3, dtype="float64")
    x = tf.constant(normal((2, 8, 9, 6)), tf.float64)
    layer(x)
    layer.kernel.assign(normal((3, 3, 2, 6), 1))
    variables = [variable.value for variable in layer.trainable_variables]

    def split(x):
        kernels = tf.split(tf.cast(layer.effective_kernel(), x.dtype), 3, -1)
        parts = zip(tf.split(x, 3, -1), kernels, strict=True)
        return tf.concat([convolve(a, b) for a, b in parts], -1) + tf.cast(layer.bias, x.dtype)

    results = []
    for function in (layer, split):
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(tf.sin(function(x)))
        results.append(tape.gradient(loss, variables))
    assert len(variables) == (2 if layer_class is Conv2D else 3)
    for ours, theirs in zip(*results, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5)


@pytest.mark.fast
def test_grouped_convolution_avoids_xla():
    layer = Conv2D(8, 3, groups=4)
    layer.build((None, 8, 8, 8))
    graph = tf.function(layer).get_concrete_function(tf.TensorSpec([1, 8, 8, 8])).graph
    attributes = {a for op in graph.get_operations() for a in op.node_def.attr}
    assert "_XlaMustCompile" not in attributes
    assert not [op.name for op in graph.get_operations() if "xla" in op.type.lower()]


@pytest.mark.fast
@pytest.mark.parametrize("padding", ["same", "valid", "symmetric"])
@pytest.mark.parametrize("kernel_size", [1, 2, 3])
@pytest.mark.parametrize("strides", [1, 2])
@pytest.mark.parametrize("layer_class", [Conv2D, ScaledWSConv2D])
def test_output_shape_is_what_comes_out(layer_class, strides, kernel_size, padding):
    layer = layer_class(4, kernel_size, strides=strides, padding=padding)
    for size in ((7, 8), (8, 7)):
        y = layer(np.zeros((1, *size, 3), "float32"))
        assert tuple(layer.compute_output_shape((1, *size, 3))) == tuple(y.shape)


@pytest.mark.fast
@pytest.mark.parametrize("eps_form", ["floor", "added"])
def test_standardized_kernel(eps_form):
    layer = ScaledWSConv2D(16, 3, gamma=1.7, eps=1e-3, eps_form=eps_form, groups=2)
    layer.build((None, None, None, 8))
    layer.kernel.assign(3.0 + 0.1 * normal((3, 3, 4, 16)))
    layer.gain.assign(np.linspace(0.5, 2.0, 16))
    kernel = np.asarray(layer.kernel, "float64")
    fan_in, mean, variance = 36, kernel.mean((0, 1, 2)), kernel.var((0, 1, 2))
    denominator = fan_in * variance
    denominator = np.maximum(denominator, 1e-3) if eps_form == "floor" else denominator + 0.036
    expected = np.linspace(0.5, 2.0, 16) * 1.7 * (kernel - mean) / np.sqrt(denominator)
    np.testing.assert_allclose(layer.effective_kernel(), expected, atol=2e-5)


@pytest.mark.fast
def test_the_two_epsilons_differ_where_they_should():
    kernels = {}
    for eps_form in ("floor", "added"):
        layer = ScaledWSConv2D(8, 3, eps=1e-5, eps_form=eps_form)
        layer.build((None, None, None, 512))
        layer.kernel.assign(normal((3, 3, 512, 8), scale=1 / np.sqrt(9 * 512)))
        kernels[eps_form] = np.asarray(layer.effective_kernel())
    ratio = np.std(kernels["added"]) / np.std(kernels["floor"])
    assert ratio == pytest.approx(1 / np.sqrt(1 + 1e-5 * 9 * 512), abs=1e-3)


@pytest.mark.fast
def test_a_constant_kernel_stays_finite():
    layer = ScaledWSConv2D(4, 3)
    layer.build((None, None, None, 4))
    layer.kernel.assign(np.ones((3, 3, 4, 4)))
    assert np.all(np.asarray(layer.effective_kernel()) == 0.0)


STANDARDIZED = {
    "convolution": (lambda **own: ScaledWSConv2D(8, 3, **own), (2, 8, 8, 16)),
    "depthwise": (
        lambda **own: ScaledWSDepthwiseConv2D(3, depth_multiplier=2, **own),
        (2, 8, 8, 16),
    ),
    "dense": (lambda **own: ScaledWSDense(8, **own), (2, 5, 64)),
}
"""Label -> a standardized layer, and the shape of an input."""


@pytest.mark.fast
@pytest.mark.parametrize("label", STANDARDIZED)
@pytest.mark.parametrize("eps_form", ["floor", "added"])
def test_what_a_standardized_layer_of_another_kind_computes(label, eps_form):
    """Against Keras's own layer, with the kernel of the formula in float64."""
    make, shape = STANDARDIZED[label]
    layer = make(gamma=1.7, eps=1e-3, eps_form=eps_form)
    layer.build((None, *shape[1:]))
    layer.kernel.assign(3.0 + 0.1 * normal(layer.kernel.shape))
    gain = np.linspace(0.5, 2.0, layer.kernel.shape[-1])
    layer.gain.assign(gain)
    layer.bias.assign(gain)
    kernel = np.asarray(layer.kernel, "float64")
    rows = kernel.reshape(-1, kernel.shape[-1])
    spread = len(rows) * rows.var(0)
    spread = np.maximum(spread, 1e-3) if eps_form == "floor" else spread + len(rows) * 1e-3
    expected = (gain * 1.7 * (rows - rows.mean(0)) / np.sqrt(spread)).reshape(kernel.shape)
    plain = {
        "convolution": lambda: keras.layers.Conv2D(8, 3, padding="same"),
        "depthwise": lambda: keras.layers.DepthwiseConv2D(3, padding="same", depth_multiplier=2),
        "dense": lambda: keras.layers.Dense(8),
    }[label]()
    plain.build((None, *shape[1:]))
    plain.set_weights([expected.reshape(plain.kernel.shape), gain])
    np.testing.assert_allclose(layer(normal(shape)), plain(normal(shape)), atol=2e-4)
    assert tuple(layer.compute_output_shape(shape)) == tuple(layer(normal(shape)).shape)


@pytest.mark.fast
@pytest.mark.parametrize("kind", [Conv2D, ScaledWSConv2D, ScaledWSDepthwiseConv2D])
def test_kernels_that_are_not_square(kind):
    own = {"padding": "symmetric", "strides": 2}
    depthwise = kind is ScaledWSDepthwiseConv2D
    layer = kind((1, 5), **own) if depthwise else kind(4, (1, 5), **own)
    x = normal((1, 6, 9, 4))
    y = layer(x)
    layer.bias.assign(normal(4))
    groups = 4 if depthwise else 1
    kernel = np.asarray(layer.effective_kernel())
    expected = reference(x, kernel, 2, ((0, 0), (2, 2)), groups=groups)
    np.testing.assert_allclose(layer(x), expected + normal(4), atol=1e-4)
    assert tuple(layer.compute_output_shape(x.shape)) == tuple(y.shape) == (1, 3, 5, 4)
    assert layer.multiply_adds(x.shape) == 3 * 5 * 4 * 5 * (4 // groups)
    again = kind.from_config(layer.get_config())
    assert tuple(again(x).shape) == (1, 3, 5, 4)


@pytest.mark.fast
@pytest.mark.parametrize("label", STANDARDIZED)
def test_a_regularizer_of_the_kernel_counts_and_is_saved(label):
    make, shape = STANDARDIZED[label]
    layer = make(kernel_regularizer=keras.regularizers.L2(0.5))
    layer = type(layer).from_config(layer.get_config())
    layer(normal(shape))
    expected = 0.5 * np.square(layer.kernel).sum()
    assert float(layer.losses[0]) == pytest.approx(expected, rel=1e-4)


@pytest.mark.fast
@pytest.mark.parametrize("label", STANDARDIZED)
@pytest.mark.parametrize(
    ("policy", "tolerance"), [("mixed_bfloat16", 8e-3), ("mixed_float16", 1e-3)]
)
def test_standardization_is_float32_under_mixed_precision(policy, tolerance, label):
    make, shape = STANDARDIZED[label]
    x = normal(shape, 1)

    def output(policy):
        layer = make(dtype=policy)
        layer.build((None, *shape[1:]))
        # A large common mean is what a half-precision standardization loses.
        layer.kernel.assign(1.0 + 0.02 * normal(layer.kernel.shape))
        return np.asarray(keras.ops.cast(layer(x), "float32"))

    exact = output("float32")
    assert np.abs(output(policy) - exact).max() <= tolerance * np.abs(exact).max()


@pytest.mark.fast
@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"padding": "zeros"}, "padding must be one of .*Received: 'zeros'"),
        ({"eps_form": "plus"}, "eps_form must be one of .*Received: 'plus'"),
        ({"groups": 3}, "divisible by groups.*Received: filters=8, groups=3"),
    ],
)
def test_illegal_arguments(arguments, match):
    with pytest.raises(ValueError, match=match):
        ScaledWSConv2D(8, 3, **arguments)


@pytest.mark.fast
def test_channels_that_groups_do_not_divide():
    with pytest.raises(ValueError, match=r"divisible by groups=4.*\(None, 8, 8, 6\)"):
        ScaledWSConv2D(8, 3, groups=4).build((None, 8, 8, 6))


@pytest.mark.fast
def test_config_round_trip():
    layer = ScaledWSConv2D(
        8, 3, strides=2, padding="symmetric", groups=2, gamma=1.5, eps=1e-6, eps_form="added"
    )
    assert ScaledWSConv2D.from_config(layer.get_config()).get_config() == layer.get_config()


@pytest.mark.fast
@pytest.mark.parametrize("size", [(8, 9), (9, 8)])
def test_max_pool_pads_with_minus_infinity_on_all_sides(size):
    x = normal((2, *size, 3)) - 10.0
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), constant_values=-np.inf)
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(1, 2))[:, ::2, ::2]
    layer = MaxPool2D(3, 2, padding="symmetric")
    np.testing.assert_array_equal(layer(x), windows.max((-2, -1)))
    assert tuple(layer.compute_output_shape(x.shape)) == tuple(layer(x).shape)
    assert np.asarray(layer(x)).max() < 0


def test_groups_run_where_onednn_is_off():
    """TensorFlow's graph optimizer may not fuse them with their bias there."""
    program = (
        "import keras, numpy as np; from nf_zoo.layers import Conv2D, ScaledWSConv2D\n"
        "inputs = keras.Input((8, 8, 8))\n"
        "x = keras.ops.relu(ScaledWSConv2D(8, 3, groups=2)(inputs))\n"
        "model = keras.Model(inputs, Conv2D(8, 3, groups=4)(x))\n"
        "for w in model.weights: w.assign(np.random.default_rng(0).standard_normal(w.shape))\n"
        "pixels = np.random.default_rng(1).standard_normal((2, 8, 8, 8)).astype('float32')\n"
        "print(abs(np.asarray(model(pixels)) - model.predict(pixels, verbose=0)).max())\n"
    )
    assert float(printed_by(program, TF_ENABLE_ONEDNN_OPTS="0")) < 1e-4


@pytest.mark.fast
@pytest.mark.parametrize("dtype", ["uint8", "int32", "bool"])
@pytest.mark.parametrize(
    "layer", [Conv2D(4, 3), ScaledWSConv2D(4, 3), ScaledWSDense(4)], ids=lambda x: x.name
)
def test_whole_numbers_are_computed_as_floats(layer, dtype):
    x = np.random.default_rng(0).integers(0, 2, (2, 8, 8, 3))
    x = x.astype(dtype) * (1 if dtype == "bool" else np.dtype(dtype).type(100))
    found, expected = layer(tf.constant(x.astype(dtype))), layer(tf.constant(x, tf.float32))
    assert found.dtype == tf.float32 and np.abs(found).max() > 0.01
    np.testing.assert_array_equal(found, expected)
