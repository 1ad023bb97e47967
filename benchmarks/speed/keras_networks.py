"""Our networks in every form that they are run in, and keras.applications; with random weights."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import numpy as np

CALIBRATION_PICTURES = 8


def prepare(task: dict):
    """A function from a batch size to a run of the task, and facts about it.

    ``task["form"]`` is a key of ``FORMS``, ``"matrix product"``, or of training ``"TensorFlow"`` or
    ``"XLA"``.
    """
    import keras
    import tensorflow as tf

    facts = {"version": f"TensorFlow {tf.__version__}"}
    if task["form"] == "matrix product":
        a = tf.random.normal((task["size"], task["size"]))
        return lambda batch: lambda: tf.matmul(a, a).numpy(), facts
    keras.utils.set_random_seed(0)
    size = task["size"]
    model, facts["multiply_adds"] = _network(task["network"], size)
    facts["parameters"] = model.count_params()
    form = _training(model, task["form"]) if task["training"] else FORMS[task["form"]](model, size)

    def make(batch: int):
        rng = np.random.default_rng(0)
        return form(rng.standard_normal((batch, size, size, 3)).astype("float32"))

    return make, facts


def _network(name: str, size: int):
    """The network with every branch and bias at work, and its multiply-adds of a picture."""
    import keras

    import nf_zoo

    if name == "keras.applications ResNet50V2":
        shape = (size, size, 3)
        model = keras.applications.ResNet50V2(weights=None, input_shape=shape)
        return model, _multiply_adds(model)
    model = nf_zoo.create_model(name)
    # As after training: optimisers of graphs would leave out additions of zero.
    for variable in model.variables:
        if variable.name.endswith("gain"):
            variable.assign(np.ones(variable.shape))
        elif variable.name in ("bias", "beta", "moving_mean", "offset"):
            variable.assign(np.random.normal(0.0, 0.1, variable.shape))
    return model, model.multiply_adds(size, size)


def _multiply_adds(model) -> int:
    """Of the convolutions and dense layers of a functional model with known sizes."""
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
    def form(model, size):
        import nf_zoo

        return _in_tensorflow(nf_zoo.fold(model), jit)

    return form


def _saved_model(model, size):
    """What export_saved_model wrote, without the preparation of pictures."""
    import tensorflow as tf

    import nf_zoo

    with tempfile.TemporaryDirectory() as folder:
        nf_zoo.export_saved_model(model, Path(folder) / "model")
        loaded = tf.saved_model.load(str(Path(folder) / "model"))

    def form(images):
        images = tf.constant(images)
        return lambda: loaded.network(images)[0].numpy()

    return form


def _onnx(runner, precision: str = "float32"):
    def form(model, size):
        import nf_zoo

        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "model.onnx"
            nf_zoo.export_onnx(model, path, **_options(precision, size))
            return runner(path.read_bytes())

    return form


def _in_onnx_runtime(content: bytes):
    import onnxruntime

    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda images: lambda: session.run(None, {name: images})


def _in_openvino(content: bytes):
    """In float32: on processors with bfloat16 it would take that by itself."""
    import openvino

    core = openvino.Core()
    network = core.read_model(content)

    def form(images):
        network.reshape(list(images.shape))
        compiled = core.compile_model(network, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
        request = compiled.create_infer_request()
        return lambda: request.infer([images])

    return form


def _litert(precision: str):
    def form(model, size):
        from ai_edge_litert.interpreter import Interpreter

        import nf_zoo

        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "model.tflite"
            nf_zoo.export_litert(model, path, **_options(precision, size))
            content = path.read_bytes()

        def for_images(images):
            interpreter = Interpreter(model_content=content, num_threads=os.cpu_count())
            place = interpreter.get_input_details()[0]["index"]
            interpreter.resize_tensor_input(place, images.shape)
            interpreter.allocate_tensors()

            def run():
                interpreter.set_tensor(place, images)
                interpreter.invoke()

            return run

        return for_images

    return form


def _options(precision: str, size: int) -> dict:
    if precision == "float32":
        return {}
    shape = (CALIBRATION_PICTURES, size, size, 3)
    pictures = np.random.default_rng(1).integers(0, 256, shape, "uint8")
    return {"precision": precision, "pictures": pictures}


FORMS = {
    "unfolded": lambda model, size: _in_tensorflow(model),
    "folded": _folded(),
    "folded, XLA": _folded(jit=True),
    "SavedModel": _saved_model,
    "ONNX Runtime": _onnx(_in_onnx_runtime),
    "ONNX Runtime int8": _onnx(_in_onnx_runtime, "int8"),
    "OpenVINO": _onnx(_in_openvino),
    "LiteRT": _litert("float32"),
    "LiteRT int8": _litert("int8"),
}
"""Form -> a function of the model and the side of the pictures -> a function of images -> a run."""


def _training(model, form: str):
    """A step of SGD with momentum through ``compile`` and ``train_on_batch``."""
    import keras

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
