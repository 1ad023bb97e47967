"""Resizing, cropping and normalizing pictures, and naming predictions."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from photographs import photograph
from PIL import Image

from nf_zoo.pictures.images import preprocess
from nf_zoo.pictures.predictions import decode_predictions, imagenet_classes
from nf_zoo.pictures.preprocessing import Preprocessing

pytestmark = pytest.mark.fast

MEAN, STD = np.float32([0.485, 0.456, 0.406]), np.float32([0.229, 0.224, 0.225])


def evaluation_pixels(image, size, fraction, mode, interpolation="bicubic", mean=MEAN):
    """Apply timm's evaluation transform to a picture, from its description alone.

    Resized with Pillow, then padded and sliced with NumPy.
    """
    scale = [math.floor(side / fraction) for side in size]
    sides = [image.height, image.width]
    if mode == "squash":
        new = scale
    elif mode == "center" and scale[0] == scale[1]:
        new = [int(scale[0] * side / min(sides)) for side in sides]
    else:
        ratios = [side / target for side, target in zip(sides, scale, strict=True)]
        ratio = max(ratios) if mode == "border" else min(ratios)
        new = [round(side / ratio) for side in sides]
    pixels = np.asarray(image.resize(new[::-1], getattr(Image.Resampling, interpolation.upper())))
    missing = [max(target - side, 0) for side, target in zip(new, size, strict=True)]
    canvas = np.empty([n + m for n, m in zip(new, missing, strict=True)] + [3], np.uint8)
    canvas[:] = [round(255 * float(value)) for value in mean]
    top, left = (m // 2 for m in missing)
    canvas[top : top + new[0], left : left + new[1]] = pixels
    top, left = (round((canvas.shape[i] - size[i]) / 2) for i in (0, 1))
    return canvas[top : top + size[0], left : left + size[1]]


def raw_model(**settings) -> SimpleNamespace:
    return SimpleNamespace(preprocessing=Preprocessing(**settings), include_preprocessing=True)


def pixels_of(image, **settings) -> np.ndarray:
    return preprocess(image, raw_model(**settings))[0]


def differs(first, second) -> bool:
    """More than one gray level apart on average."""
    return np.abs(np.float32(first) - np.float32(second)).mean() > 1


# Geometry


@pytest.mark.parametrize("mode", ["center", "squash", "border"])
@pytest.mark.parametrize("shape", [(427, 640), (640, 427), (300, 300), (60, 80), (301, 37)])
@pytest.mark.parametrize("size, fraction", [((224, 224), 0.875), ((64, 96), 0.9), ((97, 97), 1)])
def test_resizes_and_crops_as_the_evaluation_transform(mode, shape, size, fraction):
    image = photograph(*shape)
    ours = pixels_of(image, input_size=size, crop_fraction=fraction, crop_mode=mode)
    np.testing.assert_array_equal(ours, evaluation_pixels(image, size, fraction, mode))


@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear", "nearest", "lanczos"])
@pytest.mark.parametrize("shape", [(200, 300), (30, 40)])
def test_resamples_with_the_filter_asked_for(interpolation, shape):
    image = photograph(*shape, which=1)
    ours = pixels_of(image, input_size=96, interpolation=interpolation)
    expected = evaluation_pixels(image, (96, 96), 0.875, "center", interpolation)
    np.testing.assert_array_equal(ours, expected)


def test_center_crop_falls_where_computed_by_hand():
    # 256 x 383 is the scaled size already; (383 - 224) / 2 = 79.5, which rounds to even: 80.
    image = photograph(256, 383)
    ours = pixels_of(image, input_size=224, crop_fraction=0.875)
    np.testing.assert_array_equal(ours, np.asarray(image)[16:240, 80:304])


def test_border_is_the_mean_color_and_falls_where_computed_by_hand():
    image = photograph(101, 256)
    ours = pixels_of(image, input_size=256, crop_fraction=1.0, crop_mode="border")
    # 155 rows are missing: 77 above and 78 below.
    np.testing.assert_array_equal(ours[77:178], np.asarray(image))
    border = np.concatenate([ours[:77], ours[178:]])
    assert np.unique(border.reshape(-1, 3), axis=0).tolist() == [[124, 116, 104]]


def test_crop_in_one_direction_and_border_in_the_other():
    image = photograph(100, 256)
    ours = pixels_of(image, input_size=224, crop_fraction=0.875, crop_mode="border")
    np.testing.assert_array_equal(ours[62:162], np.asarray(image)[:, 16:240])


def test_squash_ignores_the_aspect_ratio():
    ours = pixels_of(photograph(60, 240), input_size=64, crop_fraction=1, crop_mode="squash")
    expected = photograph(60, 240).resize((64, 64), Image.Resampling.BICUBIC)
    np.testing.assert_array_equal(ours, np.asarray(expected))


@pytest.mark.parametrize(
    "wrong",
    [
        {"crop_fraction": 1.0},
        {"crop_mode": "squash"},
        {"crop_mode": "border"},
        {"interpolation": "nearest"},
    ],
    ids=str,
)
def test_a_wrong_setting_shows_in_the_pixels(wrong):
    image = photograph(427, 640)
    expected = evaluation_pixels(image, (224, 224), 0.875, "center")
    assert not differs(pixels_of(image, input_size=224), expected)
    assert differs(pixels_of(image, input_size=224, **wrong), expected)


def test_a_wrong_range_shows_in_the_pixels():
    image = photograph(427, 640)
    expected = evaluation_pixels(image, (224, 224), 0.875, "center").astype(np.float32)
    normalized = preprocess(image, Preprocessing())[0]
    assert not differs((normalized * STD + MEAN) * 255, expected)
    assert differs((normalized * STD + MEAN), expected)
    assert differs((normalized * 0.5 + 0.5) * 255, expected)
    assert differs((normalized * STD + MEAN)[..., ::-1] * 255, expected)


def test_input_size_override_rescales():
    image = photograph(427, 640)
    ours = preprocess(image, raw_model(crop_fraction=0.95), input_size=(96, 128))[0]
    np.testing.assert_array_equal(ours, evaluation_pixels(image, (96, 128), 0.95, "center"))
    assert preprocess(image, Preprocessing(), input_size=32).shape == (1, 32, 32, 3)


def test_a_sliver_is_fitted_inside_but_not_blown_up():
    sliver = np.full((1, 5000, 3), 200, np.uint8)
    settings = {"input_size": 32, "crop_fraction": 1.0}
    assert (pixels_of(sliver, crop_mode="border", **settings)[15] == 200).all()


@pytest.mark.parametrize("turned", [False, True])
def test_of_a_very_long_and_thin_picture_the_middle_is_seen(turned):
    # 5,000,000 x 1 pixels would become 160,000,000 x 32.
    row = np.arange(5_000_000)[None, :, None] % 199 + np.array([0, 20, 40])
    middle = row[:, 2_500_000 - 8 : 2_500_000 + 8].astype(np.uint8)
    row = row.astype(np.uint8)
    turn = (lambda pixels: pixels.swapaxes(0, 1)) if turned else (lambda pixels: pixels)
    seen = turn(pixels_of(turn(row), input_size=32, crop_fraction=1.0))
    expected = Image.fromarray(middle).resize((16 * 32, 32), Image.Resampling.BICUBIC)
    np.testing.assert_allclose(seen, np.asarray(expected)[:, 240:272], atol=2)


# Normalizing


def test_normalizes_by_mean_and_std():
    image = photograph(224, 224)
    ours = preprocess(image, Preprocessing(crop_fraction=1.0))
    assert ours.dtype == np.float32 and ours.shape == (1, 224, 224, 3)
    expected = (np.asarray(image, np.float64) / 255 - np.float64(MEAN)) / np.float64(STD)
    np.testing.assert_allclose(ours[0], expected, atol=1e-5)


def test_leaves_raw_pixels_to_a_model_that_normalizes_for_itself():
    image = photograph(224, 224)
    model = SimpleNamespace(preprocessing=Preprocessing(crop_fraction=1.0))
    normalized = preprocess(image, model)
    model.include_preprocessing = True
    raw = preprocess(image, model)
    assert raw.dtype == np.float32
    np.testing.assert_array_equal(raw[0], np.asarray(image))
    assert normalized.max() < 3


def test_says_what_the_second_argument_must_be():
    with pytest.raises(TypeError, match=r"Preprocessing.*Received: str"):
        preprocess(photograph(8, 8), "nf_resnet50")


# Settings


def test_settings_survive_json():
    settings = Preprocessing((160, 192), 0.9, "squash", "bilinear", (0.5, 0.5, 0.5), (1, 0.2, 0.3))
    assert Preprocessing.from_dict(json.loads(json.dumps(settings.to_dict()))) == settings
    assert Preprocessing.from_dict({}) == Preprocessing()
    assert Preprocessing(input_size=[np.int64(32), 32]).input_size == (32, 32)
    assert isinstance(hash(settings), int)


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"input_size": (224, 224, 3)}, "without the channels"),
        ({"input_size": (0, 224)}, "input_size"),
        ({"input_size": 224.0}, "input_size"),
        ({"input_size": "224"}, "input_size"),
        ({"crop_fraction": 87.5}, r"crop_fraction must be in \(0, 1\].*87\.5"),
        ({"crop_fraction": 0}, "crop_fraction"),
        ({"crop_fraction": math.nan}, "crop_fraction"),
        ({"crop_fraction": "0.9"}, "crop_fraction"),
        ({"crop_mode": "middle"}, "center, squash, border.*'middle'"),
        ({"interpolation": "area"}, "bicubic, bilinear, nearest, lanczos.*'area'"),
        ({"mean": (123.7, 116.3, 103.5)}, "divide by 255"),
        ({"mean": (0.5, 0.5)}, "three numbers"),
        ({"mean": 0.5}, "three numbers"),
        ({"std": (0.2, 0.2, math.nan)}, "std"),
        ({"std": (0.2, 0.0, 0.2)}, "above 0"),
    ],
)
def test_settings_out_of_range_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        Preprocessing(**settings)


def test_unknown_settings_are_named():
    with pytest.raises(ValueError, match=r"crop_fraction.*Received: \['crop_pct'\]"):
        Preprocessing.from_dict({"crop_pct": 0.9})


# Predictions


def test_imagenet_names_are_in_class_order():
    classes = imagenet_classes()
    assert len(classes) == 1000
    assert classes[0] == ("n01440764", "tench")
    assert classes[207] == ("n02099601", "golden retriever")
    assert classes[281] == ("n02123045", "tabby")
    assert classes[999] == ("n15075141", "toilet tissue")
    assert [wnid for wnid, _ in classes] == sorted({wnid for wnid, _ in classes})
    assert all(len(wnid) == 9 and wnid[0] == "n" and wnid[1:].isdigit() for wnid, _ in classes)


def test_no_two_imagenet_classes_share_a_name():
    names = [name for _, name in imagenet_classes()]
    assert len({name.casefold() for name in names}) == 1000
    assert all(name == name.strip() and name for name in names)
    assert names[134] == "crane (bird)" and names[517] == "crane (machine)"


def test_logits_become_probabilities_in_order():
    logits = np.zeros((2, 1000), np.float32)
    logits[0, [207, 281]] = 9, 8
    logits[1, 999] = 20
    first, second = decode_predictions(logits, top=3)
    assert [(p.label, p.name) for p in first[:2]] == [
        ("n02099601", "golden retriever"),
        ("n02123045", "tabby"),
    ]
    total = math.exp(9) + math.exp(8) + 998
    assert first[0].probability == pytest.approx(math.exp(9) / total)
    assert isinstance(first[0].probability, float)
    label, name, probability = second[0]
    assert (label, name) == ("n15075141", "toilet tissue") and probability > 0.99
    assert len(first) == 3 and first[2].label == "n01440764"


def test_probabilities_are_left_alone():
    assert [p.probability for p in decode_predictions([0.2, 0.8], labels=["a", "b"])[0]] == [
        0.8,
        0.2,
    ]
    logits = np.random.default_rng(0).normal(size=(4, 7)).astype(np.float32)
    softmax = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    for dtype in (np.float32, np.float16):
        again = decode_predictions(softmax.astype(dtype), labels=list("abcdefg"))
        for picture, expected in zip(again, np.sort(softmax)[:, ::-1], strict=True):
            np.testing.assert_allclose([p.probability for p in picture], expected[:5], rtol=5e-3)


def test_positive_logits_are_not_taken_for_probabilities():
    rounded = SimpleNamespace(labels=["a", "b"], classifier_activation="softmax")
    (found,) = decode_predictions([[0.38, 0.61]], labels=rounded)  # of eight bits
    assert [p.probability for p in found] == [0.61, 0.38]
    found = decode_predictions([[0.6, 0.6], [0.5, 0.5]], labels=["a", "b"])
    assert [p.probability for p in found[0]] == [0.5, 0.5]
    assert decode_predictions([[1000.0, 0.0]], labels=["a", "b"])[0][0].probability == 1.0


def test_own_labels_from_a_list_or_a_model():
    model = SimpleNamespace(labels=("daisy", "rose", "tulip"))
    for labels in (model, ["daisy", "rose", "tulip"], np.array(["daisy", "rose", "tulip"])):
        ((best, *rest),) = decode_predictions([0.1, 3.0, 0.2], labels=labels)
        assert (best.label, best.name) == (1, "rose") and type(best.label) is int
        assert [p.name for p in rest] == ["tulip", "daisy"]
    plain = SimpleNamespace(labels=None)
    assert decode_predictions(np.eye(1000)[3], labels=plain)[0][0].name == "tiger shark"


def test_wordnet_ids_are_shown_by_name():
    (found,) = decode_predictions([0.0, 1.0], labels=["n02099601", "n02123045"])
    assert [tuple(p)[:2] for p in found] == [
        ("n02123045", "tabby"),
        ("n02099601", "golden retriever"),
    ]
    (mixed,) = decode_predictions([0.0, 1.0], labels=["n02099601", "my cat"])
    assert [tuple(p)[:2] for p in mixed] == [(1, "my cat"), (0, "n02099601")]


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"predictions": [[np.nan, 0.0]], "labels": ["a", "b"]}, "NaN.*row 0"),
        ({"predictions": [[0.0, 1.0], [np.inf, 0.0]], "labels": ["a", "b"]}, "row 1"),
        ({"predictions": [[0.0, 1.0]]}, "labels=.*2 classes"),
        ({"predictions": [[0.0, 1.0]], "labels": ["a"]}, "Expected 2 labels.*Received: 1"),
        ({"predictions": [[0.0, 1.0]], "labels": "ab"}, "list of names"),
        ({"predictions": np.zeros((2, 1, 1, 4)), "labels": list("abcd")}, "shape"),
        ({"predictions": 0.5, "labels": ["a"]}, "shape"),
        ({"predictions": [[0.0, 1.0]], "labels": ["a", "b"], "top": 0}, "top"),
    ],
)
def test_predictions_that_cannot_be_decoded(arguments, message):
    with pytest.raises(ValueError, match=message):
        decode_predictions(**arguments)


def test_preprocessing_needs_no_backend():
    command = (
        "import sys, nf_zoo.pictures.predictions as p; p.imagenet_classes(); "
        "print([m for m in ('tensorflow', 'keras', 'jax', 'torch') if m in sys.modules])"
    )
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", command], cwd=root, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"
