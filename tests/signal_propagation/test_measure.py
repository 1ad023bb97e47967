from __future__ import annotations

import csv
import itertools
import json

import goldens
import keras
import numpy as np
import pytest

import nf_zoo
from nf_zoo import layers
from nf_zoo.models.classifier import build_model
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
            golden[key] for key in (f"avg_sq_mean_{i + 1}", f"avg_var_{i + 1}", f"res_avg_var_{i}")
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


@pytest.mark.fast
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
    for previous, block in itertools.pairwise(result):
        assert block.bn_moving_variance == pytest.approx(previous.variance, rel=1e-3)
    plain = nf_zoo.signal_propagation(model, NOISE, batch_statistics=False)
    assert plain[0].bn_moving_variance == 1.0
    assert not plain.batch_statistics
    # Untouched statistics normalize nothing, so the branch follows the scale of its input.
    louder = 3 * np.random.default_rng(0).standard_normal(NOISE).astype("float32")
    loud = nf_zoo.signal_propagation(model, louder, batch_statistics=False)
    assert loud[0].residual_variance > 5 * plain[0].residual_variance


@pytest.mark.fast
def test_statistics_of_the_batch_hold_for_frozen_batch_norm_too():
    model = build_model("wide_resnet16_1", scheme="bn", num_classes=10)
    free = nf_zoo.signal_propagation(model, NOISE, batch_statistics=True)
    model.trainable = False
    frozen = nf_zoo.signal_propagation(model, NOISE, batch_statistics=True)
    assert [block.variance for block in frozen] == pytest.approx([b.variance for b in free])
    assert not any(norm.trainable for block in model.blocks for norm in block.norms)
    model.trainable = True
    gamma = model.blocks[0].norms[0].gamma
    gamma.trainable = False
    nf_zoo.signal_propagation(model, NOISE, batch_statistics=True)
    assert not gamma.trainable and model.blocks[0].norms[0].beta.trainable


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


