"""The catalog: what it says, and what it refuses to say."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
from pathlib import Path

import goldens
import pytest

from nf_zoo import create_model, model_info
from nf_zoo.hub import catalog
from nf_zoo.hub.catalog import find_record, label_names, read_catalog, records_of
from nf_zoo.hub.description import count_parameters
from nf_zoo.hub.errors import CatalogError, UnknownWeights
from nf_zoo.hub.foreign_names import recognize
from nf_zoo.hub.sources import HubRepository, resolve_pretrained
from nf_zoo.models.registry import architectures

pytestmark = pytest.mark.fast

IMAGENET = [record for record in read_catalog() if record.source == "hf"]
WITHOUT_CLASSIFIER = ["resnet50.bamboo"]
FROM_SOURCE = {
    "dm_nfnet_f1": ("dm_in1k", 320, 0.91, 224),
    "dm_nfnet_f2": ("dm_in1k", 352, 0.92, 256),
    "dm_nfnet_f3": ("dm_in1k", 416, 0.94, 320),
    "dm_nfnet_f4": ("dm_in1k", 512, 0.951, 384),
    "dm_nfnet_f5": ("dm_in1k", 544, 0.954, 416),
    "dm_nfnet_f6": ("dm_in1k", 576, 0.956, 448),
    "eca_nfnet_l1": ("ra2_in1k", 320, 1.0, 256),
    "eca_nfnet_l2": ("ra3_in1k", 384, 1.0, 320),
}
"""Architectures without reference vectors: tag, test size, test crop and training size, as
timm/models/nfnet.py has them."""


REGNETY = goldens.record("timm", "regnety_facts")


def published(architecture: str) -> dict[str, dict]:
    """timm's settings of the checkpoints of an architecture, by name."""
    facts = REGNETY.get(architecture) or goldens.record("timm", architecture)
    configurations = facts["pretrained_cfgs"]
    return {
        name: settings
        for name, settings in configurations.items()
        if settings["has_weights"] and name not in WITHOUT_CLASSIFIER
    }


WITH_GOLDEN = sorted({record.architecture for record in IMAGENET} - set(FROM_SOURCE))


@pytest.mark.parametrize("architecture", WITH_GOLDEN)
def test_records_say_what_timm_says(architecture):
    records = {record.name: record for record in IMAGENET if record.architecture == architecture}
    expected = published(architecture)
    assert records.keys() == expected.keys()
    for name, settings in expected.items():
        record, preprocessing = records[name], records[name].preprocessing
        size = settings.get("test_input_size", settings["input_size"])
        assert preprocessing.input_size == tuple(size[1:]), name
        crop = settings.get("test_crop_pct", settings["crop_pct"])
        assert preprocessing.crop_fraction == crop, name
        for field in ("crop_mode", "interpolation"):
            assert getattr(preprocessing, field) == settings[field], name
        for field in ("mean", "std"):
            assert getattr(preprocessing, field) == tuple(settings[field]), name
        assert record.repository == settings["hf_hub_id"]
        assert record.license == settings["license"]
        assert record.num_classes == settings["num_classes"]
        assert record.train_input_size == tuple(settings["input_size"][1:])
    if architecture in REGNETY:
        default = next(iter(expected.values()))["tag"]
    else:
        default = goldens.record("timm", architecture)["default_pretrained_cfg"]["tag"]
    assert find_record(architecture).tag == default


@pytest.mark.parametrize("architecture", FROM_SOURCE)
def test_records_of_larger_networks(architecture):
    (record,) = records_of(architecture)
    size, train = record.preprocessing.input_size[0], record.train_input_size[0]
    found = (record.tag, size, record.preprocessing.crop_fraction, train)
    assert found == FROM_SOURCE[architecture]
    squashed = architecture.startswith("dm_")
    assert record.preprocessing.crop_mode == ("squash" if squashed else "center")
    assert record.preprocessing.interpolation == "bicubic"
    assert record.preprocessing.mean == (0.485, 0.456, 0.406)
    assert record.repository == f"timm/{record.name}"
    assert record.top1 is not None and record.default


