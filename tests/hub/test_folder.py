"""save_pretrained writes a folder, its card included, whole or not at all."""

from __future__ import annotations

import json
import os

import numpy as np
import pytest
import yaml

import nf_zoo
from nf_zoo.hub import folder as folders
from nf_zoo.hub.card import CARD_FILE, CardDetails, model_card
from nf_zoo.hub.catalog import weights_directory
from nf_zoo.hub.checkpoint import INDEX_FILE, open_weights
from nf_zoo.hub.folder import save_pretrained, save_shards
from nf_zoo.hub.pretrained import load_pretrained
from nf_zoo.hub.untrusted.headers import read_index

pytestmark = pytest.mark.fast

LABELS = ("ash", "bay", "elm", "fig", "oak")
REPORT = {
    "accuracy": 0.875,
    "top5_accuracy": 1.0,
    "cross_entropy": 0.25,
    "pictures": 40,
    "test": {"accuracy": 0.85, "pictures": 80},
    "counts": {"train": 200},
    "run": {
        "settings": {"epochs": 7, "batch_size": 16},
        "started_from": {"architecture": "nf_resnet50", "weights": "ra2_in1k"},
    },
}


@pytest.fixture
def model(tiny):
    return tiny("nf_resnet50", labels=LABELS, depths=(1, 1), widths=(8, 16))


def names(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("limit", [2000, "3KB", 1])
def test_large_weights_are_sharded(limit, model, tmp_path, values):
    folder = save_pretrained(model, tmp_path / "model", max_shard_size=limit)
    shards = read_index(folder / INDEX_FILE)
    files = sorted(set(shards.values()))
    assert len(files) > 1
    assert files[0] == f"model-00001-of-{len(files):05d}.safetensors"
    assert not (folder / "model.safetensors").exists()
    index = json.loads((folder / INDEX_FILE).read_text())
    assert index["metadata"]["total_size"] == sum(v.nbytes for v in values(model).values())
    for name in files:
        with open_weights(folder / name) as part:
            assert set(part.shapes) == {key for key, file in shards.items() if file == name}
            size = sum(4 * int(np.prod(shape)) for shape in part.shapes.values())
        most = 3000 if limit == "3KB" else limit
        assert size <= most or len(part.shapes) == 1
    copy = load_pretrained(folder)
    for name, value in values(model).items():
        np.testing.assert_array_equal(values(copy)[name], value, err_msg=name)


def test_the_type_on_disk_counts_for_the_limit(model, tmp_path):
    size = sum(4 * int(np.prod(v.shape)) for v in model.variables)
    for dtype, files in ((None, 2), ("bfloat16", 1)):
        folder = tmp_path / str(dtype)
        folder.mkdir()
        save_shards(model, folder, dtype, max_shard_size=int(0.6 * size))
        assert len(list(folder.glob("*.safetensors"))) == files


def test_the_limit_is_two_gigabytes_unless_said_otherwise(model, tmp_path, monkeypatch):
    seen = {}
    import huggingface_hub

    split = huggingface_hub.split_state_dict_into_shards_factory

    def watched(state, **options):
        seen.update(options)
        # As if every tensor had half a gigabyte.
        return split(state, **{**options, "get_storage_size": lambda _: 500_000_000})

    monkeypatch.setattr(huggingface_hub, "split_state_dict_into_shards_factory", watched)
    save_shards(model, tmp_path)
    assert seen["max_shard_size"] == "2GB"
    for path in tmp_path.glob("*.safetensors"):
        with open_weights(path) as part:
            assert len(part.shapes) <= 4
    with pytest.raises(ValueError, match="1 byte or more"):
        save_shards(model, tmp_path, max_shard_size=0)


def test_a_smaller_model_leaves_no_old_shards(model, tmp_path):
    folder = save_pretrained(model, tmp_path / "model", max_shard_size=2000, metrics=REPORT)
    assert "metrics.json" in names(folder)
    save_pretrained(model, folder, overwrite=True)
    assert names(folder) == [
        *("README.md", "config.json", "labels.txt", "model.safetensors", "preprocessing.json")
    ]


def test_what_other_programs_read(model, tmp_path):
    metrics = {**REPORT, "confusion_matrix": [[3, 1], [0, 4]], "labels": ["[\n1\n]", "b"]}
    folder = save_pretrained(model, tmp_path / "model", metrics=metrics)
    assert (folder / "labels.txt").read_text().split() == list(LABELS)
    text = (folder / "metrics.json").read_text()
    assert json.loads(text) == metrics and "\n    [ 3, 1 ],\n" in text
    settings = json.loads((folder / "preprocessing.json").read_text())
    assert settings == {"architecture": "nf_resnet50", **model.preprocessing.to_dict()}


def test_a_folder_appears_whole_or_not_at_all(model, tiny, tmp_path, monkeypatch):
    folder = save_pretrained(model, tmp_path / "model")
    before = {path.name: path.read_bytes() for path in folder.iterdir()}

    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr(folders, "_describe", fail)
    for place in (folder, tmp_path / "new"):
        with pytest.raises(OSError, match="disk full"):
            save_pretrained(tiny("resnet50"), place, overwrite=True)
    assert names(tmp_path) == ["model"]
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_the_old_folder_comes_back_if_the_new_cannot_take_its_place(model, tmp_path, monkeypatch):
    folder = save_pretrained(model, tmp_path / "model")
    replace = os.replace

    def fail(path, target):
        if target == folder and path.name == folder.name:
            raise OSError("no")
        return replace(path, target)

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="no"):
        save_pretrained(model, folder, overwrite=True)
    assert load_pretrained(folder).architecture == "nf_resnet50"
    assert names(tmp_path) == ["model"]


