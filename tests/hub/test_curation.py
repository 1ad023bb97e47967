"""The catalog examined, and extended from published repositories."""

from __future__ import annotations

import hashlib
import shutil
import tomllib

import pytest

import nf_zoo
from nf_zoo.hub import catalog, curation
from nf_zoo.hub.card import CardDetails
from nf_zoo.hub.catalog import read_catalog, weights_directory
from nf_zoo.hub.curation import add_record, check_catalog
from nf_zoo.hub.errors import CatalogError, CorruptWeights, WeightsNotFound
from nf_zoo.hub.folder import save_pretrained

pytestmark = pytest.mark.fast

LABELS = ("ash", "bay", "elm", "fig", "oak")
ME = "hf://me/nf_resnet50-trees"


@pytest.fixture
def weights(tmp_path, monkeypatch):
    """A copy of the shipped catalog and checkpoint that may be spoilt."""
    copy = tmp_path / "weights"
    shutil.copytree(weights_directory(), copy)
    for module in (catalog, curation):
        monkeypatch.setattr(module, "weights_directory", lambda: copy)
    read_catalog.cache_clear()
    yield copy
    read_catalog.cache_clear()


@pytest.fixture
def published(hub, tiny, tmp_path):
    """A model of ours on the hub, with a card and an accuracy."""
    model = tiny("nf_resnet50", labels=LABELS)
    metrics = {"accuracy": 0.75, "pictures": 40, "test": {"accuracy": 0.8125, "pictures": 16}}
    card = CardDetails("me/nf_resnet50-trees", "mit", dataset_name="Trees")
    folder = save_pretrained(model, tmp_path / "model", metrics=metrics, card=card)
    return hub.add_folder("me/nf_resnet50-trees", folder)


def problems(**options):
    return {f.name: " ".join(f.problems) for f in check_catalog(**options) if f.problems}


class TestCheck:
    def test_the_catalog_that_comes_with_nf_zoo_is_sound(self):
        assert problems() == {}

    def test_every_record_is_looked_at_and_the_unpinned_are_named(self):
        findings = {finding.name: finding for finding in check_catalog()}
        assert findings.keys() == {record.name for record in read_catalog()}
        for record in read_catalog():
            said = "not pinned" in " ".join(findings[record.name].notes)
            assert said is not record.pinned

    def test_shipped_files(self, weights):
        shipped = weights / "nf_resnet14.cifar10"
        name = "nf_resnet14.cifar10"
        original = (shipped / "model.safetensors").read_bytes()
        (shipped / "model.safetensors").write_bytes(original[:-1] + b"x")
        assert "SHA-256" in problems()[name]
        (shipped / "model.safetensors").unlink()
        assert "no weights file" in problems()[name]
        (shipped / "model.safetensors").write_bytes(original)
        card = (shipped / "README.md").read_text()
        (shipped / "README.md").write_text(card.replace("apache-2.0", "mit"))
        assert "license is 'mit'" in problems()[name]
        (shipped / "README.md").unlink()
        assert "no model card" in problems()[name]
        (shipped / "config.json").write_text("{}")
        assert "config.json" in problems()[name]

    @pytest.mark.parametrize(
        ("old", "new", "words"),
        [
            (
                'architecture = "nf_resnet14"',
                'architecture = "nf_resnet15"',
                "Unknown architecture",
            ),
            ('license = "apache-2.0"', 'license = "apache"', "not one of the hub's"),
            ("num_classes = 10\n", "num_classes = 11\n", "10 labels for 11 classes"),
            ('tag = "cifar10"', "tag = 10", "'tag' is of the wrong type"),
            ('"nf_resnet14.cifar10/config.json"', '"nowhere.json"', "nowhere.json"),
        ],
    )
    def test_records(self, old, new, words, weights):
        path = weights / "catalog.toml"
        text = path.read_text()
        at = text.index("[[weights]]", text.index('architecture = "nf_resnet14"') - 60)
        end = text.find("[[weights]]", at + 1) % (len(text) + 1)
        record = text[at:end]
        assert old in record
        path.write_text(text[:at] + record.replace(old, new) + text[end:])
        found = problems()
        assert len(found) == 1
        assert words in next(iter(found.values()))

    def test_all_malformed_records_are_named_at_once(self, weights):
        path = weights / "catalog.toml"
        text, license = path.read_text(), 'license = "bsd-3-clause"'
        path.write_text(text.replace(license, "license = 3"))
        (finding,) = [f for f in check_catalog() if f.name == "catalog"]
        assert len(finding.problems) == text.count(license) > 4

    def test_online(self, weights, hub, published):
        path = weights / "catalog.toml"
        path.write_text("[preprocessing.plain]\n")
        add_record(ME, path=path)
        (finding,) = check_catalog(online=True)
        content = hub.files("me/nf_resnet50-trees")["model.safetensors"]
        assert finding.problems == ()
        assert finding.facts["size"] == len(content)
        assert finding.facts["revision"] == published
        assert finding.facts["sha256"] == hashlib.sha256(content).hexdigest()

        text = path.read_text()
        path.write_text(text.replace(f'"{finding.facts["sha256"]}"', f'"{"0" * 64}"'))
        read_catalog.cache_clear()
        assert "on record" in " ".join(check_catalog(online=True)[0].problems)
        path.write_text(text.replace(published, "0" * 40))
        read_catalog.cache_clear()
        assert "no revision" in " ".join(check_catalog(online=True)[0].problems)
        path.write_text(text.replace("me/nf_resnet50-trees", "me/nothing"))
        read_catalog.cache_clear()
        assert "no repository" in " ".join(check_catalog(online=True)[0].problems)
        hub.misbehavior = "broken"
        assert check_catalog(online=True)[0].problems
        assert not check_catalog()[0].problems


