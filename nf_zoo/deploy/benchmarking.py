"""The time of one network in every form whose runtime is installed, on the machine at hand.

Keras is imported late: the command line reads :class:`BenchmarkSettings` to print its help.
"""

from __future__ import annotations

import dataclasses
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from nf_zoo.deploy.formats import FORMATS
from nf_zoo.options import Kind, Options, option, picture_size, takes, text, whole

TURN = 0.05
"""Least time of a turn in seconds: what is faster runs several times."""
CALIBRATION_PICTURES = 8
HINT = 'openvino.compile_model("model.xml", "CPU", {"INFERENCE_PRECISION_HINT": "%s"})'


_FLAG = {"type": int, "nargs": "+", "metavar": "N"}
_SIZES = Kind("positive integers", _FLAG, lambda value: min(value) >= 1, tuple)


@dataclasses.dataclass(frozen=True)
class BenchmarkSettings(Options):
    """The options of :func:`benchmark`."""

    batch_sizes: tuple[int, ...] = option((1, 8, 32), "pictures at a time", _SIZES)
    size: tuple[int, int] | None = option(
        None, "size of the pictures in pixels; that of the model by default", picture_size(1)
    )
    rounds: int = option(7, "rounds of every form; the median is reported", whole(1))
    pictures: Any = option(
        None, "pictures to calibrate int8 on; noise by default, which is as fast", text("FOLDER")
    )


@dataclasses.dataclass(frozen=True)
class Timing:
    """The time of one form at one batch size.

    Attributes:
        form: a key of :data:`FORMS`.
        precision: ``"float32"``, ``"bfloat16"`` or ``"int8"``.
        batch_size: pictures at a time.
        milliseconds: median time of a batch.
        least, most: the shortest and the longest time, in milliseconds.
        recipe: how to get the form: a command, or Python code.
    """

    form: str
    precision: str
    batch_size: int
    milliseconds: float
    least: float
    most: float
    recipe: str

    @property
    def pictures_per_second(self) -> float:
        return 1000 * self.batch_size / self.milliseconds


@dataclasses.dataclass(frozen=True)
class Benchmark:
    """Result of :func:`benchmark`.

    Attributes:
        timings: the fastest first, for each batch size.
        missing: form -> the reason why it was not measured.
    """

    timings: list[Timing]
    missing: dict[str, str]

    def fastest(self, batch_size: int, precision: str | None = None) -> Timing:
        """Return the fastest form at a batch size, of one precision or of all.

        Raises:
            ValueError: if no such form was measured.
        """
        for timing in self.timings:
            if timing.batch_size == batch_size and precision in (None, timing.precision):
                return timing
        measured = sorted({(timing.batch_size, timing.precision) for timing in self.timings})
        raise ValueError(
            f"No form was measured at batch_size={batch_size} with precision={precision!r}. "
            f"Received: timings of (batch size, precision) {measured}"
        )


Run = Callable[[], Any]
Opener = Callable[[Any], Run]


@dataclasses.dataclass(frozen=True)
class Form:
    """A way to run a network."""

    precision: str  # of the computation
    # a model, or the path of an exported one -> a function from a batch of images to a run
    opener: Callable[[Any], Opener]
    format: str = ""  # the exported format, a key of ``FORMATS``; empty for a Keras model
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)  # of the export
    code: str = ""  # Python code that makes the model, or that opens the file as it was measured

    @property
    def recipe(self) -> str:
        """How to get the form of a model called MODEL."""
        if not self.format:
            return self.code
        parts = [f"nf-zoo export MODEL model{FORMATS[self.format].suffix}"]
        for name, value in self.options.items():
            parts.append(f"--{name}" if value is True else f"--{name} {value}")
        if self.precision == "int8":
            parts.append("--pictures FOLDER")
        return " ".join(parts) + (f", then {self.code}" if self.code else "")


