"""The zoo's networks in every form, and keras.applications, with random weights."""

from __future__ import annotations

import concurrent.futures
import multiprocessing
import os
import tempfile
from pathlib import Path

import numpy as np

CALIBRATION_PICTURES = 8


def prepare(task: dict):
    """Return a function from a batch size to a run of the task, and facts about it.

    ``task["form"]`` is a key of ``FORMS`` or ``"matrix product"``; for training ``"TensorFlow"``,
    ``"XLA"`` or a key of ``TRAINING_CHANGES``. ``task["precision"]``, if any, is a dtype policy.
    """
    size = task["size"]
    if task["form"] in FILES and not task["training"]:
        form, facts = _of_file(*FILES[task["form"]], task["network"], size)
    else:
        form, facts = _in_keras(task)

    def make(batch: int):
        if task["form"] == "matrix product":
            return form(None)
        rng = np.random.default_rng(0)
        return form(rng.standard_normal((batch, size, size, 3)).astype("float32"))

    return make, facts


def _in_keras(task: dict):
    """Return a function from images to a run, and facts."""
    import tensorflow as tf

    version = {"version": f"TensorFlow {tf.__version__}"}
    if task["form"] == "matrix product":
        a = tf.random.normal((task["size"], task["size"]))
        return lambda images: lambda: tf.matmul(a, a).numpy(), version
    model, facts = _network(task["network"], task["size"], task.get("precision"))
    form = _training(model, task["form"]) if task["training"] else FORMS[task["form"]](model)
    return form, facts | version


def _of_file(suffix: str, precision: str, runner, network: str, size: int):
    """Return the same for an exported file; another process writes it, so this one stays small."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"model{suffix}"
        spawn = multiprocessing.get_context("spawn")
        with concurrent.futures.ProcessPoolExecutor(1, mp_context=spawn) as pool:
            facts = pool.submit(_write, network, size, path, precision).result()
        form, version = runner(path)
    return form, facts | {"version": version}


def _write(network: str, size: int, path: Path, precision: str) -> dict:
    import nf_zoo

    model, facts = _network(network, size)
    options = {"precision": precision}
    if precision == "int8":
        shape = (CALIBRATION_PICTURES, size, size, 3)
        options["pictures"] = np.random.default_rng(1).integers(0, 256, shape, "uint8")
    if path.suffix == ".onnx":
        nf_zoo.export_onnx(model, path, **options)
    elif path.suffix == ".tflite":
        nf_zoo.export_litert(model, path, **options)
    else:
        nf_zoo.export_saved_model(model, path, constants=True)
    return facts


def _network(name: str, size: int, precision: str | None = None):
    """Return the network with all branches and biases active, and facts about it."""
    import keras

    import nf_zoo

    keras.utils.set_random_seed(0)

    if name == "keras.applications ResNet50V2":
        shape = (size, size, 3)
        model = keras.applications.ResNet50V2(weights=None, input_shape=shape)
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


def _folded(jit: bool | None = None):
    def form(model):
        import nf_zoo

        return _in_tensorflow(nf_zoo.fold(model), jit)

    return form


def _saved_model(path: Path):
    """Return the form of export_saved_model(constants=True), without the preprocessing."""
    import tensorflow as tf

    loaded = tf.saved_model.load(str(path))

    def form(images):
        images = tf.constant(images)
        return lambda: loaded.network(images)[0].numpy()

    return form, f"TensorFlow {tf.__version__}"


def _onnx_runtime(path: Path):
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name

    def form(images):
        return lambda: session.run(None, {name: images})

    return form, f"ONNX Runtime {onnxruntime.__version__}"


def _openvino(path: Path):
    """Return the form of OpenVINO in float32, as it uses bfloat16 by itself where it can."""
    import openvino

    core, content = openvino.Core(), path.read_bytes()

    def form(images):
        network = core.read_model(content)
        network.reshape(list(images.shape))
        compiled = core.compile_model(network, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
        request = compiled.create_infer_request()
        return lambda: request.infer([images])

    return form, f"OpenVINO {openvino.__version__}"


def _litert(path: Path):
    from importlib.metadata import version

    from ai_edge_litert.interpreter import Interpreter

    content = path.read_bytes()

    def form(images):
        interpreter = Interpreter(model_content=content, num_threads=os.cpu_count())
        place = interpreter.get_input_details()[0]["index"]
        interpreter.resize_tensor_input(place, images.shape)
        interpreter.allocate_tensors()

        def run():
            interpreter.set_tensor(place, images)
            interpreter.invoke()

        return run

    return form, f"LiteRT {version('ai-edge-litert')}"


FORMS = {"unfolded": _in_tensorflow, "folded": _folded(), "folded, XLA": _folded(jit=True)}
"""Form -> function from the model to a function from images to a run."""

FILES = {
    "SavedModel, constants": ("", "float32", _saved_model),
    "ONNX Runtime": (".onnx", "float32", _onnx_runtime),
    "ONNX Runtime int8": (".onnx", "int8", _onnx_runtime),
    "OpenVINO": (".onnx", "float32", _openvino),
    "LiteRT": (".tflite", "float32", _litert),
    "LiteRT int8": (".tflite", "int8", _litert),
}
"""Form -> (suffix of the file, precision, function that opens it)."""


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


TRAINING_CHANGES = {
    "TensorFlow, fused normalization": _fuse_normalization,
    "TensorFlow, GELU of TensorFlow": _take_gelu_of_tensorflow,
    "TensorFlow, gradients of TensorFlow": _take_gradients_of_tensorflow,
}
"""Form -> function that changes the operations of the model before it trains."""


def _training(model, form: str):
    """Return a step of SGD with momentum through ``compile`` and ``train_on_batch``."""
    import keras

    if form in TRAINING_CHANGES:
        TRAINING_CHANGES[form](model)
    logits = model.layers[-1].get_config().get("activation") != "softmax"
    model.compile(
        keras.optimizers.SGD(1e-3, momentum=0.9),
        keras.losses.SparseCategoricalCrossentropy(from_logits=logits),
        jit_compile=form == "XLA",
    )

    def for_images(images):
        classes = np.arange(len(images)) % 1000
        return lambda: model.train_on_batch(images, classes)

    return for_images
