"""Checkpoints into models: from files, folders and a hub."""

from __future__ import annotations

import logging
import shutil
import textwrap

import goldens
import ml_dtypes
import numpy as np
import pytest
from programs import printed_by, succeed
from weights_files import load_pretrained_weights, save_weights

from nf_zoo.hub.catalog import find_record
from nf_zoo.hub.folder import save_pretrained
from nf_zoo.hub.loading import adapt_input_channels, build_options
from nf_zoo.hub.pretrained import load_pretrained
from nf_zoo.hub.sources import HubRepository, resolve_pretrained
from nf_zoo.pictures.preprocessing import Preprocessing

REPOSITORY = "timm/nf_resnet50.ra2_in1k"


def ours(name: str, array: np.ndarray) -> np.ndarray:
    """A tensor of timm in our layout, said once more in the tests' own words."""
    if name.endswith("kernel"):
        return np.moveaxis(array, (0, 1), (-1, -2)) if array.ndim == 4 else array.T
    return array.ravel() if array.ndim == 4 else array


@pytest.mark.parametrize(
    "architecture", ["nf_resnet50", "nf_seresnet50", "resnet50", "resnetv2_50"]
)
def test_every_variable_gets_its_tensor(architecture, tiny, timm_tensors, write, values):
    from nf_zoo.hub.foreign_names import plan

    model = tiny(architecture)
    tensors = timm_tensors(model)
    load_pretrained_weights(model, write(tensors))
    loaded = values(model)
    for step in plan(model, "timm"):
        expected = ours(step.name, tensors[step.key]).reshape(loaded[step.name].shape)
        np.testing.assert_array_equal(loaded[step.name], expected, err_msg=step.name)


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.float64])
def test_other_float_types_are_cast(dtype, tiny, timm_tensors, write, values):
    model = tiny("nf_resnet50")
    tensors = {key: array.astype(dtype) for key, array in timm_tensors(model).items()}
    load_pretrained_weights(model, write(tensors))
    expected = ours("head/kernel", tensors["head.fc.weight"]).astype(np.float32)
    loaded = values(model)["head/kernel"]
    assert loaded.dtype == np.float32
    np.testing.assert_array_equal(loaded, expected)


@pytest.mark.parametrize("architecture", ["nf_resnet50", "resnet50", "resnetv2_50"])
def test_other_classes_keep_the_body_and_say_so_once(
    architecture, tiny, timm_tensors, write, values, caplog
):
    tensors = timm_tensors(tiny(architecture))
    model = tiny(architecture, num_classes=3)
    before = values(model)
    with caplog.at_level(logging.INFO, logger="nf_zoo"):
        load_pretrained_weights(model, write(tensors))
    after = values(model)
    for name in ("head/kernel", "head/bias"):
        np.testing.assert_array_equal(after[name], before[name])
    kernel = next(array for array in tensors.values() if array.ndim == 4)
    np.testing.assert_array_equal(after["stem/conv/kernel"], ours("kernel", kernel))
    messages = [record.getMessage() for record in caplog.records]
    assert len(messages) == 1
    assert "classifier for 3 classes is new" in messages[0]
    assert "has 5" in messages[0]


def test_the_same_classes_say_nothing(tiny, timm_tensors, write, caplog):
    model = tiny("nf_resnet50")
    with caplog.at_level(logging.INFO, logger="nf_zoo"):
        load_pretrained_weights(model, write(timm_tensors(model)))
    assert not caplog.records


@pytest.mark.fast
@pytest.mark.parametrize("architecture", ["nf_resnet50", "resnet50", "resnetv2_50"])
def test_features_take_no_head(architecture, tiny, timm_tensors, write, values):
    tensors = timm_tensors(tiny(architecture))
    model = tiny(architecture, num_classes=0)
    load_pretrained_weights(model, write(tensors))
    kernel = next(array for array in tensors.values() if array.ndim == 4)
    np.testing.assert_array_equal(values(model)["stem/conv/kernel"], ours("kernel", kernel))


def test_a_checkpoint_without_head_leaves_the_head(tiny, timm_tensors, write, values, caplog):
    path = write(timm_tensors(tiny("nf_resnet50", num_classes=0)))
    model = tiny("nf_resnet50")
    before = values(model)["head/kernel"]
    load_pretrained_weights(model, path)
    np.testing.assert_array_equal(values(model)["head/kernel"], before)
    assert "has none" in caplog.text


@pytest.mark.parametrize("architecture", ["nf_resnet50", "resnet50"])
def test_gray_network_answers_as_the_color_one(architecture, tiny, timm_tensors, write):
    path = write(timm_tensors(tiny(architecture)))
    color, gray = tiny(architecture), tiny(architecture, input_shape=(None, None, 1))
    load_pretrained_weights(color, path)
    load_pretrained_weights(gray, path)
    picture = np.random.default_rng(0).standard_normal((1, 64, 64, 1)).astype("float32")
    expected = color.predict(np.repeat(picture, 3, axis=-1), verbose=0)
    answer = gray.predict(picture, verbose=0)
    assert np.abs(answer - expected).max() < 2e-5 * np.abs(expected).max()