@takes(BenchmarkSettings)
def benchmark(model, *, settings) -> Benchmark:
    """Measure a network in every form whose runtime is installed.

    Keras as it is, folded and in bfloat16, and the exported files in every precision take turns, so
    that they meet the same load of the machine. Files are written to a temporary folder.

    Args:
        model: an ImageClassifier, or any functional Keras model that :func:`nf_zoo.fold` takes.
        {settings}

    Returns:
        a :class:`Benchmark`: the timings, and what was not measured.

    Raises:
        ValueError: if an option is out of range, or the model has several inputs.

    Example:
        >>> import nf_zoo
        >>> model = nf_zoo.WideResNet16_2(pretrained="cifar10")
        >>> found = nf_zoo.benchmark(model, batch_sizes=[1], rounds=1)
        >>> recipe = found.fastest(1).recipe
    """
    from nf_zoo.deploy.exporting import noise
    from nf_zoo.deploy.lowering import require_graph

    require_graph(model)
    if len(model.inputs) > 1:
        raise ValueError(
            "A model to measure must have one input. "
            f"Received: {model.name!r}, which has {len(model.inputs)}"
        )
    preprocessing = getattr(model, "preprocessing", None)
    size = settings.size or (preprocessing.input_size if preprocessing else (224, 224))
    for count in settings.batch_sizes:
        shape = noise(model, count, size)[0].shape
        if shape[0] != count or (settings.size and shape[1:3] != tuple(settings.size)):
            raise ValueError(
                "The model takes inputs of one shape only: pass its own batch size as batch_sizes, "
                f"and no other size. Received: batch_sizes {tuple(settings.batch_sizes)}, size "
                f"{settings.size} for inputs of shape {tuple(model.inputs[0].shape)}"
            )
    timings = []
    with tempfile.TemporaryDirectory() as folder:
        pictures = settings.pictures
        if pictures is None:
            pictures = _as_pictures(model, noise(model, CALIBRATION_PICTURES, size)[0])
        opened, missing = _opened(model, Path(folder), pictures)
        for count in settings.batch_sizes:
            images, runs = noise(model, count, size)[0], {}
            for name, opener in opened.items():
                try:
                    runs[name] = opener(images)
                    runs[name]()
                except Exception as error:  # costs one form, not the others
                    missing[f"{name}, batch {count}"] = _line(error)
                    runs.pop(name, None)
            seconds = take_turns(runs, settings.rounds)
            made = [_timing(name, count, times) for name, times in seconds.items()]
            timings += sorted(made, key=lambda timing: timing.milliseconds)
    return Benchmark(timings, missing)


def _opened(model, folder: Path, pictures) -> tuple[dict[str, Opener], dict[str, str]]:
    """Return the forms that this machine can run, and the reasons why it cannot run the others."""
    opened, missing, written = {}, {}, {}
    for name, form in FORMS.items():
        try:
            source = model
            if form.format:
                key = (form.format, str(form.options))
                if key not in written:
                    written[key] = _written(model, folder, form, pictures)
                source = written[key]
            opened[name] = form.opener(source)
        except Exception as error:
            missing[name] = _line(error)
    return opened, missing


def _written(model, folder: Path, form: Form, pictures) -> Path:
    row = FORMATS[form.format]
    path = folder / f"{len(list(folder.iterdir()))}{row.suffix}"
    calibrated = {"pictures": pictures} if form.precision == "int8" else {}
    return row.load()(model, path, **form.options, **calibrated)


def _as_pictures(model, pictures):
    """Return noise as pictures for a model that prepares them itself, or as prepared inputs."""
    import numpy as np

    if getattr(model, "preprocessing", None) is None:
        return pictures
    rng = np.random.default_rng(0)
    return rng.integers(0, 256, (*pictures.shape[:3], 3), dtype="uint8")


def _line(error: Exception) -> str:
    return " ".join(str(error).split())


def _timing(name: str, count: int, seconds: list[float]) -> Timing:
    form, times = FORMS[name], [1000 * second for second in seconds]
    middle = statistics.median(times)
    return Timing(name, form.precision, count, middle, min(times), max(times), form.recipe)