@pytest.mark.fast
@pytest.mark.parametrize(
    ("source", "match"),
    [
        ((32, 32, 4), r"must be \(N, None, None, 3\).*Received: \(32, 32, 4\)"),
        (np.zeros((0, 32, 32, 3)), "at least one"),
        (np.zeros((2, 32, 32)), r"Received: \(2, 32, 32\)"),
        ([], "at least one|must have batches"),
        (b"pictures/", "Give images"),
        ([b"a picture"], "Give images.*Received: bytes"),
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

    with pytest.raises(TypeError, match=r"functional or built Sequential.*Subclassed"):
        nf_zoo.signal_propagation(Subclassed(), NOISE)


def titles(result):
    """Return the titles of the printed columns: those that hold anything."""
    return repr(result).splitlines()[1].split()


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
    with pytest.raises(ValueError, match=r"suffix must be a known format.*spp.docx"):
        result.plot(tmp_path / "spp.docx")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["new", "spp.png", "spp.svg"]
    assert "stage3_block2" in repr(result) and "unit gains" in repr(result)
    assert titles(result) == ["mean^2", "variance", "residual", "theory"]


def test_ten_thousand_pictures_are_never_in_memory_at_once(monkeypatch):
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

    monkeypatch.setattr(block, "halves", watched)
    result = nf_zoo.signal_propagation(model, batches(), batch_size=25)
    assert result.pictures == 1000 and largest == 25


# --- theory ------------------------------------------------------------------------------------


@pytest.mark.fast
def test_arithmetic_of_the_papers():
    assert theory.branch_variance("relu") == pytest.approx(1 - 1 / np.pi, abs=1e-3)


def draw_anew(model, seed):
    """Other kernels, from the layers' own initializers; to build anew takes longer."""
    seeds = itertools.count(1000 * seed)
    for layer in model._flatten_layers():
        if hasattr(layer, "kernel_initializer"):
            own = layer.kernel_initializer
            own = type(own).from_config({**own.get_config(), "seed": next(seeds)})
            layer.kernel.assign(own(layer.kernel.shape))


def measured_over_predicted(model, seed, size):
    draw_anew(model, seed)
    result = nf_zoo.signal_propagation(model, size, unit_gains=True, seed=seed)
    return np.array([block.variance / block.predicted_variance for block in result])


@pytest.mark.parametrize("name", ["nf_resnet50", "nf_resnet101", "nf_resnet288"])
def test_measurement_follows_the_ledger(name):
    """Within 5 % per block at initialization, over five seeds."""
    model = build_model(name, variant="paper", num_classes=0, pooling=None)
    ratios = [measured_over_predicted(model, seed, (2, 128, 128, 3)) for seed in range(5)]
    np.testing.assert_allclose(np.mean(ratios, axis=0), 1, atol=0.05)


def test_silu_runs_ahead_of_the_ledger_as_theory_says():
    """Blocks activate before they divide by the expected deviation; only ReLU does not care."""
    fields = {**SMALL, "depths": (30, 30), "variant": "paper", "num_classes": 0}
    model = build_model("nf_resnet50", activation="silu", **fields)
    ratios = [measured_over_predicted(model, seed, NOISE) for seed in range(3)]
    found = np.mean(ratios, axis=0)
    expected = np.array(theory.predicted_variances(model, unit_gains=True, size=(32, 32)))
    relu = build_model("nf_resnet50", **fields)
    others = theory.predicted_variances(relu, unit_gains=True, size=(32, 32))
    assert expected[0] == pytest.approx(others[0], rel=0.01)
    assert expected[-1] > 1.1 * others[-1]
    np.testing.assert_allclose(found, 1, atol=0.12)
    noise = np.sqrt(3) * np.random.default_rng(0).standard_normal((8, 64, 64, 4))
    block = model.blocks[20]
    activated = keras.ops.convert_to_numpy(block.preactivate(noise.astype("float32")))
    gain = theory.activated_variance(3.0, "silu") * block.beta**2
    assert activated.var() == pytest.approx(gain, rel=0.02)
    assert gain > 1.08 * 3 * block.beta**2
    assert theory.activated_variance(1.0, "silu") == pytest.approx(1, abs=2e-3)
    assert theory.activated_variance(2.5, "relu") == 2.5


@pytest.mark.parametrize("fault", [{"standardize": False}, {"gamma_in": None}])
def test_without_standardization_or_gamma_it_does_not(fault):
    ledger = nf_zoo.signal_propagation(
        build_model("nf_resnet50", variant="paper", num_classes=0, **SMALL), NOISE, unit_gains=True
    )
    model = build_model("nf_resnet50", variant="paper", num_classes=0, **SMALL, **fault)
    result = nf_zoo.signal_propagation(model, NOISE, unit_gains=True)
    assert all(block.predicted_variance is None for block in result)
    expected = np.array([block.predicted_variance for block in ledger])
    ratios = np.array([block.variance for block in result]) / expected
    assert np.max(np.abs(ratios - 1)) > 0.15
    healthy = np.array([block.variance for block in ledger]) / expected
    assert np.max(np.abs(healthy - 1)) < 0.12


def test_branches_that_start_silent_leave_the_variance_alone():
    model = build_model("nf_resnet50", variant="paper", num_classes=0, **SMALL)
    result = nf_zoo.signal_propagation(model, NOISE)
    first_stage = [block.variance for block in result if block.stage == 1]
    assert np.ptp(first_stage) < 1e-5
    assert result[3].predicted_variance == pytest.approx(1.0)
    assert result[5].residual_variance > 0.5


def test_batch_norm_grows_linearly_with_the_border_in_the_slope():
    fields = {"depths": (12,), "widths": (48,), "stem_width": 48, "scheme": "bn", "num_classes": 0}
    slopes = {}
    for padding in ("symmetric", "circular"):
        found = []
        for seed in range(4):
            keras.utils.set_random_seed(seed)
            model = build_model("wide_resnet16_1", padding=padding, **fields)
            result = nf_zoo.signal_propagation(model, (32, 8, 8, 3), seed=seed)
            found.append([(block.variance, block.squared_mean) for block in result])
        variance, squared_mean = np.mean(found, axis=0).T
        slopes[padding] = [
            np.polyfit(range(12), values, 1)[0] for values in (variance, variance + squared_mean)
        ]
    (zeros, zeros_both), (circular, circular_both) = slopes.values()
    assert circular == pytest.approx(1 - 1 / np.pi, rel=0.05)
    # The input of a convolution is quieter at the border: theory is the least that is left.
    square = theory.relative_squared_mean("relu")
    least = theory.border_factor((8, 8), 3, mean_square=square)
    assert least == pytest.approx(0.900, abs=1e-3)
    assert least < zeros / circular < 1
    assert zeros / circular == pytest.approx(least, abs=0.08)
    assert zeros_both / circular_both == pytest.approx(theory.border_factor((8, 8), 3), abs=0.08)


@pytest.mark.parametrize("standardized", [False, True])
def test_the_border_takes_what_theory_says_from_one_convolution(standardized):
    """Of an input that is alike in all places, whose mean is not 0."""
    kind = layers.ScaledWSConv2D if standardized else layers.Conv2D
    generator = np.random.default_rng(0)
    images = (1.5 + generator.standard_normal((64, 4, 6, 64))).astype("float32")
    found = {}
    for padding in ("symmetric", "circular"):
        keras.utils.set_random_seed(0)
        convolution = kind(256, 3, padding=padding)
        out = keras.ops.convert_to_numpy(convolution(images))
        found[padding] = out.var(axis=(0, 1, 2)).mean()
    options = {"mean_square": 1.5**2, "standardized": standardized}
    expected = theory.border_factor((4, 6), 3, **options)
    assert found["symmetric"] / found["circular"] == pytest.approx(expected, rel=0.03)
    assert theory.border_factor((4, 6), 3, padding="circular", **options) == 1.0


# --- models from elsewhere -----------------------------------------------------------------------

APPLICATIONS = {
    "ResNet50V2": (16, "conv2_block1_out"),
    "DenseNet121": (58, "conv2_block1_concat"),
    "EfficientNetB0": (9, "block2b_add"),
    "ConvNeXtTiny": (18, "add"),
    "MobileNetV2": (10, "block_2_add"),
}


@pytest.mark.parametrize("name", APPLICATIONS)
def test_residual_merges_of_keras_applications(name):
    keras.utils.clear_session()
    model = getattr(keras.applications, name)(weights=None, include_top=False)
    blocks, first = APPLICATIONS[name]
    result = nf_zoo.signal_propagation(model, (2, 64, 64, 3))
    assert len(result) == blocks and result.residual
    assert result[0].name == first
    assert all(block.residual_variance is not None for block in result)
    has_norm = name != "ConvNeXtTiny"
    assert all((block.bn_moving_variance is not None) == has_norm for block in result)
    output = keras.ops.convert_to_numpy(model(np.zeros((1, 64, 64, 3), "float32")))
    assert np.all(np.isfinite(output))


def test_the_rows_of_a_foreign_graph_are_right():
    """A network whose variances are known: x, then x + 2x, then that + 3 times that."""
    inputs = x = keras.Input((4,))
    for factor in (2.0, 3.0):
        kernel = keras.initializers.Constant(factor * np.eye(4))
        branch = keras.layers.Dense(4, kernel_initializer=kernel)(x)
        x = keras.layers.Add()([branch, x])
    result = nf_zoo.signal_propagation(keras.Model(inputs, x), (4000, 4), batch_size=1000)
    unit = result.before[1]
    assert unit == pytest.approx(1, rel=0.1)
    found = [(block.residual_variance / unit, block.variance / unit) for block in result]
    np.testing.assert_allclose(found, [(4, 9), (81, 144)], rtol=1e-4)


@pytest.mark.fast
def test_without_merges_every_layer_is_a_row():
    model = keras.Sequential(
        [keras.Input((8, 8, 3)), keras.layers.Conv2D(4, 3), keras.layers.Conv2D(5, 3)]
    )
    result = nf_zoo.signal_propagation(model, (2, 8, 8, 3))
    assert len(result) == 2 and not result.residual
    assert result[0].residual_variance is None and "nothing merges" in repr(result)
    assert titles(result) == ["mean^2", "variance"]


def test_a_network_of_the_zoo_inside_another_model():
    body = build_model("wide_resnet16_1", num_classes=0)
    inputs = keras.Input((32, 32, 3))
    model = keras.Model(inputs, keras.layers.Dense(2)(body(inputs)))
    inner, outer = (nf_zoo.signal_propagation(m, NOISE) for m in (body, model))
    assert [b.name for b in outer] == [b.name for b in inner]
    np.testing.assert_allclose([b.variance for b in outer], [b.variance for b in inner], rtol=1e-6)


# --- diagnosis -----------------------------------------------------------------------------------


def kinds(name, noise=NOISE, **fields):
    keras.utils.set_random_seed(0)
    diagnosis = nf_zoo.diagnose(build_model(name, num_classes=0, **fields), noise)
    assert bool(diagnosis) == bool(len(diagnosis))
    return {finding.kind for finding in diagnosis}


HEALTHY = {
    "paper": ("nf_resnet50", {"variant": "paper", **SMALL}),
    "timm": ("nf_resnet50", SMALL),
    "silu": ("nf_resnet50", {"activation": "silu", **SMALL}),
    "bn_v1": ("resnet50", SMALL),
    "bn_v2": ("resnetv2_50", SMALL),
    "skipinit": ("wide_resnet100_1", {"scheme": "skipinit"}),
    "skipinit_1/sqrt(d)": ("wide_resnet100_1", {"scheme": "skipinit_1/sqrt(d)"}),
    "fixup": ("wide_resnet100_1", {"scheme": "fixup"}),
    "nf_wide": ("wide_resnet100_1", {"scheme": "nf"}),
    "regnet": ("nf_regnet_b0", {"noise": (4, 128, 128, 3)}),
}


@pytest.mark.parametrize("network", HEALTHY)
def test_nothing_to_say_of_healthy_networks(network):
    name, fields = HEALTHY[network]
    assert kinds(name, **fields) == set()


def test_planted_faults_are_found():
    paper = {"variant": "paper", **SMALL}
    assert "vanishing" in kinds("nf_resnet50", gamma_in=None, **paper)
    assert "mean shift" in kinds("nf_resnet50", standardize=False, gamma_in=None, **paper)
    deep = {**paper, "depths": (60, 60)}
    assert kinds("nf_resnet50", rescale=False, **deep) == {"exploding", "branch not down-weighted"}
    assert kinds("resnetv2_50", activation_first=True, **SMALL) == {"activation before BatchNorm"}
    narrow = {"depths": (66, 66, 66), "widths": (4, 8, 8), "scheme": "none"}
    assert "exploding" in kinds("wide_resnet16_1", **narrow)
    medium = {**narrow, "depths": (12, 12, 12)}
    assert kinds("wide_resnet16_1", **medium) >= {"exploding", "branch not down-weighted"}


def test_a_dead_branch_is_told_from_a_silent_one():
    model = build_model("wide_resnet16_1", scheme="skipinit", num_classes=0)
    assert not nf_zoo.diagnose(model, NOISE)
    model.get_layer("stage2_block2").convs[0].bias.assign(np.full(32, -1e3, "float32"))
    diagnosis = nf_zoo.diagnose(model, NOISE)
    (finding,) = diagnosis
    assert (finding.kind, finding.where) == ("dead branch", "stage2_block2")
    assert "dead branch, from stage2_block2: 1 of 6 branches" in repr(diagnosis)


def test_activation_before_batch_norm_in_a_foreign_model():
    inputs = x = keras.Input((16, 16, 8))
    for _ in range(2):
        branch = keras.layers.BatchNormalization()(keras.layers.ReLU()(x))
        x = keras.layers.Add()([keras.layers.Conv2D(8, 3, padding="same")(branch), x])
    (finding,) = nf_zoo.diagnose(keras.Model(inputs, x), (4, 16, 16, 8))
    assert finding.kind == "activation before BatchNorm" and "2 places" in finding.evidence


@pytest.mark.fast
def test_a_factor_at_the_end_of_a_branch_is_no_part_of_it():
    """The branch is measured before it, as before the alpha of the zoo's blocks."""
    inputs = keras.Input((8, 8, 16))
    branch = keras.layers.Conv2D(16, 1, kernel_initializer="lecun_normal")(inputs)
    x = keras.layers.Add()([inputs, keras.layers.Rescaling(0.1)(branch)])
    (row,) = nf_zoo.signal_propagation(keras.Model(inputs, x))
    assert row.residual_variance == pytest.approx(1.0, rel=0.3)
    assert row.variance == pytest.approx(1.01, rel=0.05)


@pytest.mark.fast
def test_noise_is_passed_over_the_preparation_of_pictures():
    inputs = keras.Input((8, 8, 3))
    x = keras.layers.Rescaling(1 / 255)(inputs)
    x = keras.layers.Normalization(mean=[0.5] * 3, variance=[0.04] * 3)(x)
    model = keras.Model(inputs, keras.layers.Conv2D(4, 1)(keras.layers.Rescaling(10.0)(x + 0.0)))
    assert nf_zoo.signal_propagation(model).before[1] == pytest.approx(1.0, rel=0.1)
    plain = keras.layers.Conv2D(4, 1)
    plain.build((None, 8, 8, 3))
    plain.set_weights(model.layers[-1].get_weights())
    noise = np.random.default_rng(0).standard_normal((32, 8, 8, 3), dtype=np.float32)
    expected = np.var(np.asarray(plain(10 * noise)), (0, 1, 2)).mean()
    assert nf_zoo.signal_propagation(model)[-1].variance == pytest.approx(expected, rel=1e-3)
    pictures = np.full((2, 8, 8, 3), 255.0, "float32")
    assert nf_zoo.signal_propagation(model, pictures).before[0] > 1e4


def small_network(name, widths=(8, 16)):
    options = {"depths": (1, 1), "stem_width": 8, "num_classes": 3, "model_name": name}
    return build_model("nf_resnet14", widths=widths, **options)


@pytest.mark.parametrize("widths", [(8, 16), (16, 32)])
def test_blocks_of_equal_names_in_several_networks_are_told_apart(widths):
    one, other = small_network("one"), small_network("other", widths)
    inputs = keras.Input((32, 32, 3))
    both = keras.Model(inputs, keras.layers.Average()([one(inputs), other(inputs)]))
    x = np.random.default_rng(0).standard_normal((4, 32, 32, 3)).astype("float32")
    alone = [*nf_zoo.signal_propagation(one, x), *nf_zoo.signal_propagation(other, x)]
    for batch_size in (4, 2):
        found = nf_zoo.signal_propagation(both, x, batch_size=batch_size)
        names = [row.name for row in alone[:2]] + [f"other/{row.name}" for row in alone[2:]]
        assert [row.name for row in found] == names
        for row, expected in zip(found, alone, strict=True):
            assert row.variance == pytest.approx(expected.variance, rel=1e-4)


@pytest.mark.parametrize("dtype", ["uint8", "int32"])
def test_pictures_of_whole_numbers_are_pictures(dtype):
    model = small_network("network")
    pixels = np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3)).astype(dtype)
    found = nf_zoo.signal_propagation(model, pixels)
    expected = nf_zoo.signal_propagation(model, pixels.astype("float32"))
    assert [row.variance for row in found] == [row.variance for row in expected]


