"""The zoo's networks in every form, and keras.applications, with random weights."""

from __future__ import annotations

import concurrent.futures
import importlib.metadata
import multiprocessing
import tempfile
from pathlib import Path

import numpy as np

from nf_zoo.deploy.benchmarking import litert, onnx_runtime, openvino, saved_model
from nf_zoo.deploy.formats import FORMATS

CALIBRATION_PICTURES = 8
APPLICATION = "keras.applications "
"""Beginning of the names of Keras's own networks, which are float32."""


def prepare(task: dict):
    """Return a function from a batch size to a run of the task, and facts about it.

    ``task["form"]`` is a key of ``FORMS`` or ``FILES``, or a matrix product; for training
    ``"TensorFlow"``, ``"TensorFlow, bfloat16"``, ``"XLA"``, ``ONE_UPDATE`` or a key of
    ``TRAINING_CHANGES``.
    ``task["precision"]``, if any, is a dtype policy.
    """
    size = task["size"]
    if task["form"] in FILES and not task["training"]:
        form, facts = _of_file(task["form"], task["network"], size)
    elif task["form"] == "matrix product, int8":
        form, facts = _onnx_product(size)
    else:
        form, facts = _in_keras(task)

    def make(batch: int):
        if task["form"].startswith("matrix product"):
            return form(None)
        rng = np.random.default_rng(0)
        return form(rng.standard_normal((batch, size, size, 3)).astype("float32"))

    return make, facts


def _in_keras(task: dict):
    """Return a function from images to a run, and facts."""
    import tensorflow as tf

    version = {"version": f"TensorFlow {tf.__version__}"}
    if task["form"].startswith("matrix product"):
        kind = "bfloat16" if "bfloat16" in task["form"] else "float32"
        a = tf.cast(tf.random.normal((task["size"], task["size"])), kind)
        return lambda images: lambda: tf.matmul(a, a).numpy(), version
    halved = task["training"] and task["form"].endswith("bfloat16")
    precision = "mixed_bfloat16" if halved else task.get("precision")
    model, facts = _network(task["network"], task["size"], precision)
    form = _training(model, task["form"]) if task["training"] else FORMS[task["form"]](model)
    return form, facts | version


def _of_file(form: str, network: str, size: int):
    """Return the same for an exported file; another process writes it, so this one stays small."""
    kind, options, opener, package = FILES[form]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"model{FORMATS[kind].suffix}"
        spawn = multiprocessing.get_context("spawn")
        with concurrent.futures.ProcessPoolExecutor(1, mp_context=spawn) as pool:
            facts = pool.submit(_write, network, size, path, kind, options).result()
        opened = opener(path)
    return opened, facts | {"version": f"{package} {importlib.metadata.version(package)}"}


def _write(network: str, size: int, path: Path, kind: str, options: dict) -> dict:
    model, facts = _network(network, size)
    if options.get("precision") == "int8":
        shape = (CALIBRATION_PICTURES, size, size, 3)
        pictures = np.random.default_rng(1).integers(0, 256, shape, "uint8")
        options = {**options, "pictures": pictures}
    FORMATS[kind].load()(model, path, **options)
    return facts


def _network(name: str, size: int, precision: str | None = None):
    """Return the network with all branches and biases active, and facts about it."""
    import keras

    import nf_zoo

    keras.utils.set_random_seed(0)

    if name.startswith(APPLICATION):
        make = getattr(keras.applications, name.removeprefix(APPLICATION))
        model = make(weights=None, input_shape=(size, size, 3))
        return model, {"multiply_adds": _multiply_adds(model), "parameters": model.count_params()}
    model = nf_zoo.create_model(name, dtype=precision)
    # Biases are not zero, as after training: graph optimizers would drop additions of zero.
    for variable in model.variables:
        if variable.name.endswith("gain"):
            variable.assign(np.ones(variable.shape))
        elif variable.name in ("bias", "beta", "moving_mean", "offset"):
            variable.assign(np.random.normal(0.0, 0.1, variable.shape))
    work = model.multiply_adds(size, size)
    return model, {"multiply_adds": work, "parameters": model.count_params()}


def _multiply_adds(model) -> int:
    """Count the convolutions and dense layers of a functional model with known sizes."""
    total = 0
    for layer in model.layers:
        if hasattr(layer, "kernel"):
            places = np.prod(layer.output.shape[1:-1], initial=1)
            total += int(places) * int(np.prod(layer.kernel.shape))
    return total


def _in_tensorflow(model, jit: bool | None = None):
    import tensorflow as tf

    network = tf.function(lambda x: model(x, training=False), jit_compile=jit, autograph=False)

    def form(images):
        fixed = network.get_concrete_function(tf.TensorSpec(images.shape))
        images = tf.constant(images)
        return lambda: fixed(images).numpy()

    return form