def take_turns(runs: dict[str, Run], rounds: int) -> dict[str, list[float]]:
    """Return the seconds of every run, each the median of a turn."""
    seconds = {name: [] for name in runs}
    for _ in range(rounds):
        for name, run in runs.items():
            run()  # the caches are warm, and the threads of the one before are asleep
            times = []
            while not times or sum(times) < TURN:
                start = time.perf_counter()
                run()
                times.append(time.perf_counter() - start)
            seconds[name].append(statistics.median(times))
    return seconds


# The runtimes.


def _keras(model) -> Opener:
    return lambda images: lambda: model.predict_on_batch(images)


def _folded(**options) -> Callable[[Any], Opener]:
    def open_model(model):
        from nf_zoo.deploy.fold import fold

        return _keras(fold(model, **options))

    return open_model


def saved_model(path: Path) -> Opener:
    """Open a SavedModel, without its preparation of pictures if it has one."""
    import tensorflow as tf

    loaded = tf.saved_model.load(str(path))

    def opener(images):
        images = tf.cast(images, loaded.network.inputs[0].dtype)
        return lambda: [x.numpy() for x in tf.nest.flatten(loaded.network(images))[:1]]

    return opener


def onnx_runtime(path: Path) -> Opener:
    """Open an ONNX file."""
    from nf_zoo.deploy.onnx_file import runner

    run = runner(path)
    return lambda images: lambda: run(images)


def openvino(precision: str) -> Callable[[Path], Opener]:
    """Return what opens an OpenVINO or ONNX file, to compute in ``"f32"`` or ``"bf16"``."""

    def open_file(path: Path) -> Opener:
        import openvino as runtime

        core = runtime.Core()
        if precision == "bf16" and "BF16" not in core.get_property(
            "CPU", "OPTIMIZATION_CAPABILITIES"
        ):
            raise RuntimeError("This processor has no bfloat16 instructions.")

        network_of_any_shape = core.read_model(str(path))

        def opener(images):
            network = network_of_any_shape.clone()
            network.reshape(list(images.shape))
            options = {"INFERENCE_PRECISION_HINT": precision}
            request = core.compile_model(network, "CPU", options).create_infer_request()
            return lambda: list(request.infer([images]).values())

        return opener

    return open_file


def litert(path: Path) -> Opener:
    """Open a LiteRT file, to run on all cores."""
    from ai_edge_litert.interpreter import Interpreter

    content = path.read_bytes()

    def opener(images):
        interpreter = Interpreter(model_content=content, num_threads=os.cpu_count())
        place = interpreter.get_input_details()[0]["index"]
        interpreter.resize_tensor_input(place, images.shape)
        interpreter.allocate_tensors()
        outputs = [entry["index"] for entry in interpreter.get_output_details()]

        def run():
            interpreter.set_tensor(place, images)
            interpreter.invoke()
            return [interpreter.get_tensor(output) for output in outputs]

        return run

    return opener


_INT8 = {"precision": "int8"}
FORMS = {
    "Keras": Form("float32", _keras, code="the model as it is"),
    "Keras, folded": Form("float32", _folded(), code="nf_zoo.fold(model)"),
    "Keras, folded, bfloat16": Form(
        "bfloat16",
        _folded(dtype="mixed_bfloat16"),
        code='nf_zoo.fold(model, dtype="mixed_bfloat16")',
    ),
    "SavedModel": Form("float32", saved_model, "saved_model"),
    "SavedModel, constants": Form("float32", saved_model, "saved_model", {"constants": True}),
    "ONNX Runtime": Form("float32", onnx_runtime, "onnx"),
    "ONNX Runtime, int8": Form("int8", onnx_runtime, "onnx", _INT8),
    "OpenVINO": Form("float32", openvino("f32"), "openvino", code=HINT % "f32"),
    "OpenVINO, bfloat16": Form("bfloat16", openvino("bf16"), "openvino", code=HINT % "bf16"),
    "OpenVINO, int8": Form("int8", openvino("f32"), "openvino", _INT8, code=HINT % "f32"),
    "LiteRT": Form("float32", litert, "litert"),
    "LiteRT, int8": Form("int8", litert, "litert", _INT8),
}
"""Name -> form."""
