"""Export to a SavedModel that takes raw pictures and returns class names and probabilities."""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Callable
from pathlib import Path

import keras
import numpy as np
from PIL import ExifTags, Image

from nf_zoo.deploy.exporting import Export, exporter, input_names, output_names, write_metadata
from nf_zoo.deploy.fold import fold
from nf_zoo.deploy.lowering import input_shapes, require_graph
from nf_zoo.functional import as_functional, deep_graphs, graph_of, structures_of
from nf_zoo.pictures.images import as_input, input_of, load_image
from nf_zoo.pictures.predictions import class_names

TOP = 5
MOST_CONSTANTS = 400_000_000
"""Number of weights that fit into a graph, which holds 2 GB."""


@exporter
def export_saved_model(
    model,
    path: str | os.PathLike,
    overwrite: bool = False,
    *,
    settings,
) -> Path:
    """Write a SavedModel that needs neither nf_zoo nor Keras to run.

    Resizing, cropping and normalization are part of the graph. Signatures:

    - ``serving_default``: ``images``, float32 (N, H, W, 3), raw pixels 0..255 of any size;
    - ``serving_uint8``: the same in uint8;
    - ``serving_bytes``: ``image_bytes``, strings (N,), encoded JPEG, PNG, GIF, BMP or WebP;
    - ``features``: ``images`` as in ``serving_default`` -> ``features``, (N, F) float32.

    The serving signatures return ``probabilities`` (N, classes) float32, and the five most
    probable classes as ``labels`` (N, 5) strings and ``scores`` (N, 5) float32; with fewer than
    five classes, all of them. A model without a classifier returns ``features`` from all
    signatures. ``serving_bytes`` also returns ``valid`` (N,) bool: False for a file that is
    damaged, or that TensorFlow cannot decode as :func:`nf_zoo.preprocess` does (docs/deploy.md has
    the table). Its other outputs are zeros and empty strings, and the rest of the batch is
    answered. The loaded object's ``predict(images)`` takes float32 and uint8 alike, and its
    ``network(pixels)`` returns (outputs, pooled features) for pixels that are already prepared.
    ``assets.extra/`` holds labels.txt and preprocessing.json.

    The preprocessing of any other functional or Sequential model is unknown, so it only has
    ``serving_default``, with the model's own inputs by name, and its outputs named as in
    :func:`nf_zoo.export_onnx`.

    The result is loaded and compared with the model before it appears under ``path``, on pixels
    and on encoded pictures, which Pillow decodes for the model.

    Args:
        model: an ImageClassifier with three input channels or one, folded or not; or any other
            functional or Sequential Keras model, which may have layers of your own.
        path: folder to write.
        overwrite: replace an existing SavedModel, or an empty folder.
        {settings}

    Returns:
        ``path``.

    Raises:
        FileExistsError: if ``path`` exists and ``overwrite`` is false, or holds anything else.
        ImportError: without TensorFlow.
        RuntimeError: if Keras runs on another backend, or the written model answers differently.
        ValueError: if an ImageClassifier takes neither 3 channels nor 1, or returns feature maps;
            if any other model has no graph; or if the model has too many weights for constants.

    Example:
        >>> import nf_zoo
        >>> model = nf_zoo.NFResNet26(num_classes=2, labels=("cat", "dog"))
        >>> path = nf_zoo.export_saved_model(model, "pets-saved")
    """
    import tensorflow as tf

    require_graph(model)
    takes_pictures = _takes_pictures(model)
    constants = settings.constants
    if constants and model.count_params() > MOST_CONSTANTS:
        raise ValueError(
            f"A graph holds 2 GB, so at most {MOST_CONSTANTS:,} weights can be constants: leave "
            f"constants=False. Received: a model of {model.count_params():,}"
        )
    network = fold(model, allow_unfolded=True) if settings.fold else model

    def write(written: Path):
        module, signatures = (_servable if takes_pictures else _plain)(tf, network, constants)
        tf.saved_model.save(module, str(written), signatures)
        if takes_pictures:
            extra = written / "assets.extra"
            extra.mkdir()
            write_metadata(model, extra)
        return _runner(tf, model, written, takes_pictures)

    return Export(write, _picture_trials(tf, model) if takes_pictures else None)