def test_metrics_must_be_plain(model, tmp_path):
    with pytest.raises(ValueError, match="metrics must be"):
        save_pretrained(model, tmp_path / "model", metrics={"accuracy": 0.5, "x": np.float32(1)})
    with pytest.raises(ValueError, match=r"accuracy must be in \[0, 1\]"):
        save_pretrained(model, tmp_path / "model", metrics={"accuracy": 88.2})
    assert not names(tmp_path)


@pytest.mark.slow
def test_saving_with_a_saved_model(tiny, tmp_path):
    import tensorflow as tf

    from nf_zoo.pictures.preprocessing import Preprocessing

    least = {"depths": (1,), "widths": (8,)}
    small = tiny("nf_resnet10", labels=LABELS, preprocessing=Preprocessing(32), **least)
    folder = save_pretrained(small, tmp_path / "model", saved_model=True)
    loaded = tf.saved_model.load(str(folder / "saved_model"))
    answer = loaded.predict(tf.zeros((1, 40, 40, 3), tf.uint8))
    assert answer["probabilities"].shape == (1, 5)
    save_pretrained(small, folder, overwrite=True)
    assert "saved_model" not in names(folder)


class TestCard:
    def head(self, text):
        return yaml.safe_load(text.split("---")[1])

    def test_metadata(self, model):
        details = CardDetails("me/trees", "mit", ("me/tree-pictures",), "Trees")
        text = model_card(model, details, REPORT)
        head = self.head(text)
        assert head["library_name"] == "nf-zoo"
        assert head["pipeline_tag"] == "image-classification"
        assert head["license"] == "mit"
        assert head["datasets"] == ["me/tree-pictures"]
        assert head["base_model"] == "timm/nf_resnet50.ra2_in1k"
        assert head["metrics"] == ["accuracy"]
        assert {"image-classification", "arxiv:2002.10444", "arxiv:2101.08692"} <= set(head["tags"])
        (entry,) = head["model-index"]
        assert entry["name"] == "trees"
        found = {
            (result["dataset"]["split"], metric["name"]): metric["value"]
            for result in entry["results"]
            for metric in result["metrics"]
        }
        assert found == {
            ("validation", "Top-1 accuracy"): 0.875,
            ("validation", "Top-5 accuracy"): 1.0,
            ("validation", "Cross-entropy (nats)"): 0.25,
            ("test", "Top-1 accuracy"): 0.85,
        }
        assert entry["results"][0]["dataset"]["type"] == "me/tree-pictures"

    def test_the_hubs_own_classes_read_it_back(self, model):
        from huggingface_hub import ModelCard

        card = ModelCard(model_card(model, CardDetails("me/trees"), REPORT))
        assert card.data.license == "apache-2.0"  # that of the checkpoint it started from
        assert len(card.data.eval_results) == 4
        assert card.data.eval_results[0].metric_type == "accuracy"

    def test_sections(self, model):
        details = CardDetails("me/trees", "mit", command="nf-zoo finetune trees/ --output t")
        text = model_card(model, details, REPORT)
        titles = [line[3:] for line in text.splitlines() if line.startswith("## ")]
        assert titles == [
            *("Use", "Intended use", "Limits", "Evaluation", "Training", "Preprocessing"),
            *("Classes", "License", "Citation"),
        ]
        parameters = sum(int(np.prod(v.shape)) for v in model.trainable_variables)
        for words in (
            "| Options | `depths=[1, 1], widths=[8, 16], stem_width=8` |",
            f"| Parameters | {parameters:,} |",
            "| validation | 40 | Top-1 accuracy | 87.50 % |",
            "`nf_zoo.finetune`: the whole network; SGD with Nesterov momentum",
            "| test | 80 | Top-1 accuracy | 85.00 % |",
            "| epochs | 7 |",
            "| train pictures | 200 |",
            "nf-zoo finetune trees/ --output t",
            "Resized to 256 x 256 pixels (center, bicubic)",
            "`ash`, `bay`, `elm`, `fig`, `oak`.",
            "De, Soham and Smith, Samuel L.",
            "Brock, Andrew and De, Soham and Smith, Samuel L.",
            'load_pretrained("hf://me/trees")',
        ):
            assert words in text, words

    @pytest.mark.parametrize(
        ("weights", "named"),
        [
            ("ra2_in1k", "[timm/nf_resnet50.ra2_in1k]("),
            ("hf://me/trees@v2", "[me/trees](https://huggingface.co/me/trees)."),
            ("/home/me/trees", None),
            (None, None),
        ],
    )
    def test_where_training_started(self, model, weights, named):
        start = {"architecture": "nf_resnet50", "weights": weights}
        text = model_card(model, None, {**REPORT, "run": {**REPORT["run"], "started_from": start}})
        assert (f"Training started from {named}" in text) == (named is not None)
        assert text.count("Training started from") == (named is not None)
        assert "/home/me" not in text

    @pytest.mark.parametrize("weights", ["cifar10", "nf_resnet14.cifar10"])
    def test_training_that_started_from_shipped_weights(self, tiny, weights):
        start = {"architecture": "nf_resnet14", "weights": weights}
        text = model_card(
            tiny("nf_resnet14"), None, {"run": {"settings": {}, "started_from": start}}
        )
        assert "Training started from `nf_resnet14.cifar10`." in text

    @pytest.mark.parametrize(
        ("checkpoint", "options", "tag"),
        [
            ("wide_resnet16_2.cifar10", "zero_init_gain=False", "normalizer-free"),
            ("wide_resnet16_2.cifar10_bn", "scheme='bn'", "batch-normalization"),
            ("nf_resnet14.cifar10", None, "normalizer-free"),
        ],
    )
    def test_which_network_it_is(self, checkpoint, options, tag):
        shipped = (weights_directory() / checkpoint / CARD_FILE).read_text()
        for text in (model_card(nf_zoo.create_model(checkpoint)), shipped):
            assert self.head(text)["tags"][2] == tag
            row = next((line for line in text.splitlines() if line.startswith("| Options")), None)
            assert row == (options and f"| Options | `{options}` |")

    def test_the_network_of_the_paper(self, tiny):
        text = model_card(tiny("nf_resnet50", variant="paper"))
        assert "| Options | `variant='paper', depths=" in text

    def test_without_anything_known(self, tiny):
        text = model_card(tiny("resnet50", num_classes=0))
        head = self.head(text)
        assert head["license"] == "unknown"
        assert head["pipeline_tag"] == "image-feature-extraction"
        assert "model-index" not in head and "datasets" not in head and "metrics" not in head
        assert "ask their author" in text
        assert "No evaluation was given" in text

    @pytest.mark.parametrize(
        ("details", "words"),
        [
            ({"license": "Apache 2.0"}, "apache-2.0"),
            ({"datasets": ("my pictures",)}, "my pictures"),
            ({"datasets": "cifar10"}, "sequence"),
            ({"base_model": "a b"}, "a b"),
        ],
    )
    def test_what_the_hub_would_not_take(self, details, words):
        with pytest.raises(ValueError, match=words):
            nf_zoo.CardDetails(**details)

    @pytest.mark.parametrize(
        ("warmup", "told"), [(7, "the classifier alone; AdamW"), (1, "alone first, then the whole")]
    )
    def test_the_recipe_is_that_of_the_run(self, model, warmup, told):
        settings = {"epochs": 7, "warmup_epochs": warmup, "optimizer": "adamw"}
        assert told in model_card(model, metrics={"run": {"settings": settings}})

    def test_labels_cannot_break_out(self, tiny):
        labels = ("a`b", "c  d", "# e", " ", "<f>")
        text = model_card(tiny("resnet50", labels=labels))
        assert "a'b, `c d`, `# e`, (no name), `<f>`." in text

    def test_many_classes(self, tiny):
        text = model_card(
            tiny("resnet50", labels=tuple(f"c{i}" for i in range(30)), num_classes=30)
        )
        assert "`c19` and 10 more, listed in labels.txt" in text


