"""DeepMind's files, however they were saved, into the networks of the paper."""

from __future__ import annotations

import dataclasses
import errno
import io
import pickle
import zipfile

import goldens
import numpy as np
import pytest
from weights_files import load_pretrained_weights

import nf_zoo
from nf_zoo.hub.catalog import find_record
from nf_zoo.hub.checkpoint import open_weights
from nf_zoo.hub.errors import (
    CacheNotWritable,
    CorruptWeights,
    UnknownWeights,
    UnsafeWeights,
    WeightsMismatch,
    WeightsNotFound,
    WeightsOffline,
)
from nf_zoo.hub.foreign_names import plan
from nf_zoo.hub.untrusted.arrays import read_arrays

NETWORKS = (
    "nf_resnet50",
    "nf_seresnet50",
    "nf_regnet_b0",
    "nfnet_f0",
    "skipinit_resnet50",
    "fixup_resnet50",
    "resnetv2_50",
)


@pytest.fixture
def small(tiny, nfnet):
    """A four-block network of a family, DeepMind's variant."""
    from nf_zoo.models.classifier import build_model

    def build(name, **options):
        options = {"variant": "paper", **options}
        if name == "nf_regnet_b0":
            widths = {"depths": (1, 1, 1, 1), "widths": (16, 16, 24, 32), "num_classes": 5}
            return build_model(name, **{**widths, **options})
        return (nfnet if name.startswith("nfnet") else tiny)(name, **options)

    return build


def shapes_of(model) -> dict[str, tuple[int, ...]]:
    """The tree's entries: ours, but for BN's vectors."""
    shapes = {}
    for step in plan(model, "haiku"):
        shape = tuple(step.variable.shape)
        is_norm = any(part in step.key for part in ("/~/bn", "/~/final_bn"))
        shapes[step.key] = (1, 1, 1, *shape) if is_norm else shape
    return shapes


def flat(trees) -> dict[str, np.ndarray]:
    return {
        f"{m}/{n}": a for tree in trees for m, tree_m in tree.items() for n, a in tree_m.items()
    }


def zip_with_pickles(path, **objects):
    np.savez(path, **{name: np.array(tree, dtype=object) for name, tree in objects.items()})


def _pickled(tree, path, protocol=4):
    path.write_bytes(pickle.dumps(tree, protocol))