def _folded(jit: bool | None = None, **options):
    def form(model):
        import nf_zoo

        return _in_tensorflow(nf_zoo.fold(model, **options), jit)

    return form


def _onnx_product(side: int):
    """Return a run of ONNX Runtime's product of two matrices in eight bits."""
    import onnx
    import onnxruntime

    helper, kinds = onnx.helper, onnx.TensorProto
    given = helper.make_tensor_value_info("a", kinds.UINT8, [side, side])
    b = np.random.default_rng(0).integers(-127, 128, (side, side), dtype="int8")
    weight = onnx.numpy_helper.from_array(b, "b")
    made = helper.make_tensor_value_info("c", kinds.INT32, [side, side])
    node = helper.make_node("MatMulInteger", ["a", "b"], ["c"])
    graph = helper.make_graph([node], "product", [given], [made], [weight])
    opset = [helper.make_opsetid("", 13)]
    content = helper.make_model(graph, opset_imports=opset, ir_version=7).SerializeToString()
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    a = np.random.default_rng(1).integers(0, 256, (side, side), dtype="uint8")
    version = {"version": f"ONNX Runtime {onnxruntime.__version__}"}
    return lambda images: lambda: session.run(None, {"a": a}), version


FORMS = {
    "unfolded": _in_tensorflow,
    "folded": _folded(),
    "folded, XLA": _folded(jit=True),
    "folded, bfloat16": _folded(dtype="mixed_bfloat16"),
}
"""Form -> function from the model to a function from images to a run."""

_INT8 = {"precision": "int8"}
FILES = {
    "SavedModel, constants": ("saved_model", {"constants": True}, saved_model, "tensorflow"),
    "ONNX Runtime": ("onnx", {}, onnx_runtime, "onnxruntime"),
    "ONNX Runtime int8": ("onnx", _INT8, onnx_runtime, "onnxruntime"),
    "OpenVINO": ("onnx", {}, openvino("f32"), "openvino"),
    "OpenVINO bfloat16": ("onnx", {}, openvino("bf16"), "openvino"),
    "OpenVINO int8": ("openvino", _INT8, openvino("f32"), "openvino"),
    "LiteRT": ("litert", {}, litert, "ai-edge-litert"),
    "LiteRT int8": ("litert", _INT8, litert, "ai-edge-litert"),
}
"""Form -> (format, options of its export, function that opens the file, distribution that runs it).

OpenVINO reads the ONNX file, so that two runtimes are compared on one graph.
"""


def _fuse_normalization(model) -> None:
    from training.normalization import fuse_batch_normalization

    fuse_batch_normalization(model)


def _take_gelu_of_tensorflow(model) -> None:
    from keras import ops

    for layer in model._flatten_layers():
        if getattr(layer, "activation", None) == "gelu":
            layer._function = lambda x: ops.gelu(x, approximate=False)


def _take_gradients_of_tensorflow(model) -> None:
    """Take TensorFlow's gradients of convolutions, group by group where there are groups."""
    from nf_zoo.layers import convolution, primitives

    def primitive_of(*arguments):
        return chosen(*arguments[:-1], False)

    chosen, convolution.primitive_of = primitives.primitive_of, primitive_of
    primitives.NARROW = 0


def _converted(function: str):
    """Return a function that gives a conversion of a model, by the name of what converts it."""

    def convert(model):
        import nf_zoo

        return getattr(nf_zoo, function)(model)

    return convert


TRAINING_CHANGES = {
    "TensorFlow, fused normalization": _fuse_normalization,
    "TensorFlow, GELU of TensorFlow": _take_gelu_of_tensorflow,
    "TensorFlow, gradients of TensorFlow": _take_gradients_of_tensorflow,
    "TensorFlow, remove_batch_norm": _converted("remove_batch_norm"),
    "TensorFlow, normalizer_free": _converted("normalizer_free"),
}
"""Form -> function that changes the model before it trains, or returns another."""


ONE_UPDATE = "TensorFlow, momentum in one operation"
"""Form whose optimizer is in a wrapper of nf_zoo, as in ``finetune`` and training/."""


def _training(model, form: str):
    """Return a step of SGD with momentum through ``compile`` and ``train_on_batch``."""
    import keras

    from nf_zoo.optimizers.update_wrapper import UpdateWrapper

    if form in TRAINING_CHANGES:
        model = TRAINING_CHANGES[form](model) or model
    logits = model.layers[-1].get_config().get("activation") != "softmax"
    optimizer = keras.optimizers.SGD(1e-3, momentum=0.9)
    model.compile(
        UpdateWrapper(optimizer) if form == ONE_UPDATE else optimizer,
        keras.losses.SparseCategoricalCrossentropy(from_logits=logits),
        jit_compile=form == "XLA",
    )

    def for_images(images):
        classes = np.arange(len(images)) % 1000
        return lambda: model.train_on_batch(images, classes)

    return for_images