TEST_SIZES = (256, 320, 352, 416, 512, 544, 576)
TOP1 = (83.6, 84.7, 85.1, 85.7, 85.9, 86.0, 86.5)


@pytest.mark.parametrize("size", range(7))
def test_deepminds_files(size):
    record = find_record(f"nfnet_f{size}", variant="paper")
    assert (record.tag, record.format, record.source) == ("haiku", "haiku", "url")
    assert record.url == f"https://storage.googleapis.com/dm-nfnets/F{size}_haiku.npz"
    assert record.filename == f"F{size}_haiku.npz"
    recipe, pixels = record.preprocessing, TEST_SIZES[size]
    assert (recipe.input_size, recipe.crop_mode) == ((pixels, pixels), "squash")
    # Their evaluation squashes to 32 pixels more than it keeps.
    assert recipe.scale_size == (pixels + 32, pixels + 32)
    assert record.top1 == TOP1[size] and "nfnets" in record.accuracy_source
    assert find_record(f"nfnet_f{size}") is None
    assert resolve_pretrained(f"nfnet_f{size}", True, "paper").record is record
    with pytest.raises(UnknownWeights, match=r"variant='paper'.*nfnet_f\d\.haiku"):
        resolve_pretrained(f"nfnet_f{size}", True)


def test_every_architecture_with_published_weights_has_its_records():
    page = (Path(__file__).parents[2] / "docs/models.md").read_text()
    for record in read_catalog():
        assert page.count(f"\n| `{record.name}` |") == 1
    for name in ("nf_resnet50", "resnet18", "resnet26", "resnet50", "resnet101"):
        assert records_of(name)
    for name in ("resnetv2_18", "resnetv2_34", "resnetv2_50"):
        assert records_of(name)
    for name in ("nf_regnet_b1", "nfnet_l0", "eca_nfnet_l0", "dm_nfnet_f0", "test_nfnet"):
        assert records_of(name)
    for size in ("002", "004", "006", "008", "016", "032"):
        assert find_record(f"regnety_{size}", "pycls_in1k")
    assert {record.architecture for record in read_catalog()} <= set(architectures())


def test_accuracies_have_a_source_and_are_absent_where_unknown():
    assert find_record("nf_resnet50").top1 == 80.656
    assert "results-imagenet.csv" in find_record("nf_resnet50").accuracy_source
    unknown = find_record("resnetv2_18")
    assert (unknown.top1, unknown.top5, unknown.accuracy_source) == (None, None, None)


def test_hub_checkpoints_are_unpinned_and_say_so():
    record = find_record("nf_resnet50", "ra2_in1k")
    assert (record.name, record.revision, record.pinned) == ("nf_resnet50.ra2_in1k", "main", False)
    assert find_record("nf_resnet50", "nothing") is None
    assert find_record("nf_resnet101") is None


def test_pretrained_means(tmp_path, monkeypatch):
    record = find_record("resnet50", "tv_in1k")
    assert resolve_pretrained("resnet50", "tv_in1k").record is record
    assert resolve_pretrained("resnet50", "resnet50.tv_in1k").record is record
    assert resolve_pretrained("resnet50", True).record is find_record("resnet50")
    assert resolve_pretrained("resnet50", "hf://a/b@v1") == HubRepository("a/b", "v1")
    assert resolve_pretrained("resnet50", "hf://a/b") == HubRepository("a/b", "main")
    path = tmp_path / "model.safetensors"
    path.touch()
    assert resolve_pretrained("resnet50", path).path == path
    assert resolve_pretrained("resnet50", str(tmp_path)).path == tmp_path
    # A file in the current folder does not hide a tag of that name.
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tv_in1k").mkdir()
    assert resolve_pretrained("resnet50", "tv_in1k").record is record