class TestAdd:
    def test_a_record_of_a_published_model(self, weights, hub, published, monkeypatch):
        before = len(read_catalog())
        record = add_record(ME)
        assert len(read_catalog()) == before + 1
        assert record.name == "nf_resnet50.trees"
        assert record.repository == "me/nf_resnet50-trees"
        assert (record.revision, record.format, record.license) == (published, "nf_zoo", "mit")
        assert (record.num_classes, record.top1, record.default) == (5, 81.25, False)
        assert record.accuracy_source == "Trees, test; model card of hf://me/nf_resnet50-trees"
        assert record.pinned
        content = hub.files("me/nf_resnet50-trees")["model.safetensors"]
        assert record.sha256 == hashlib.sha256(content).hexdigest()
        assert problems() == {}

        model = nf_zoo.create_model("nf_resnet50.trees", pretrained=True)
        assert (model.labels, model.config.depths) == (LABELS, (1, 1, 1, 1))
        assert model.weights_tag == "trees"
        # Of the pinned commit, whatever is published since.
        hub.add("me/nf_resnet50-trees", "model.safetensors", b"<html>")
        nf_zoo.create_model("nf_resnet50.trees", pretrained=True)

    def test_only_a_thousand_unnamed_classes_are_those_of_imagenet(
        self, weights, hub, tiny, tmp_path
    ):
        card = CardDetails("me/nf_resnet50-trees", "mit", dataset_name="Trees")
        folder = save_pretrained(tiny("nf_resnet50", num_classes=5), tmp_path / "model", card=card)
        hub.add_folder("me/nf_resnet50-trees", folder)
        record = add_record(ME)
        assert record.dataset != "ImageNet" and record.num_classes == 5

    def test_the_rest_of_the_file_stays(self, weights, hub, published):
        path = weights / "catalog.toml"
        before = path.read_text()
        add_record(ME, tag="first", path=path)
        add_record(ME, tag="second", path=path)
        after = path.read_text()
        lines = iter(after.splitlines())
        assert all(line in lines for line in before.rstrip().splitlines())
        assert (
            len(tomllib.loads(after)["preprocessing"])
            <= len(tomllib.loads(before)["preprocessing"]) + 1
        )

    def test_what_is_said_goes_before_what_is_found(self, weights, hub, published):
        path = weights / "catalog.toml"
        path.write_text("[preprocessing.plain]\n")
        record = add_record(ME, tag="oak", license="cc-by-4.0", default=True, path=path)
        assert (record.tag, record.license, record.default) == ("oak", "cc-by-4.0", True)

    def test_refusals_leave_the_catalog_alone(self, weights, hub, published, tiny, tmp_path):
        path = weights / "catalog.toml"
        add_record(ME, path=path)
        before = path.read_text()
        with pytest.raises(CatalogError, match="more than one record"):
            add_record(ME, path=path)
        with pytest.raises(CatalogError, match="one record can have default"):
            add_record(ME, tag="other", default=True, path=path)
        plain = save_pretrained(tiny("nf_resnet50", labels=LABELS), tmp_path / "plain")
        hub.add_folder("me/plain", plain)
        with pytest.raises(CatalogError, match="states no license"):
            add_record("hf://me/plain", path=path)
        hub.add("me/plain", "README.md", b"---\na: [\n---\n")
        with pytest.raises(CatalogError, match="model card"):
            add_record("hf://me/plain", path=path)
        hub.add("me/plain", "model.safetensors", b"<html>")
        with pytest.raises(CorruptWeights):
            add_record("hf://me/plain", path=path)
        with pytest.raises(WeightsNotFound):
            add_record("hf://me/nothing", path=path)
        assert path.read_text() == before
        shipped = {path.name for path in weights_directory().iterdir()}
        assert {path.name for path in weights.iterdir()} == shipped


def test_model_info_says_what_is_not_pinned():
    info = nf_zoo.model_info("resnet18")
    assert info.unpinned == tuple(record.name for record in info.weights)
    assert all("not pinned" in record.trust for record in info.weights)
    shipped = nf_zoo.model_info("nf_resnet14")
    assert shipped.unpinned == ()
    assert "SHA-256 checked" in shipped.weights[0].trust
