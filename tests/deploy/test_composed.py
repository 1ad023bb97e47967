"""Keras models with a network of the zoo inside: exported, or told in one line where to go."""

from __future__ import annotations

import keras
import numpy as np
import onnxruntime
import pytest
import tensorflow as tf
import tiny_networks
from programs import succeed

import nf_zoo
from nf_zoo.deploy import litert_file
from nf_zoo.deploy.exporting import output_names

SIZE = (64, 96)


def redrawn(model):
    """The same model with every weight drawn anew, so that nothing is zero or one."""
    for index, weight in enumerate(model.weights):
        draw = np.random.default_rng(index).standard_normal(weight.shape)
        scale = 1 / np.sqrt(max(np.prod(weight.shape[:-1]), 1))
        if "variance" in weight.path:
            weight.assign(0.5 + np.abs(draw))
        elif "float" in weight.dtype:
            weight.assign(scale * draw if len(weight.shape) > 1 else 0.5 + 0.3 * draw)
    return model


def a_sequence():
    body = tiny_networks.build("nf_resnet", num_classes=0)
    return keras.Sequential([body, keras.layers.Dropout(0.5), keras.layers.Dense(3)])


def a_called_sequence():
    """Without an Input; Keras then takes the batch of the first call for the model's."""
    body = tiny_networks.build("nfnet", num_classes=0)
    model = keras.Sequential([keras.layers.Rescaling(1 / 255), body, keras.layers.Dense(3)])
    model(np.zeros((5, *SIZE, 3), "float32"))
    return model


def with_augmentation():
    body = tiny_networks.build("resnet_v2", num_classes=0)
    inputs = keras.Input((*SIZE, 3))
    x = keras.layers.RandomFlip()(inputs)
    x = keras.layers.RandomRotation(0.2)(x)
    x = keras.layers.Rescaling(1 / 127.5, offset=-1)(x)
    x = keras.layers.BatchNormalization()(body(x))
    return keras.Model(inputs, keras.layers.Dense(3, activation="softmax")(x))


def a_feature_pyramid(size=SIZE):
    body = nf_zoo.create_model(
        "nf_resnet26",
        features_only=True,
        out_indices=(1, 2, 3, 4),
        depths=(1, 1, 1, 1),
        widths=(8, 8, 16, 16),
        stem_width=8,
    )
    inputs = keras.Input((*size, 3))
    *maps, top = [keras.layers.Conv2D(8, 1)(x) for x in body(inputs)]
    for index, lateral in enumerate(reversed(maps)):
        kind = "nearest" if index else "bilinear"
        top = keras.layers.UpSampling2D(2, interpolation=kind)(top)
        top = keras.layers.Conv2D(8, 3, padding="same")(keras.layers.Add()([top, lateral]))
    masks = keras.layers.Conv2DTranspose(4, 4, 4, padding="same", activation="softmax")(top)
    return keras.Model(inputs, masks)


def a_free_feature_pyramid():
    return a_feature_pyramid((None, None))


def two_outputs():
    body = tiny_networks.build("nf_resnet_paper", num_classes=0)
    inputs = keras.Input((None, None, 3))
    features = body(inputs * 2.0 - 0.5)
    boxes = 0.5 - keras.layers.Dense(4, name="features")(features) / 2
    return keras.Model(inputs, {"classes": keras.layers.Dense(3)(features), "boxes": boxes})


def two_inputs():
    body = tiny_networks.build("nf_resnet", num_classes=0)
    inputs = [keras.Input((None, None, 3), name="picture"), keras.Input((4,), name="facts")]
    x = keras.layers.Concatenate()([body(inputs[0]), inputs[1]])
    return keras.Model(inputs, keras.layers.Dense(3)(x))


def of_integers():
    inputs = keras.Input((*SIZE, 3), dtype="uint8")
    x = keras.layers.Rescaling(1 / 255)(keras.layers.RandomFlip()(inputs))
    body = tiny_networks.build("nf_resnet", num_classes=0)
    return keras.Model(inputs, keras.layers.Dense(3)(body(x)))


def folded():
    return nf_zoo.fold(with_augmentation())


MODELS = (
    *(a_sequence, a_called_sequence, with_augmentation, a_feature_pyramid),
    *(two_outputs, two_inputs, of_integers, folded),
)


@pytest.fixture(scope="module", params=MODELS, ids=lambda build: build.__name__)
def model(request):
    keras.utils.set_random_seed(0)
    return redrawn(request.param())