def test_more_channels_repeat_the_kernel():
    kernel = np.arange(2 * 2 * 3 * 4, dtype="float32").reshape(2, 2, 3, 4)
    adapted = adapt_input_channels(kernel, 5)
    assert adapted.shape == (2, 2, 5, 4)
    assert adapted.dtype == np.float32
    for channel, source in enumerate((0, 1, 2, 0, 1)):
        np.testing.assert_allclose(adapted[:, :, channel], kernel[:, :, source] * 0.6)


def test_six_channels_of_the_same_picture_answer_alike(tiny, timm_tensors, write):
    path = write(timm_tensors(tiny("nf_resnet50")))
    color, double = tiny("nf_resnet50"), tiny("nf_resnet50", input_shape=(None, None, 6))
    load_pretrained_weights(color, path)
    load_pretrained_weights(double, path)
    picture = np.random.default_rng(0).standard_normal((1, 64, 64, 3)).astype("float32")
    expected = color.predict(picture, verbose=0)
    answer = double.predict(np.concatenate([picture, picture], axis=-1), verbose=0)
    assert np.abs(answer - expected).max() < 2e-5 * np.abs(expected).max()


@pytest.mark.fast
@pytest.mark.parametrize("dtype", [None, "float16", "bfloat16"])
def test_own_format_round_trip(dtype, tiny, tmp_path, values):
    # The paper's variant has scalar gains, which keep their shape ().
    model, other = tiny("nf_resnet50", variant="paper"), tiny("nf_resnet50", variant="paper")
    for variable in model.variables:
        variable.assign(np.random.default_rng(1).standard_normal(variable.shape))
    load_pretrained_weights(other, save_weights(model, tmp_path / "own.safetensors", dtype))
    storage = {None: "float32", "bfloat16": ml_dtypes.bfloat16}.get(dtype, dtype)
    before, after = values(model), values(other)
    assert before.keys() == after.keys()
    assert after["stage1/block1/skip_gain/gain"].shape == ()
    for name in before:
        expected = before[name].astype(storage).astype("float32")
        np.testing.assert_array_equal(after[name], expected, err_msg=name)


def test_saved_files_have_ordinary_permissions(tiny, tmp_path):
    (tmp_path / "ordinary").touch()
    path = save_weights(tiny("nf_resnet50"), tmp_path / "own.safetensors")
    assert path.stat().st_mode == (tmp_path / "ordinary").stat().st_mode


def test_saving_in_float16_refuses_overflow(tiny, tmp_path):
    model = tiny("resnet50")
    model.get_layer("stem_norm").moving_variance.assign(np.full(8, 1e6))
    with pytest.raises(ValueError, match=r"stem/norm/moving_variance .*float16"):
        save_weights(model, tmp_path / "m.safetensors", "float16")
    assert not list(tmp_path.iterdir())


def test_download_then_cache_then_offline(hub, tiny, timm_tensors, write, values, monkeypatch):
    from huggingface_hub import constants

    tensors = timm_tensors(tiny("nf_resnet50"))
    hub.add(REPOSITORY, "model.safetensors", write(tensors).read_bytes())
    source = resolve_pretrained("nf_resnet50", True)
    expected = ours("head/kernel", tensors["head.fc.weight"])
    for state in ("downloaded", "cached", "offline"):
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", state == "offline")
        model = tiny("nf_resnet50")
        load_pretrained_weights(model, source)
        np.testing.assert_array_equal(values(model)["head/kernel"], expected, err_msg=state)
        assert len(hub.downloads()) == 1, state


def test_an_interrupted_download_resumes(hub, tiny, timm_tensors, write, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 1024)
    content = write(timm_tensors(tiny("nf_resnet50"))).read_bytes()
    hub.add(REPOSITORY, "model.safetensors", content)
    hub.misbehavior = "breaks off"
    load_pretrained_weights(tiny("nf_resnet50"), True)
    assert hub.downloads() == [None, f"bytes={len(content) // 2 // 1024 * 1024}-"]


def test_a_repository_at_a_revision(hub, tiny, timm_tensors, write, values):
    for shift, revision in enumerate(("main", "v2")):
        tensors = {
            key: np.asarray(array + shift) for key, array in timm_tensors(tiny("resnet50")).items()
        }
        hub.add("me/mine", "model.safetensors", write(tensors).read_bytes(), revision)
    model = tiny("resnet50")
    load_pretrained_weights(model, "hf://me/mine@v2")
    np.testing.assert_array_equal(values(model)["head/bias"], tensors["fc.bias"])


ENVIRONMENT_SCRIPT = """
    from nf_zoo.hub.errors import WeightsOffline
    from nf_zoo.hub.sources import resolve_pretrained

    try:
        print(resolve_pretrained("nf_resnet50", True).weights().read_text())
    except WeightsOffline as error:
        print(error)
"""


