from __future__ import annotations

import csv
import json

import goldens
import keras
import numpy as np
import pytest

import nf_zoo
from nf_zoo.models.registry import build_model
from nf_zoo.signal_propagation import theory

GOLDEN = json.loads((goldens.REFERENCE / "haiku/NF_ResNet_ResNet50__metrics.json").read_text())
SMALL = {"depths": (12, 12), "widths": (32, 64), "stem": "3x3", "stem_width": 16}
NOISE = (8, 32, 32, 3)


@pytest.fixture(scope="module")
def published():
    model = build_model("nf_resnet50", variant="paper")
    goldens.fill(model, "haiku", "NF_ResNet_ResNet50")
    return model


def check_against_published(result, golden):
    assert len(result) == 16
    np.testing.assert_allclose(
        result.before, (golden["avg_sq_mean_0"], golden["avg_var_0"]), rtol=1e-4
    )
    for i, block in enumerate(result):
        found = (block.squared_mean, block.variance, block.residual_variance)
        expected = [
            golden[key]
            for key in (f"avg_sq_mean_{i + 1}", f"avg_var_{i + 1}", f"res_avg_var_{i}")
        ]
        np.testing.assert_allclose(found, expected, rtol=1e-4)


@pytest.mark.parametrize("size", goldens.SIZES)
@pytest.mark.parametrize("batch_size", [1, 2])
def test_equals_the_published_metrics_however_it_is_batched(published, size, batch_size):
    result = nf_zoo.signal_propagation(published, goldens.images(size), batch_size=batch_size)
    check_against_published(result, GOLDEN[f"{size[0]}x{size[1]}"])
    assert {block.stage for block in result} == {1, 2, 3, 4}
    assert result[3].name == "stage2_block1" and result[3].stage == 2


def test_equals_the_published_metrics_at_unit_gains(published):
    biases = [v for v in published.weights if v.path.endswith("bias") and "head" not in v.path]
    kept = [keras.ops.convert_to_numpy(bias) for bias in biases]
    before = published.get_weights()
    for bias in biases:
        bias.assign(np.zeros(bias.shape))
    zeroed = published.get_weights()
    result = nf_zoo.signal_propagation(published, goldens.images((64, 64)), unit_gains=True)
    check_against_published(result, GOLDEN["64x64_unit_gain_zero_bias"])
    for mine, theirs in zip(zeroed, published.get_weights(), strict=True):
        np.testing.assert_array_equal(mine, theirs)
    for bias, value in zip(biases, kept, strict=True):
        bias.assign(value)
    assert len(before) == len(zeroed)


def test_statistics_of_the_batch_leave_batch_norm_as_it_was():
    model = build_model("wide_resnet16_1", scheme="bn", num_classes=10)
    before = model.get_weights()
    momenta = [norm.momentum for norm in model.blocks[0].norms]
    result = nf_zoo.signal_propagation(model, NOISE)
    assert result.batch_statistics
    for mine, theirs in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(mine, theirs)
    assert momenta == [norm.momentum for norm in model.blocks[0].norms]
    # The first norm of a block sees what the block before puts out.
    for previous, block in zip(result[:-1], result[1:], strict=True):
        assert block.bn_moving_variance == pytest.approx(previous.variance, rel=1e-3)
    plain = nf_zoo.signal_propagation(model, NOISE, batch_statistics=False)
    assert plain[0].bn_moving_variance == 1.0
    assert plain[-1].variance > 2 * result[-1].variance


def test_pictures_datasets_and_noise():
    import tensorflow as tf

    model = build_model("wide_resnet10_1", num_classes=10)
    images = np.random.default_rng(0).standard_normal((10, 32, 32, 3)).astype("float32")
    data = tf.data.Dataset.from_tensor_slices((images, np.arange(10))).batch(3)
    from_array = nf_zoo.signal_propagation(model, images, batch_size=4)
    from_dataset = nf_zoo.signal_propagation(model, data)
    assert from_array.pictures == from_dataset.pictures == 10
    assert from_array.inputs == "images"
    for a, b in zip(from_array, from_dataset, strict=True):
        assert a.variance == pytest.approx(b.variance, rel=1e-5)
    noise = nf_zoo.signal_propagation(model, (32, 32, 3), batch_size=5)
    assert (noise.inputs, noise.pictures) == ("noise", 5)