def _takes_pictures(model) -> bool:
    """Return True if the preprocessing of the model is known, and check that it can be written."""
    if getattr(model, "architecture", None) is None:
        return False
    if model.input_shape[-1] not in (1, 3):
        raise ValueError(
            "A SavedModel decodes pictures in color or gray, so the model must take 3 channels or "
            "1; ONNX and LiteRT files and model.export(folder) take any number. "
            f"Received: a model with {model.input_shape[-1]}"
        )
    if "pool" not in {layer.name for layer in model.layers}:
        raise ValueError(
            "A SavedModel of nf_zoo must return classes or pooled features: export feature maps "
            "to ONNX or LiteRT files, or with model.export(folder). "
            f"Received: {model.name!r}, which returns maps"
        )
    return True


def _plain(tf, model, constants: bool):
    """Return a tf.Module whose only signature is the model's own call."""
    structure, _ = structures_of(graph_of(model))
    rows = as_functional(model).inputs, input_shapes(model), input_names(model)
    specs = [
        tf.TensorSpec(shape, tensor.dtype, name=name)
        for tensor, shape, name in zip(*rows, strict=True)
    ]

    def call(*arrays):
        answers = model(keras.tree.pack_sequence_as(structure, list(arrays)), training=False)
        return dict(zip(output_names(model), keras.tree.flatten(answers), strict=True))

    module = _module(tf, model, constants)
    try:
        module.network = _traced(tf, model, call, specs, constants)
    except Exception as error:
        raise ValueError(
            "TensorFlow cannot trace this model for inputs of these shapes; if a layer must "
            "know the sides of its maps, build the model on keras.Input((height, width, "
            f"channels)). Received: {', '.join(str(tuple(spec.shape)) for spec in specs)}"
        ) from error
    return module, module.network


def _runner(tf, model, path: Path, takes_pictures: bool) -> Callable:
    loaded = tf.saved_model.load(str(path))  # owns the variables: must outlive the calls
    if takes_pictures:
        key = "probabilities" if model.num_classes else "features"
        serve = loaded.signatures["serving_bytes"]

        def answer(pictures):
            if isinstance(pictures, np.ndarray):
                return [loaded.predict(tf.constant(pictures))[key]]
            answers = serve(image_bytes=tf.constant(pictures))
            return [answers[key], answers["valid"]]

        return answer

    def run(*arrays):
        rows = as_functional(model).inputs, input_names(model), arrays
        named = {name: tf.cast(array, x.dtype) for x, name, array in zip(*rows, strict=True)}
        answers = loaded.signatures["serving_default"](**named)
        return [answers[name] for name in output_names(model)]

    return run


def _picture_trials(tf, model) -> list[tuple[list, list]]:
    """Return two pictures of the input size, then files; with the Keras model's answers."""
    from nf_zoo.pictures import tensorflow_images

    preprocessing = model.preprocessing

    def answers(pictures):
        pixels = tf.stack([tensorflow_images.resize_and_crop(x, preprocessing) for x in pictures])
        outputs = model(as_input(pixels, preprocessing, **input_of(model)), training=False)
        return _answer(tf, model, outputs)["probabilities"] if model.num_classes else outputs

    size = (2, *preprocessing.input_size, 3)
    images = np.random.default_rng(0).integers(0, 256, size, dtype="uint8")
    files = _trial_files()
    expected = np.asarray(answers([load_image(file) for file in files]), "float32")
    # The last file is no picture.
    expected = np.concatenate([expected, np.zeros_like(expected[:1])])
    valid = np.arange(len(files) + 1) < len(files)
    return [([images], [answers(images)]), ([[*files, b"no picture"]], [expected, valid])]


def _trial_files() -> list[bytes]:
    """Return one picture as a JPEG, PNG, WebP and GIF, on its side or with transparent parts."""
    colors = np.random.default_rng(1).integers(0, 256, (6, 4, 4), dtype="uint8")
    picture = Image.fromarray(colors).resize((64, 96))
    exif, files = Image.Exif(), []
    exif[ExifTags.Base.Orientation] = 6
    for form, mode in (("JPEG", "RGB"), ("PNG", "RGBA"), ("WEBP", "RGBA"), ("GIF", "RGBA")):
        file = io.BytesIO()
        picture.convert(mode).save(file, form, **({} if form == "GIF" else {"exif": exif}))
        files.append(file.getvalue())
    return files


