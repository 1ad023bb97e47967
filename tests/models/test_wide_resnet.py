from __future__ import annotations

import math

import keras
import numpy as np
import pytest

import nf_zoo
from nf_zoo.models.classifier import build_model
from nf_zoo.models.registry import architecture
from nf_zoo.models.wide_resnet import SCHEMES

pytestmark = pytest.mark.fast


def images(count=4):
    return np.random.default_rng(0).standard_normal((count, 32, 32, 3)).astype("float32")


@pytest.mark.parametrize(("n", "k"), [(10, 1), (16, 2), (22, 8), (1000, 4)])
def test_any_depth_and_width_by_name(n, k):
    row = architecture(f"wide_resnet{n}_{k}")
    assert row.config.depths == ((n - 4) // 6,) * 3
    assert row.config.widths == (16 * k, 32 * k, 64 * k)


@pytest.mark.parametrize("name", ["wide_resnet17_4", "wide_resnet4_4", "wide_resnet16_0"])
def test_other_depths_are_refused(name):
    with pytest.raises(ValueError, match=rf"6 m \+ 4 layers.*nearest is wide_resnet.*{name}"):
        architecture(name)


def test_size_of_the_published_network():
    """36.5 M in the table of Zagoruyko & Komodakis for WRN-28-10."""
    model = build_model("wide_resnet28_10", scheme="bn", num_classes=10)
    assert round(model.count_params() / 1e6, 1) == 36.5


@pytest.mark.parametrize("scheme", SCHEMES)
def test_every_scheme_is_the_same_network(scheme, tmp_path):
    model = nf_zoo.create_model("wide_resnet10_1", scheme=scheme, num_classes=10)
    assert [stage.stride for stage in model.stages] == [1, 1, 2, 4]
    assert [stage.channels for stage in model.stages] == [16, 16, 32, 64]
    convolutions = sum(math.prod(v.shape) for v in model.weights if len(v.shape) == 4)
    assert convolutions == 76_720
    model.compile(keras.optimizers.SGD(0.01), "sparse_categorical_crossentropy")
    expected = model(images())
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(again(images()), expected)
    assert again.config == model.config


@pytest.mark.parametrize("scheme", [name for name in SCHEMES if name != "fixup"])
def test_what_a_scheme_does_to_the_branch(scheme):
    model = build_model("wide_resnet16_1", scheme=scheme, num_classes=10, **_loud(scheme))
    block = model.get_layer("stage2_block2")
    x = np.random.default_rng(1).standard_normal((2, 8, 8, 32)).astype("float32")
    residual, shortcut = map(np.asarray, block.halves(x))
    np.testing.assert_array_equal(shortcut, x)
    gain = {"skipinit": 0.0, "skipinit_1/sqrt(d)": 1 / math.sqrt(6), "nf": 0.2}.get(scheme, 1.0)
    merged = (residual * gain + shortcut) * (math.sqrt(0.5) if scheme == "divide_sqrt2" else 1.0)
    np.testing.assert_allclose(block(x), merged, rtol=1e-5, atol=1e-5)
    assert np.std(residual) > 0.1


def _loud(scheme):
    return {"zero_init_gain": False} if scheme == "nf" else {}


def test_fixup_starts_with_silent_branches_and_scaled_kernels():
    model = build_model("wide_resnet100_1", scheme="fixup", num_classes=10)
    first, last = model.get_layer("stage3_block5").convs
    assert not np.any(last.kernel)
    he = math.sqrt(2 / (9 * 64))
    # m = 2 convolutions a branch: He's deviation times 48 ** (-1 / 2).
    assert np.std(first.kernel) == pytest.approx(he * 48**-0.5, rel=0.02)


@pytest.mark.parametrize("field", ["alpha", "zero_init_gain"])
def test_fields_of_another_scheme_are_refused(field):
    value = {"alpha": 0.5, "zero_init_gain": False}[field]
    with pytest.raises(ValueError, match=f"{field} must be left alone with scheme='bn'"):
        build_model("wide_resnet16_1", scheme="bn", **{field: value})
    with pytest.raises(ValueError, match=r"scheme must be one of .*'batchnorm'"):
        build_model("wide_resnet16_1", scheme="batchnorm")