def test_augmentation_in_the_model_is_off_as_in_predict():
    layers = keras.layers
    model = keras.Sequential(
        [
            keras.Input((16, 16, 3)),
            *(layers.RandomFlip(seed=1), layers.Rescaling(1 / 255)),
            *(layers.Conv2D(8, 3), layers.Conv2D(8, 3)),
        ]
    )
    state = keras.ops.convert_to_numpy(model.layers[0].generator.state)
    result = nf_zoo.signal_propagation(model, (8, 16, 16, 3))
    assert 0.5 < result.before[1] < 2 and result[0].variance > 0.1
    np.testing.assert_array_equal(model.layers[0].generator.state, state)


class Doubled(keras.Model):
    def call(self, x, training=None):
        return 2 * super().call(x, training=training)


def test_a_call_of_ones_own_is_not_passed_over():
    inputs = keras.Input((8, 8, 3))
    own = Doubled(inputs, keras.layers.Conv2D(2, 3, name="conv")(inputs))
    with pytest.raises(TypeError, match="must be a functional or built Sequential"):
        nf_zoo.signal_propagation(own, (2, 8, 8, 3))
    around = keras.Model(inputs, keras.layers.Conv2D(2, 3, name="next")(own(inputs)))
    given = np.random.default_rng(0).standard_normal((4, 8, 8, 3)).astype("float32")
    rows = {row.name: row.variance for row in nf_zoo.signal_propagation(around, given)}
    found = np.asarray(own(given))
    assert rows[own.name] == pytest.approx(found.var(axis=(0, 1, 2)).mean(), rel=1e-3)