@pytest.mark.parametrize(
    "name",
    [
        "nf_resnet26",
        "nf_seresnet50",
        "nf_ecaresnet50",
        "resnet18",
        "resnet26",
        "resnet101",
        "resnetv2_34",
        "resnetv2_50d",
        "nf_regnet_b1",
        "nfnet_f0",
        "nfnet_l0",
        "eca_nfnet_l0",
        "dm_nfnet_f0",
        "test_nfnet",
        "regnety_004",
        "regnety_016",
        "regnety_032",
    ],
)
def test_architectures_are_recognized_by_their_tensors(name):
    class File:
        metadata: dict[str, str] = {}
        shapes = goldens.source_shapes("timm", name)

    assert recognize(File) == name
    File.shapes = {"some.weight": (1,)}
    assert recognize(File) is None


@pytest.mark.parametrize(
    ("golden", "name"),
    [
        ("NF_ResNet_ResNet50", "nf_resnet50"),
        ("NF_ResNet_ResNet50_SE", "nf_seresnet50"),
        ("NF_RegNet_B0", "nf_regnet_b0"),
        ("NFNet_F0", "nfnet_f0"),
        ("SkipInit_ResNet_ResNet50", "skipinit_resnet50"),
        ("FixUp_ResNet_ResNet50", "fixup_resnet50"),
        ("ResNet_ResNet50", "resnetv2_50"),
    ],
)
def test_deepminds_networks_are_recognized(golden, name):
    class File:
        metadata: dict[str, str] = {}
        shapes = goldens.source_shapes("haiku", golden)

    assert recognize(File) == name
    File.shapes = {"Else/~/linear/w": (2, 3)}
    assert recognize(File) is None


def test_reading_the_catalog_needs_no_keras():
    code = """
        import sys
        from nf_zoo.hub import catalog, sources
        assert sources.resolve_pretrained("nf_resnet50", True).record in catalog.read_catalog()
        assert not {"keras", "tensorflow", "huggingface_hub", "safetensors"} & set(sys.modules)
    """
    command = [sys.executable, "-c", textwrap.dedent(code)]
    subprocess.run(command, env={"PYTHONPATH": ":".join(sys.path)}, check=True)


SOUND = {
    "architecture": '"net"',
    "tag": '"t"',
    "license": '"mit"',
    "repository": '"a/net"',
    "preprocessing": '"plain"',
    "default": "true",
}


def write_catalog(path, *records, rest="[preprocessing.plain]\n"):
    tables = [
        "[[weights]]\n" + "\n".join(f"{key} = {value}" for key, value in record.items() if value)
        for record in records
    ]
    path = path / "catalog.toml"
    path.write_text("\n".join([rest, *tables]), encoding="utf-8")
    return path