SAVED = {
    "a pickle of both": lambda p, s, path: _pickled((p, s), path),
    "a pickle by names": lambda p, s, path: _pickled({"params": p, "state": s}, path, 5),
    "a pickle in text": lambda p, s, path: _pickled([p, s], path, 0),
    "numpy.savez of trees": lambda p, s, path: zip_with_pickles(path, params=p, state=s),
    "numpy.savez of one": lambda p, s, path: zip_with_pickles(
        path, arr_0={"params": p, "states": s}
    ),
    "numpy.savez of arrays": lambda p, s, path: np.savez(path, **flat((p, s))),
    "compressed": lambda p, s, path: np.savez_compressed(path, **flat((p, s))),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_every_family_loads(name, small, tmp_path, values):
    model = small(name)
    shapes = shapes_of(model)
    params, state = goldens.haiku_trees(shapes)
    path = tmp_path / "tree.npz"
    _pickled((params, state) if state else params, path)
    load_pretrained_weights(model, path)
    loaded = values(model)
    for step in plan(model, "haiku"):
        expected = goldens.fill_haiku(step.key, shapes[step.key]).reshape(loaded[step.name].shape)
        np.testing.assert_array_equal(loaded[step.name], expected, err_msg=step.name)


@pytest.mark.parametrize("how", SAVED)
def test_every_way_of_saving(how, small, tmp_path, values):
    model, other = small("resnetv2_50"), small("resnetv2_50")
    params, state = goldens.haiku_trees(shapes_of(model))
    _pickled((params, state), tmp_path / "reference.npz")
    load_pretrained_weights(model, tmp_path / "reference.npz")
    path = tmp_path / "tree.npz"
    SAVED[how](params, state, path)
    load_pretrained_weights(other, str(path))
    for name, value in values(model).items():
        np.testing.assert_array_equal(values(other)[name], value, err_msg=name)


def test_the_bare_npy(small, tmp_path, values):
    model = small("nf_resnet50")
    params, _ = goldens.haiku_trees(shapes_of(model))
    np.save(tmp_path / "tree.npy", np.array(params, dtype=object))
    load_pretrained_weights(model, tmp_path / "tree.npy")
    expected = goldens.fill_haiku("NF_ResNet/~/linear/b", (5,))
    np.testing.assert_array_equal(values(model)["head/bias"], expected)


def test_a_safetensors_file_with_deepminds_names(small, write, values):
    model = small("nf_resnet50")
    params, _ = goldens.haiku_trees(shapes_of(model))
    load_pretrained_weights(model, write(flat((params,))))
    expected = goldens.fill_haiku("NF_ResNet/~/linear/b", (5,))
    np.testing.assert_array_equal(values(model)["head/bias"], expected)


@pytest.mark.parametrize(
    ("golden", "name"), [("NF_RegNet_B0", "NFRegNetB0"), ("ResNet_ResNet50", "ResNetV2_50")]
)
def test_outputs_are_those_of_the_reference(golden, name, tmp_path):
    params, state = goldens.haiku_trees(goldens.source_shapes("haiku", golden))
    path = tmp_path / f"{golden}.npz"
    _pickled((params, state) if state else params, path)
    model = getattr(nf_zoo, name)(variant="paper", pretrained=str(path))
    logits = model.predict(goldens.images((64, 64)), verbose=0)
    expected = goldens.outputs("haiku", golden, (64, 64))["logits"]
    assert np.abs(logits - expected).max() <= 2e-5 * np.abs(expected).max()
    assert model.weights_tag == f"./{path.name}"


class TestRefusals:
    @pytest.fixture
    def refused(self, unchanged, tmp_path):
        def check(model, tree, error, *words):
            path = tmp_path / "tree.npz"
            _pickled(tree, path)
            with unchanged(model), pytest.raises(error) as raised:
                load_pretrained_weights(model, path)
            for word in words:
                assert word in str(raised.value)

        return check

    @pytest.mark.parametrize("name", ["nf_resnet50", "nfnet_f0", "resnetv2_50", "nf_regnet_b0"])
    def test_the_plain_network_names_the_variant(self, name, small, refused):
        params, state = goldens.haiku_trees(shapes_of(small(name)))
        model = small(name, variant=None)
        words = ("DeepMind's code", f"create_model({name!r}, variant='paper'")
        refused(model, (params, state), WeightsMismatch, *words)

    def test_timms_port_too(self, small, nfnet, refused):
        params, _ = goldens.haiku_trees(shapes_of(small("nfnet_f0")))
        refused(nfnet("dm_nfnet_f0"), params, WeightsMismatch, "variant='paper'")

    def test_another_architecture_is_named(self, small, refused):
        params, state = goldens.haiku_trees(goldens.source_shapes("haiku", "NF_RegNet_B0"))
        words = ("looks like nf_regnet_b0", "create_model('nf_regnet_b0', variant='paper'")
        refused(small("nf_resnet50"), (params, state), WeightsMismatch, *words)

    def test_missing_unexpected_and_misshapen(self, small, refused):
        params, _ = goldens.haiku_trees(shapes_of(small("nf_resnet50")))
        del params["NF_ResNet/~/initial_conv"]["gain"]
        params["NF_ResNet/~/extra"] = {"w": np.zeros(3)}
        params["NF_ResNet/~/nf_res_block/~/conv0"]["w"] = np.zeros((3, 3, 8, 2), "float32")
        params["NF_ResNet/~/nf_res_block/~/conv0"]["bias"] = np.zeros(2, "int32")
        words = (
            "1 missing (NF_ResNet/~/initial_conv/gain)",
            "1 unexpected (NF_ResNet/~/extra/w)",
            "2 of another shape or type",
            "[3, 3, 8, 2] of F32 for stage1/block1/conv1/kernel",
            "of I32",
        )
        refused(small("nf_resnet50"), params, WeightsMismatch, *words)

    def test_batch_norm_without_its_averages(self, small, refused):
        params, _ = goldens.haiku_trees(shapes_of(small("resnetv2_50")))
        words = ("26 missing", "mean_ema/average", "(params, state)")
        refused(small("resnetv2_50"), params, WeightsMismatch, *words)

    def test_a_hostile_tree(self, small, refused):
        class Hostile:
            def __reduce__(self):
                return exec, ("raise SystemExit",)

        params, _ = goldens.haiku_trees(shapes_of(small("nf_resnet50")))
        tree = {**params, "extra": Hostile()}
        refused(small("nf_resnet50"), tree, UnsafeWeights, "builtins.exec", "tree.npz")

    @pytest.mark.parametrize(
        ("tree", "words"),
        [
            (3, "no tree of parameters"),
            ([np.ones(3)], "no tree of parameters"),
            ({"net": {"w": "text"}}, "str at 'net/w'"),
            ({"net": {"w": [1.0]}}, "list at 'net/w'"),
            ({"net": {"w": np.array({}, dtype=object)}}, "array of objects at 'net/w'"),
            (({"net": {"w": np.ones(1)}},) * 2, "'net/w' more than once"),
        ],
    )
    def test_no_trees(self, tree, words, small, refused):
        refused(small("nf_resnet50"), tree, CorruptWeights, words)

    def test_endless_trees(self, small, refused):
        loop: dict = {}
        loop["net"] = loop
        refused(small("nf_resnet50"), loop, CorruptWeights, "16 levels")
        many: dict = {}
        for _ in range(12):
            many = dict.fromkeys("abcdefgh", many)
        refused(small("nf_resnet50"), many, CorruptWeights, "100000 entries")

    def test_long_names_and_many_axes(self, small, refused, tmp_path):
        tree = {"k" * 2000: {"w": np.ones(1)}}
        refused(small("nf_resnet50"), tree, CorruptWeights, "names of 1000 characters")
        np.savez(tmp_path / "deep.npz", **{"initial_conv/w": np.ones((1,) * 40, "float32")})
        with pytest.raises(CorruptWeights, match="claims an array"):
            nf_zoo.create_model("nf_resnet50", pretrained=tmp_path / "deep.npz")


@pytest.mark.fast
class TestArchives:
    @pytest.fixture
    def path(self, tmp_path):
        return tmp_path / "tree.npz"

    def test_a_torch_archive(self, path):
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("archive/data.pkl", b"x")
        with pytest.raises(CorruptWeights, match="none of arrays"):
            read_arrays(path)

    def test_a_bomb(self, path):
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("a.npy", bytes(2**27))
        with pytest.raises(CorruptWeights, match="none of arrays"):
            read_arrays(path)

    def test_a_header_that_boasts(self, path):
        stream = io.BytesIO()
        header = {"descr": "<f4", "fortran_order": False, "shape": (2**60,)}
        np.lib.format.write_array_header_1_0(stream, header)
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("a.npy", stream.getvalue() + bytes(16))
        with pytest.raises(CorruptWeights, match="16 bytes for it"):
            read_arrays(path)

    def test_a_hostile_member(self, path, tmp_path):
        class Hostile:
            def __reduce__(self):
                return open, (str(tmp_path / "sentinel"), "w")

        np.savez(path, net=np.array([Hostile()], dtype=object))
        with pytest.raises(UnsafeWeights, match=r"open.*"):
            read_arrays(path)
        assert not (tmp_path / "sentinel").exists()

    @pytest.mark.parametrize("content", [b"PK\x03\x04", b"\x93NUMPY\x01\x00", b"", b"<html>"])
    def test_fragments(self, content, path):
        path.write_bytes(content)
        with pytest.raises(CorruptWeights, match=r"tree\.npz"):
            read_arrays(path)

    def test_truncated_archives(self, path):
        np.savez(path, **{"net/~/conv/w": np.ones((3, 4), "float32")})
        whole = path.read_bytes()
        np.testing.assert_array_equal(read_arrays(path)["net/~/conv/w"], np.ones((3, 4)))
        for length in range(0, len(whole) - 1, 7):
            path.write_bytes(whole[:length])
            with pytest.raises(CorruptWeights):
                read_arrays(path)

    def test_text_and_single_arrays(self, path, tmp_path):
        np.savez(path, note=np.array(["text"]))
        with pytest.raises(CorruptWeights, match="an array of <U4"):
            read_arrays(path)
        np.save(tmp_path / "one.npy", np.ones(3))
        with pytest.raises(CorruptWeights, match="one array"):
            read_arrays(tmp_path / "one.npy")

    def test_keys_with_a_tilde_before_the_parameter(self, path):
        np.savez(path, **{"NFNet/~/linear/~/b": np.ones(3, "float32")})
        with open_weights(path) as file:
            assert (file.format, file.shapes) == ("haiku", {"NFNet/~/linear/b": (3,)})
            assert file.read("NFNet/~/linear/b").dtype == np.float32


class TestDownload:
    @pytest.fixture
    def record(self, hub, monkeypatch, tmp_path):
        """DeepMind's F0 as the stand-in serves it."""
        from huggingface_hub import constants

        monkeypatch.setattr(constants, "HF_ASSETS_CACHE", str(tmp_path / "assets"))
        record = find_record("nfnet_f0", "haiku")
        url = f"{hub.url}/dm/nfnets/resolve/main/{record.filename}"
        return dataclasses.replace(record, url=url, num_classes=5)

    @pytest.fixture
    def content(self, small):
        params, _ = goldens.haiku_trees(shapes_of(small("nfnet_f0")))
        return pickle.dumps(params, 4)

    def test_once_then_from_the_cache(
        self, record, content, hub, small, values, monkeypatch, tmp_path
    ):
        from huggingface_hub import constants

        hub.add("dm/nfnets", record.filename, content)
        for offline in (False, False, True):
            monkeypatch.setattr(constants, "HF_HUB_OFFLINE", offline)
            model = small("nfnet_f0")
            load_pretrained_weights(model, record)
            expected = goldens.fill_haiku("NFNet/~/linear/b", (5,))
            np.testing.assert_array_equal(values(model)["head/bias"], expected)
        assert len(hub.downloads()) == 1
        assert not list((tmp_path / "assets").rglob("*.partial"))

    def test_an_interrupted_download_resumes(self, record, content, hub, small, monkeypatch):
        from huggingface_hub import constants

        monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 1024)
        hub.add("dm/nfnets", record.filename, content)
        hub.misbehavior = "breaks off"
        load_pretrained_weights(small("nfnet_f0"), record)
        first, second = hub.downloads()
        assert first is None and second.startswith("bytes=") and second != "bytes=0-"

    @pytest.mark.parametrize("offline", [False, True])
    def test_without_a_network(self, offline, record, hub, small, unchanged, monkeypatch):
        from huggingface_hub import constants

        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", offline)
        hub.server_close()
        hub.shutdown()
        model = small("nfnet_f0")
        with unchanged(model), pytest.raises(WeightsOffline) as raised:
            load_pretrained_weights(model, record)
        for word in (record.url, "pretrained='path/to/F0_haiku.npz'"):
            assert word in str(raised.value)
        assert ("HF_HUB_OFFLINE is set" in str(raised.value)) == offline

    def test_a_file_that_is_gone(self, record, hub, small):
        with pytest.raises(WeightsNotFound, match="F0_haiku"):
            load_pretrained_weights(small("nfnet_f0"), record)

    def test_a_cache_that_cannot_be_written(self, record, hub, small, monkeypatch):
        import huggingface_hub

        def refuse(*_, **__):
            raise PermissionError(errno.EACCES, "Permission denied")

        monkeypatch.setattr(huggingface_hub, "cached_assets_path", refuse)
        with pytest.raises(CacheNotWritable, match="set HF_HOME to a folder"):
            load_pretrained_weights(small("nfnet_f0"), record)

    def test_a_web_page_is_not_kept(self, record, content, hub, small, tmp_path):
        hub.add("dm/nfnets", record.filename, b"<html><body>Please log in</body></html>")
        with pytest.raises(CorruptWeights, match="web page"):
            load_pretrained_weights(small("nfnet_f0"), record)
        assert not list((tmp_path / "assets").rglob("*.npz"))
        hub.add("dm/nfnets", record.filename, content)
        load_pretrained_weights(small("nfnet_f0"), record)

    def test_a_full_disk(self, record, content, hub, small, monkeypatch, tmp_path):
        from huggingface_hub import file_download

        def fill(url, file, **_):
            file.write(b"half")
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr(file_download, "http_get", fill)
        with pytest.raises(CacheNotWritable, match="No space left"):
            load_pretrained_weights(small("nfnet_f0"), record)
        assert not [path for path in (tmp_path / "assets").rglob("*F0*") if "lock" not in path.name]

    def test_the_plain_network_is_refused_before_anything_is_fetched(self, record, hub, small):
        with pytest.raises(WeightsMismatch, match="variant='paper'"):
            load_pretrained_weights(small("nfnet_f0", variant=None), record)
        assert not hub.requests


def test_the_factory_takes_the_variants_checkpoint(monkeypatch, tmp_path):
    from nf_zoo.hub import sources

    asked = []

    def fetch(url, filename):
        asked.append(url)
        raise WeightsOffline("not now")

    monkeypatch.setattr(sources, "fetch_url", fetch)
    options = {"depths": (1, 1, 1, 1), "widths": (16, 16, 32, 32), "group_width": 4}
    with pytest.raises(WeightsOffline):
        nf_zoo.NFNetF0(variant="paper", pretrained=True, **options)
    with pytest.raises(WeightsOffline):
        nf_zoo.create_model("nfnet_f1.haiku", pretrained=True, **options)
    assert asked == [find_record(f"nfnet_f{n}", "haiku").url for n in (0, 1)]
    with pytest.raises(UnknownWeights, match="variant='paper'"):
        nf_zoo.NFNetF0(pretrained=True)
    with pytest.raises(UnknownWeights, match="plain nf_resnet50"):
        nf_zoo.NFResNet50(variant="paper", pretrained="ra2_in1k")
    model = nf_zoo.create_model("nfnet_f0.haiku", pretrained=False, num_classes=3, **options)
    assert model.config.padding == "same" and model.preprocessing.crop_mode == "squash"
