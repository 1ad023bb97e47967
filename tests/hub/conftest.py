"""Tiny timm-format files, and helpers to see what a load did."""

from __future__ import annotations

import contextlib

import goldens
import numpy as np
import pytest
from hub_attacks import attack, sound
from stand_in_hub import hub, hub_server, impatient

__all__ = ["attack", "hub", "hub_server", "impatient", "sound"]

TINY = {"depths": (1, 1, 1, 1), "widths": (8, 16, 16, 32), "stem_width": 8}


@pytest.fixture
def tiny():
    """Builds four-block models: tiny("nf_resnet50", num_classes=5)."""
    from nf_zoo.models.classifier import build_model

    return lambda name, **options: build_model(name, **{**TINY, "num_classes": 5, **options})


NFNET = {"depths": (1, 1, 1, 1), "widths": (16, 16, 32, 32), "stem_widths": (4, 4, 8, 8)}


@pytest.fixture
def nfnet():
    """Builds four-block NFNets."""
    from nf_zoo.models.classifier import build_model

    options = {**NFNET, "group_width": 4, "num_classes": 5}
    return lambda name, **more: build_model(name, **{**options, **more})


@pytest.fixture
def timm_tensors():
    """Return timm's state dictionary of a model, filled by name."""

    def make(model) -> dict[str, np.ndarray]:
        from nf_zoo.hub.foreign_names import plan

        tensors = {}
        for step in plan(model, "timm"):
            shape = timm_shape(model, step.name, tuple(step.variable.shape))
            tensors[step.key] = np.asarray(goldens.fill_timm(step.key, shape))
            if step.key.endswith("running_mean"):
                counter = step.key.replace("running_mean", "num_batches_tracked")
                tensors[counter] = np.array(7)
        return tensors

    return make


def timm_shape(model, name: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape that timm gives the variable of that name."""
    if name.endswith("kernel"):
        is_convolution_head = name == "head/kernel" and model.architecture.startswith("resnetv2")
        return (*shape[::-1], 1, 1) if is_convolution_head else _channels_first(shape)
    return (*shape, 1, 1, 1) if name.endswith("/gain") and shape else shape


def _channels_first(shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(shape[axis] for axis in (3, 2, 0, 1)) if len(shape) == 4 else shape[::-1]


@pytest.fixture
def write(tmp_path):
    """Writes tensors as a safetensors file and returns its path."""
    from nf_zoo.hub.folder import write_tensors

    def write(tensors, name="model.safetensors", metadata=None):
        path = tmp_path / name
        write_tensors(tensors, path, metadata or {"format": "pt"})
        return path

    return write


@pytest.fixture
def values():
    """All variables of a model by name, as arrays."""
    import keras

    from nf_zoo.models.classifier import variable_names

    return lambda model: {
        name: keras.ops.convert_to_numpy(variable).copy()
        for name, variable in variable_names(model).items()
    }


@pytest.fixture
def unchanged(values):
    """A context manager: whatever happens inside, the model's variables stay as they are."""

    @contextlib.contextmanager
    def unchanged(model):
        before = values(model)
        yield
        for name, value in values(model).items():
            np.testing.assert_array_equal(value, before[name], err_msg=name)

    return unchanged


@pytest.fixture
def same(values):
    """Checks that two models hold the same values."""

    def check(one, other):
        expected = values(one)
        found = values(other)
        assert expected.keys() == found.keys()
        for name, value in expected.items():
            np.testing.assert_array_equal(found[name], value, err_msg=name)

    return check


@pytest.fixture
def go_offline(monkeypatch):
    """Called, it takes the network away."""
    from huggingface_hub import constants

    return lambda: monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