def test_a_file_that_would_be_loaded_instead_is_not_hidden_beneath(model, tmp_path):
    for name in ("model.keras", "saved_model.pb"):
        folder = tmp_path / name.partition(".")[0]
        folder.mkdir()
        (folder / name).write_bytes(b"an older model")
        with pytest.raises(FileExistsError, match=rf"holds {name}, which would be loaded"):
            nf_zoo.save_pretrained(model, folder, overwrite=True)
        assert [path.name for path in folder.iterdir()] == [name]


def test_the_name_of_a_folder_is_no_checkpoint_of_the_catalog(tmp_path, monkeypatch):
    """One's own weights, in a folder called as published weights are, get no license of theirs."""
    own = nf_zoo.create_model("wide_resnet16_2", num_classes=3, widths=(4, 4, 8))
    nf_zoo.save_pretrained(own, tmp_path / "cifar10")
    monkeypatch.chdir(tmp_path)
    given = {"num_classes": 3, "widths": (4, 4, 8), "pretrained": "./cifar10"}
    for loaded in (
        nf_zoo.create_model("wide_resnet16_2", **given),
        nf_zoo.load_pretrained("cifar10"),
    ):
        assert loaded.weights_tag == "./cifar10"
        card = (nf_zoo.save_pretrained(loaded, "again", overwrite=True) / "README.md").read_text()
        assert "license: unknown" in card and "base_model" not in card
