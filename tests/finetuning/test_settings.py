import re

import numpy as np
import pytest

from nf_zoo.finetuning.run_folder import differences
from nf_zoo.finetuning.settings import (
    Settings,
    decide,
    default_batch_size,
    default_epochs,
    resolve_class_weight,
)

pytestmark = pytest.mark.fast


def decided(pictures=1000, pretrained=True, input_size=(224, 224), **chosen):
    return decide(
        Settings(**chosen),
        classes=np.arange(pictures) % 2,
        labels=["cat", "dog"],
        pretrained=pretrained,
        input_size=input_size,
    )


@pytest.mark.parametrize(
    ("pictures", "batch", "epochs", "steps"),
    [(100, 8, 30, 360), (1000, 16, 30, 1860), (10_000, 64, 13, 2028), (100_000, 64, 5, 7810)],
)
def test_table_of_defaults(pictures, batch, epochs, steps):
    assert default_batch_size(pictures, (224, 224)) == batch
    assert default_epochs(pictures // batch) == epochs
    assert epochs * (pictures // batch) == steps
    settings = decided(pictures)
    assert (settings.batch_size, settings.epochs) == (batch, epochs)
    assert settings.warmup_epochs == -(-epochs // 10)
    assert (settings.ema is None) == (steps < 500)
    assert 0.02 <= settings.learning_rate <= 0.1


def test_small_inputs_get_larger_batches():
    assert default_batch_size(50_000, (32, 32)) == 128


def test_from_scratch_there_is_no_head_only_phase_and_a_higher_rate():
    scratch, pretrained = decided(pretrained=False), decided()
    assert scratch.warmup_epochs == 0
    assert scratch.learning_rate == 2 * pretrained.learning_rate


def test_choices_are_kept():
    chosen = {"epochs": 4, "warmup_epochs": 4, "batch_size": 7, "learning_rate": 0.3, "ema": 0.9}
    settings = decided(image_size=(64, 96), **chosen)
    assert {name: getattr(settings, name) for name in chosen} == chosen
    assert settings.image_size == (64, 96)
    assert decided(image_size=160).image_size == (160, 160)
    assert decided(ema=False).ema is None


def test_a_batch_holds_no_more_than_there_is_and_one_epoch_trains_everything():
    assert decided(pictures=5).batch_size == 5
    assert decided(epochs=1).warmup_epochs == 0


@pytest.mark.parametrize(
    ("chosen", "message"),
    [
        ({"epochs": 0}, "epochs must be a positive integer"),
        ({"batch_size": 2.5}, "batch_size must be a positive integer"),
        ({"epochs": 3, "warmup_epochs": 4}, "between 0 and epochs=3"),
        ({"learning_rate": 0.0}, "learning_rate must be positive"),
        ({"learning_rate": float("nan")}, "learning_rate must be positive"),
        ({"label_smoothing": 1.0}, "label_smoothing must be in"),
        ({"weight_decay": -1.0}, "weight_decay must be 0 or more"),
        ({"mixup": -0.2}, "mixup must be 0"),
        ({"image_size": 4}, "image_size must be"),
        ({"image_size": (64, 64, 3)}, "image_size must be"),
        ({"ema": 1.5}, "ema must be"),
        ({"early_stopping": 0}, "early_stopping must be"),
        ({"freeze": "["}, r"freeze must be .*a name, a regular expression or several.*'\['"),
        ({"labels": "ab"}, r"labels must be None or a list of names\. Received: 'ab'"),
        ({"precision": "bfloat16"}, "precision must be None or 'float32'"),
    ],
)
def test_values_out_of_range(chosen, message):
    with pytest.raises(ValueError, match=message):
        decided(**chosen)


def test_class_weights():
    classes, labels = np.array([0, 0, 0, 1]), ["a", "b"]
    assert resolve_class_weight(None, classes, labels) is None
    balanced = resolve_class_weight("balanced", classes, labels)
    assert balanced == pytest.approx((2 / 3, 2.0))
    # Balanced weights leave the mean weight of a picture at 1.
    assert np.array(balanced)[classes].mean() == pytest.approx(1)
    assert resolve_class_weight({"b": 3}, classes, labels) == (1.0, 3.0)
    assert resolve_class_weight({0: 0.5}, classes, labels) == (0.5, 1.0)
    assert resolve_class_weight({np.int64(0): 0.5}, classes, labels) == (0.5, 1.0)


@pytest.mark.parametrize(
    "wrong",
    ["even", {"c": 1.0}, {2: 1.0}, {"a": -1.0}, {"a": np.inf}, [1.0, 2.0], {"a": 0, "b": 0}],
)
def test_class_weights_that_make_no_sense(wrong):
    with pytest.raises(ValueError, match="class_weight must"):
        resolve_class_weight(wrong, np.array([0, 1]), ["a", "b"])


def test_settings_survive_json_and_differences_are_named():
    before = decided(image_size=(64, 96), class_weight="balanced").to_dict()
    assert before["image_size"] == [64, 96]
    now = {**before, "seed": 9}
    assert differences({"settings": before}, {"settings": now}) == ["settings seed: 0 then, 9 now"]
    assert differences(before, dict(before)) == []


def test_a_compiled_pattern_is_its_text():
    for given in (re.compile("stem.*"), [re.compile("stem.*")], "stem.*"):
        assert Settings(freeze=given).to_dict()["freeze"] == ["stem.*"]