def test_a_minimal_record_has_the_documented_defaults(tmp_path):
    (record,) = read_catalog(write_catalog(tmp_path, SOUND))
    assert (record.source, record.filename, record.revision) == ("hf", "model.safetensors", "main")
    assert (record.format, record.num_classes, record.labels) == ("timm", 1000, "imagenet1k")
    assert (record.sha256, record.top1, record.parameters) == (None, None, None)
    assert label_names(record) is None


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"license": None}, "'license' is missing"),
        ({"color": '"red"'}, "unknown field 'color'"),
        ({"num_classes": '"many"'}, "'num_classes' is of the wrong type"),
        ({"num_classes": "true"}, "'num_classes' is of the wrong type"),
        ({"num_classes": "-1"}, "must not be negative"),
        ({"default": "1"}, "'default' is of the wrong type"),
        ({"preprocessing": '"fancy"'}, "no such preprocessing"),
        ({"top1": "80.0"}, "belong together"),
        ({"top1": "180.0", "accuracy_source": '"here"'}, "between 0 and 100"),
        ({"top1": "80.0", "accuracy_source": '"there"'}, "no such accuracy_source"),
        ({"sha256": '"abc"'}, "64 lower-case hexadecimal digits"),
        ({"source": '"ftp"'}, "'hf', 'url' or 'shipped'"),
        ({"source": '"url"', "repository": None}, "https address"),
        ({"source": '"url"', "url": '"http://a/b.npz"'}, "https address"),
        ({"url": '"https://a/b.npz"'}, "https address"),
        ({"source": '"url"', "url": '"https://a/b.npz"'}, "in .npz if it has a url"),
        ({"variant": '"other"'}, "absent or 'paper'"),
        ({"variant": '"paper"'}, "for the format 'haiku'"),
        ({"format": '"haiku"'}, "for the format 'haiku'"),
        ({"source": '"shipped"'}, "needs its sha256"),
        ({"repository": None}, "needs its repository"),
        ({"filename": '"model.pth"'}, ".safetensors"),
        ({"format": '"torch"'}, "'timm', 'haiku' or 'nf_zoo'"),
        ({"train_input_size": "[224]"}, "two positive integers"),
    ],
)
def test_malformed_records_are_named(change, words, tmp_path):
    rest = "[preprocessing.plain]\n[accuracy_sources]\nhere = 'a page'\n"
    with pytest.raises(CatalogError) as raised:
        read_catalog(write_catalog(tmp_path, {**SOUND, **change}, rest=rest))
    assert words in str(raised.value)
    assert "net" in str(raised.value)


@pytest.mark.parametrize(
    ("rest", "words"),
    [
        ("[preprocessing.plain]\ncrop = 3\n", "preprocessing.plain"),
        ("[wheights]\n[preprocessing.plain]\n", "wheights"),
        ("[preprocessing.plain\n", "TOML"),
    ],
)
def test_malformed_catalogs(rest, words, tmp_path):
    with pytest.raises(CatalogError, match=words):
        read_catalog(write_catalog(tmp_path, SOUND, rest=rest))


def test_names_are_unique_and_defaults_single(tmp_path):
    with pytest.raises(CatalogError, match=r"net\.t: more than one record"):
        read_catalog(write_catalog(tmp_path, SOUND, {**SOUND, "default": "false"}))
    (tmp_path / "b").mkdir()
    with pytest.raises(CatalogError, match="one record can have default"):
        read_catalog(write_catalog(tmp_path / "b", SOUND, {**SOUND, "tag": '"u"'}))


def test_an_architecture_may_have_no_default():
    assert not any(record.default for record in records_of("nf_resnet26"))
    with pytest.raises(UnknownWeights, match=r"no default weights.*pretrained='tiny_imagenet'"):
        resolve_pretrained("nf_resnet26", True)
    assert resolve_pretrained("nf_resnet26", "tiny_imagenet").record.num_classes == 200


def test_the_size_of_a_checkpoint_is_its_own():
    whole, half = model_info("nf_resnet26"), model_info("nf_resnet26.tiny_imagenet")
    assert whole.config.widths[-1] == 2 * half.config.widths[-1]
    assert whole.parameters > 3 * half.parameters and whole.input_size == (224, 224)
    assert half.parameters == count_parameters(create_model(half.weights[0].name))
    assert model_info("wide_resnet16_2.cifar10_bn").config.scheme == "bn"


def test_labels_of_a_shipped_record(tmp_path, monkeypatch):
    shipped = {
        **SOUND,
        "source": '"shipped"',
        "repository": None,
        "sha256": f'"{"0" * 64}"',
        "filename": '"net/model.safetensors"',
        "labels": '"net/config.json"',
    }
    monkeypatch.setattr(catalog, "weights_directory", lambda: tmp_path)
    (record,) = read_catalog(write_catalog(tmp_path, shipped))
    with pytest.raises(CatalogError, match=r"net/config\.json"):
        label_names(record)
    (tmp_path / "net").mkdir()
    (tmp_path / "net" / "config.json").write_text(json.dumps({"labels": ["cat", "dog"]}))
    assert label_names(record) == ("cat", "dog")