def check(model, run) -> None:
    """``run`` takes an array for each input and gives one for each output."""
    for count in (1, 2):
        inputs = [tiny_networks.images(count, SIZE)]
        if model.inputs[0].dtype == "uint8":
            inputs[0] = np.clip(np.round(127 + 50 * inputs[0]), 0, 255)
        if len(model.inputs) > 1:
            inputs.append(np.ones((count, 4), "float32"))
        expected = model(inputs if len(inputs) > 1 else inputs[0], training=False)
        for wanted, found in zip(keras.tree.flatten(expected), run(*inputs), strict=True):
            assert tiny_networks.difference(found, np.asarray(wanted)) <= 2e-5
            assert np.ptp(wanted) > 1e-3


@pytest.mark.parametrize("size", [SIZE, (128, 64)])
def test_an_onnx_file_of_free_sides(size, tmp_path):
    model = redrawn(a_free_feature_pyramid())
    path = nf_zoo.export_onnx(model, tmp_path / "model.onnx")
    inputs = tiny_networks.images(2, size)
    session = onnxruntime.InferenceSession(str(path))
    (found,) = session.run(None, {session.get_inputs()[0].name: inputs})
    assert tiny_networks.difference(found, np.asarray(model(inputs))) <= 1e-5


@pytest.mark.parametrize("export", [nf_zoo.export_litert, nf_zoo.export_saved_model])
def test_free_sides_that_keras_works_out(export, tmp_path):
    message = r"keras\.Input\(\(height, width, channels\)\)\. Received: \("
    with pytest.raises(ValueError, match=message):
        export(a_free_feature_pyramid(), tmp_path / "model")
    assert list(tmp_path.iterdir()) == []


def test_onnx(model, tmp_path):
    path = nf_zoo.export_onnx(model, tmp_path / "model.onnx")
    session = onnxruntime.InferenceSession(str(path))
    names = [entry.name for entry in session.get_inputs()]
    assert [entry.name for entry in session.get_outputs()] == output_names(model)
    check(model, lambda *arrays: session.run(None, dict(zip(names, arrays, strict=True))))


def test_litert(model, tmp_path):
    path = nf_zoo.export_litert(model, tmp_path / "model.tflite")
    names = litert_file.inputs_of(model)
    check(model, litert_file.runner(path, output_names(model), names))


def test_saved_model(model, tmp_path):
    check_saved(model, nf_zoo.export_saved_model(model, tmp_path / "model"))


@pytest.mark.parametrize("options", [{"constants": True}, {"fold": False}], ids=str)
@pytest.mark.parametrize("build", [a_called_sequence, two_outputs])
def test_saved_model_otherwise(build, options, tmp_path):
    model = redrawn(build())
    check_saved(model, nf_zoo.export_saved_model(model, tmp_path / "model", **options))


def check_saved(model, path) -> None:
    loaded = tf.saved_model.load(str(path))
    assert list(loaded.signatures) == ["serving_default"]
    names = [x._keras_history.operation.name for x in model.inputs]

    def run(*arrays):
        tensors = [tf.cast(x, y.dtype) for x, y in zip(arrays, model.inputs, strict=True)]
        answers = loaded.signatures["serving_default"](**dict(zip(names, tensors, strict=True)))
        return [answers[name].numpy() for name in output_names(model)]

    check(model, run)


def test_a_saved_model_runs_without_the_library(tmp_path):
    model = redrawn(two_outputs())
    path = nf_zoo.export_saved_model(model, tmp_path / "model")
    np.save(tmp_path / "pictures.npy", tiny_networks.images(2, SIZE))
    script = (
        "import sys; sys.modules['nf_zoo'] = None\n"
        "import numpy as np, tensorflow as tf\n"
        "loaded = tf.saved_model.load(sys.argv[1])\n"
        "answers = loaded.network(tf.constant(np.load('pictures.npy')))\n"
        "np.savez('answers.npz', **answers)\n"
    )
    succeed(script, path, cwd=tmp_path)
    expected = model(tiny_networks.images(2, SIZE), training=False)
    with np.load(tmp_path / "answers.npz") as answers:
        assert set(answers) == {"boxes", "classes"}
        for name, wanted in expected.items():
            assert tiny_networks.difference(answers[name], np.asarray(wanted)) <= 1e-5


def test_eight_bits(tmp_path):
    model = redrawn(a_feature_pyramid())
    pictures = tiny_networks.images(8, SIZE)
    path = tmp_path / "model.onnx"
    nf_zoo.export_onnx(model, path, precision="int8", pictures=pictures, keep_float=2)
    assert path.stat().st_size
    with pytest.raises(ValueError, match=r"an array \(N, H, W, C\).*Received: list"):
        nf_zoo.export_onnx(model, path, True, precision="int8", pictures=["a.jpg"])
    with pytest.raises(
        ValueError, match=r"model in eight bits must have one input.*Received: .* which has 2"
    ):
        nf_zoo.quantization_report(two_inputs(), pictures)