@pytest.mark.parametrize(
    ("source", "match"),
    [
        ((32, 32, 4), r"takes \(N, None, None, 3\).*Received: \(32, 32, 4\)"),
        (np.zeros((0, 32, 32, 3)), "at least one"),
        (np.zeros((2, 32, 32)), r"Received: \(2, 32, 32\)"),
        ([], "at least one|no batches"),
        ("pictures/", "Give images"),
    ],
)
def test_bad_pictures(source, match):
    model = build_model("wide_resnet10_1", num_classes=10)
    with pytest.raises(ValueError, match=match):
        nf_zoo.signal_propagation(model, source)


def test_a_subclassed_model_is_refused():
    class Subclassed(keras.Model):
        def call(self, x):
            return x

    with pytest.raises(TypeError, match="functional or built sequential.*Subclassed"):
        nf_zoo.signal_propagation(Subclassed(), NOISE)


def test_files_and_text(tmp_path):
    model = build_model("wide_resnet16_1", num_classes=10)
    result = nf_zoo.signal_propagation(model, NOISE, unit_gains=True)
    rows = list(csv.DictReader(result.to_csv(tmp_path / "new/spp.csv").open()))
    assert [row["name"] for row in rows] == [block.name for block in result]
    assert float(rows[2]["variance"]) == result[2].variance
    assert rows[0]["bn_moving_variance"] == ""
    assert json.loads(json.dumps(result.to_dict()))["blocks"][1]["variance"] == result[1].variance
    assert result.plot(tmp_path / "spp.png").stat().st_size > 5000
    first = result.plot(tmp_path / "spp.svg").read_bytes()
    assert result.plot(tmp_path / "spp.svg").read_bytes() == first
    with pytest.raises(ValueError, match="suffix decides the format.*spp.docx"):
        result.plot(tmp_path / "spp.docx")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["new", "spp.png", "spp.svg"]
    assert "stage3_block2" in repr(result) and "unit gains" in repr(result)


def test_ten_thousand_pictures_are_never_in_memory_at_once():
    model = build_model("wide_resnet10_1", num_classes=10, widths=(2, 2, 2), stem_width=2)
    largest = 0

    def batches():
        nonlocal largest
        generator = np.random.default_rng(0)
        for _ in range(20):
            yield generator.standard_normal((50, 8, 8, 3)).astype("float32")

    block = type(model.blocks[0])
    call = block.halves

    def watched(self, x, training=False):
        nonlocal largest
        largest = max(largest, x.shape[0])
        return call(self, x, training)

    block.halves = watched
    try:
        result = nf_zoo.signal_propagation(model, batches(), batch_size=25)
    finally:
        block.halves = call
    assert result.pictures == 1000 and largest == 25


# --- theory ------------------------------------------------------------------------------------


def test_arithmetic_of_the_papers():
    assert [theory.unnormalised_variance(n) for n in (1, 2, 10)] == [1, 2, 512]
    assert theory.batch_norm_variance(5) == 5
    assert theory.branch_share(4) == 0.2
    assert theory.branch_variance("relu") == pytest.approx(1 - 1 / np.pi, abs=1e-3)
    assert theory.norm_free_variance(3) == pytest.approx(1.12)
    with pytest.raises(ValueError, match="counted from 1"):
        theory.batch_norm_variance(0)


def measured_over_predicted(name, seed, size, **fields):
    keras.utils.set_random_seed(seed)
    model = build_model(name, variant="paper", num_classes=0, pooling=None, **fields)
    result = nf_zoo.signal_propagation(model, size, unit_gains=True, seed=seed)
    return np.array([block.variance / block.predicted_variance for block in result])