def test_the_hubs_environment_variables_are_respected(hub_server, tmp_path):
    hub_server.add(REPOSITORY, "model.safetensors", b"from the stand-in")

    def run(**environment):
        settings = {"HF_ENDPOINT": hub_server.url, "HF_HUB_DISABLE_XET": "1"}
        settings |= {"NO_PROXY": "127.0.0.1", **environment}
        return succeed(textwrap.dedent(ENVIRONMENT_SCRIPT), **settings).stdout

    here = str(tmp_path / "here")
    assert "from the stand-in" in run(HF_HOME=here)
    assert "from the stand-in" in run(HF_HOME=here, HF_HUB_OFFLINE="1")
    elsewhere = run(HF_HOME=str(tmp_path / "elsewhere"), HF_HUB_OFFLINE="1")
    assert "HF_HUB_OFFLINE is set" in elsewhere
    assert str(tmp_path / "elsewhere") in elsewhere
    assert len(hub_server.downloads()) == 1


def test_a_folder_rebuilds_the_model(tiny, tmp_path, values):
    preprocessing = Preprocessing(input_size=(48, 32), crop_fraction=0.9, mean=(0.5, 0.5, 0.5))
    model = tiny(
        "nf_resnet50",
        labels=("ash", "bay", "elm", "fig", "höhe"),
        preprocessing=preprocessing,
        activation="silu",
        input_shape=(None, None, 4),
        classifier_activation="softmax",
    )
    folder = save_pretrained(model, tmp_path / "new" / "folder", dtype="bfloat16")
    assert sorted(path.name for path in folder.iterdir()) == [
        *("README.md", "config.json", "labels.txt", "model.safetensors", "preprocessing.json")
    ]
    copy = load_pretrained(folder)
    assert (copy.architecture, copy.config) == (model.architecture, model.config)
    assert (copy.labels, copy.preprocessing) == (model.labels, preprocessing)
    assert copy.options() == model.options()
    for name, value in values(model).items():
        np.testing.assert_allclose(values(copy)[name], value, rtol=2**-8, err_msg=name)


def test_saving_over_a_folder_needs_leave(tiny, tmp_path, values):
    first, second = tiny("resnet50"), tiny("nf_resnet50")
    folder = save_pretrained(first, tmp_path / "folder")
    (folder / "README.md").write_text("mine")
    with pytest.raises(FileExistsError, match="overwrite=True"):
        save_pretrained(second, folder)
    assert load_pretrained(folder).architecture == "resnet50"
    save_pretrained(second, folder, overwrite=True)
    assert load_pretrained(folder).architecture == "nf_resnet50"
    assert (folder / "README.md").read_text() == "mine"
    assert len(list(folder.iterdir())) == 5


TIMM_CONFIG = """{
  "architecture": "resnetv2_18",
  "num_classes": 1000,
  "num_features": 512,
  "pretrained_cfg": {
    "tag": "x", "input_size": [3, 224, 224], "test_input_size": [3, 288, 288], "crop_pct": 0.9,
    "test_crop_pct": 1.0, "crop_mode": "center", "interpolation": "bicubic",
    "mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5], "first_conv": "stem.conv"
  }
}"""


def test_build_options_of_every_kind_of_source(hub, tiny, tmp_path):
    model = tiny("nf_resnet50", labels=tuple("abcde"), activation="gelu")
    folder = save_pretrained(model, tmp_path / "folder")
    shutil.copy(folder / "model.safetensors", tmp_path / "alone.safetensors")
    for name in ("model.safetensors", "config.json"):
        hub.add("me/mine", name, (folder / name).read_bytes())
    hub.add("me/timm", "config.json", TIMM_CONFIG.encode())
    record = find_record("nf_resnet50")

    assert build_options("nf_resnet50", record) == {
        "num_classes": 1000,
        "preprocessing": record.preprocessing,
    }
    for source in (folder, folder / "model.safetensors", HubRepository("me/mine")):
        options = build_options("nf_resnet50", source)
        assert (options["labels"], options["activation"]) == (tuple("abcde"), "gelu")
    assert build_options("nf_resnet50", tmp_path / "alone.safetensors") == {"num_classes": 5}
    options = build_options("resnetv2_18", HubRepository("me/timm"))
    assert options["num_classes"] == 1000
    assert options["preprocessing"] == find_record("resnetv2_18").preprocessing


MEMORY_SCRIPT = """
    import pathlib, sys
    import nf_zoo.hub.loading, nf_zoo.hub.sources
    from nf_zoo.models.classifier import build_model

    def peak():
        for line in pathlib.Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM"):
                return int(line.split()[1]) * 1024

    model = build_model("nf_resnet26")
    before = peak()
    source = nf_zoo.hub.sources.Local(pathlib.Path(sys.argv[1]))
    nf_zoo.hub.loading.fill(model, source)
    print(peak() - before)
"""


def test_loading_needs_little_memory(write):
    shapes = goldens.source_shapes("timm", "nf_resnet26")
    path = write({key: np.zeros(shape, "float32") for key, shape in shapes.items()})
    taken = int(printed_by(textwrap.dedent(MEMORY_SCRIPT), path))
    # 1.5 is the promise. Reading one tensor at a time takes less; the whole file at once, more.
    assert taken < 1.2 * path.stat().st_size