def _servable(tf, model, constants: bool):
    """Return a tf.Module with a ``predict`` function, and the signatures of the SavedModel."""
    from nf_zoo.pictures import tensorflow_decoding, tensorflow_images

    preprocessing = model.preprocessing
    trunk = _trunk(tf, model, constants)

    def prepare(image):
        return tensorflow_images.resize_and_crop(image, preprocessing)

    def network(pixels):
        form = input_of(model)
        outputs, features = trunk(as_input(pixels, preprocessing, **form))
        return outputs, {"features": tf.cast(features, tf.float32)}

    crop = tf.TensorSpec([*preprocessing.input_size, 3], tf.float32)

    def answer(pixels):
        outputs, features = network(pixels)
        return _answer(tf, model, outputs) if model.num_classes else features

    def predict(images):
        return answer(tf.map_fn(prepare, images, fn_output_signature=crop))

    def predict_bytes(image_bytes):
        def decode(encoded):
            image = tensorflow_decoding.decode_if_possible(encoded)
            valid = tf.size(image) > 0
            return tf.cond(valid, lambda: prepare(image), lambda: tf.zeros(crop.shape)), valid

        form = (crop, tf.TensorSpec([], tf.bool))
        pixels, valid = tf.map_fn(decode, image_bytes, fn_output_signature=form)
        answers = {
            name: tf.where(valid[:, None], values, tf.zeros_like(values))
            for name, values in answer(pixels).items()
        }
        return {**answers, "valid": valid}

    def embed(images):
        return network(tf.map_fn(prepare, images, fn_output_signature=crop))[1]

    module = _module(tf, model, constants)
    module.network, module.predict = trunk, tf.function(predict, autograph=False)
    floats = tf.TensorSpec([None, None, None, 3], tf.float32, name="images")
    integers = tf.TensorSpec([None, None, None, 3], tf.uint8, name="images")
    encoded = tf.TensorSpec([None], tf.string, name="image_bytes")
    signatures = {
        "serving_default": module.predict.get_concrete_function(floats),
        "serving_uint8": module.predict.get_concrete_function(integers),
        "serving_bytes": tf.function(predict_bytes, autograph=False).get_concrete_function(encoded),
        "features": tf.function(embed, autograph=False).get_concrete_function(floats),
    }
    return module, signatures


def _trunk(tf, model, constants: bool):
    """Return a concrete function from prepared pixels to (outputs, pooled features).

    All signatures call this one function, so that the file holds constants once.
    """
    with deep_graphs():
        trunk = keras.Model(model.inputs, [model.output, model.get_layer("pool").output])
    pixels = tf.TensorSpec(model.input_shape, model.inputs[0].dtype, name="pixels")
    return _traced(tf, model, lambda x: trunk([x], training=False), [pixels], constants)


def _module(tf, model, constants: bool):
    module = tf.Module()
    if not constants:
        module.model_variables = [variable.value for variable in model.variables]
    return module


def _traced(tf, model, call: Callable, specs: list, constants: bool):
    """Return a concrete function of ``call``, with the weights as variables or constants."""
    values = [variable.numpy() for variable in model.variables] if constants else []

    def run(*arrays):
        pairs = zip(model.variables, values, strict=True) if constants else ()
        mapping = [(variable, tf.constant(value)) for variable, value in pairs]
        with keras.StatelessScope(mapping) if constants else contextlib.nullcontext():
            return call(*arrays)

    return tf.function(run).get_concrete_function(*specs)


def _answer(tf, model, outputs):
    if model.classifier_activation is None:
        probabilities = tf.nn.softmax if model.num_classes > 1 else tf.nn.sigmoid
        outputs = probabilities(tf.cast(outputs, tf.float32))
    scores, order = tf.math.top_k(outputs, min(TOP, model.num_classes))
    names = tf.gather(tf.constant(class_names(model)), order)
    return {"probabilities": outputs, "labels": names, "scores": scores}