@keras.saving.register_keras_serializable("tests")
class Subclassed(keras.Model):
    def __init__(self):
        super().__init__()
        self.body = tiny_networks.build("nf_resnet", num_classes=0)
        self.classes = keras.layers.Dense(3)

    def call(self, x):
        return self.classes(self.body(x))


@keras.saving.register_keras_serializable("tests")
class Doubled(keras.Model):
    """Has a graph, and does something else."""

    def call(self, inputs, training=None, mask=None):
        return 2 * super().call(inputs, training=training)


def a_doubled_model():
    inputs = keras.Input((32, 32, 3))
    return Doubled(inputs, keras.layers.Conv2D(2, 3)(inputs))


@pytest.mark.parametrize("build", [Subclassed, a_doubled_model])
@pytest.mark.parametrize(
    "export", [nf_zoo.export_onnx, nf_zoo.export_litert, nf_zoo.export_saved_model]
)
def test_a_model_with_a_call_of_its_own(build, export, tmp_path):
    model = build()
    x = tiny_networks.images(1, (32, 32))
    expected = model(x)
    for options in [{}, {"fold": False}] if export is nf_zoo.export_saved_model else [{}]:
        with pytest.raises(ValueError, match=r"functional or Sequential.*model\.export\(folder\)"):
            export(model, tmp_path / "out" / "model", **options)
    assert list(tmp_path.iterdir()) == []
    # The advice is true.
    model.export(tmp_path / "advised", verbose=False)
    loaded = tf.saved_model.load(str(tmp_path / "advised"))
    np.testing.assert_allclose(loaded.serve(x), expected, rtol=1e-4, atol=1e-5)


NOT_OURS = (a_sequence, two_outputs, Subclassed, folded)


@pytest.mark.parametrize("build", NOT_OURS)
def test_folders_of_weights_are_for_classifiers(build, tmp_path, monkeypatch):
    model = build()
    message = rf"model\.save\('name\.keras'\)\. Received: {type(model).__name__}"
    with pytest.raises(ValueError, match=message) as caught:
        nf_zoo.save_pretrained(model, tmp_path / "out" / "model")
    assert "\n" not in str(caught.value) and list(tmp_path.iterdir()) == []
    # Before it asks for a token or the hub.
    monkeypatch.delenv("HF_TOKEN", raising=False)
    with pytest.raises(ValueError, match=message):
        nf_zoo.push_to_hub(model, "me/model")


class Scaled(keras.layers.Layer):
    def __init__(self, function):
        super().__init__(name="scaled")
        self.function = function

    def call(self, x):
        return self.function(x)


def test_layers_that_cannot_be_copied(tmp_path):
    inputs = keras.Input((*SIZE, 3))
    model = keras.Model(inputs, Scaled(lambda x: 2 * x)(keras.layers.Conv2D(3, 3)(inputs)))
    with pytest.raises(ValueError, match=r"fold=False.*Received: 'scaled' \(Scaled\)"):
        nf_zoo.export_saved_model(model, tmp_path / "out" / "model")
    assert list(tmp_path.iterdir()) == []
    assert nf_zoo.export_saved_model(model, tmp_path / "model", fold=False).is_dir()


@pytest.mark.parametrize("build", NOT_OURS)
def test_evaluation_is_for_classifiers(build, tmp_path):
    model = build()
    with pytest.raises(ValueError, match=r"model\.evaluate\(.*Received: ") as caught:
        nf_zoo.evaluate(model, tmp_path)
    assert "\n" not in str(caught.value)


def test_the_advice_to_save_and_evaluate(tmp_path):
    model = redrawn(a_sequence())
    x = tiny_networks.images(4, (32, 32))
    model.compile(loss="mse", metrics=["mae"])
    assert len(model.evaluate(x, np.zeros((4, 3)), verbose=0)) == 2
    model.save(tmp_path / "name.keras")
    np.save(tmp_path / "x.npy", x)
    script = (
        "import numpy as np, keras, nf_zoo, nf_zoo.models.classifier\n"
        "model = keras.models.load_model('name.keras')\n"
        "np.save('y.npy', model.predict(np.load('x.npy'), verbose=0))\n"
    )
    succeed(script, cwd=tmp_path)
    np.testing.assert_allclose(np.load(tmp_path / "y.npy"), model.predict(x, verbose=0), atol=1e-5)
