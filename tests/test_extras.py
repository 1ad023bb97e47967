"""Every package is a requirement or in an extra, and every error that asks for one names it."""

from __future__ import annotations

import ast
import importlib.metadata
import re
import runpy
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import setuptools

from nf_zoo.deploy.formats import FORMATS
from nf_zoo.extras import EXTRAS, remedy, require

pytestmark = pytest.mark.fast

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def packaging():
    """Arguments that setup.py gives to setuptools."""
    told = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(setuptools, "setup", lambda **options: told.update(options))
        runpy.run_path(str(ROOT / "setup.py"))
    return told


def modules_of(requirements) -> set[str]:
    """The top-level modules of requirements that are installed here."""
    names = {re.split(r"[<>=\[; ]", text)[0].lower().replace("_", "-") for text in requirements}
    found = importlib.metadata.packages_distributions()
    return {
        module
        for module, owners in found.items()
        if names & {owner.lower().replace("_", "-") for owner in owners}
    }


def imported_by(folder: str) -> set[str]:
    found = set()
    for path in (ROOT / folder).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                found |= {alias.name.partition(".")[0] for alias in node.names}
            if isinstance(node, ast.ImportFrom):
                found.add(node.module.partition(".")[0])
    return found - set(sys.stdlib_module_names) - {"nf_zoo", "training"}


@pytest.mark.slow
def test_what_is_imported_is_required_or_in_an_extra(packaging):
    required = modules_of([*packaging["install_requires"], *importlib.metadata.requires("keras")])
    required.add("torch")  # imported under that backend only, by Keras first
    assert imported_by("nf_zoo") <= required | set(EXTRAS)
    assert imported_by("training") <= required | set(EXTRAS)
    assert not required & set(EXTRAS)


@pytest.mark.slow
def test_the_extras_have_what_they_are_named_for(packaging):
    extras = packaging["extras_require"]
    for package, extra in EXTRAS.items():
        if package in importlib.metadata.packages_distributions():
            assert package in modules_of(extras[extra]), package
    for row in FORMATS.values():
        packages = {name.partition(".")[0] for name in row.packages}
        assert not packages or packages <= modules_of(extras[row.extra]) & set(EXTRAS)
    assert {text for name in set(EXTRAS.values()) for text in extras[name]} <= set(extras["test"])


def read_heic():
    from nf_zoo.pictures.images import load_image

    load_image(b"\0\0\0\x14ftypheic\0\0\0\0heic")


def open_data_set():
    import nf_zoo

    nf_zoo.finetune(nf_zoo.WideResNet16_1(num_classes=2), "tfds:mnist", verbose=0)


def open_recipe_data():
    from training.data.streams import open_tfds

    open_tfds("mnist", "", "train", "test")


def use_training():
    runpy.run_path(str(ROOT / "training" / "__init__.py"))


def choose_backend():
    from nf_zoo.cli import output

    def missing(name):
        require("jax", "x", lambda text: ModuleNotFoundError(text, name="jax"))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(output, "importlib", SimpleNamespace(import_module=missing))
        output.import_backend()


def serve_demo():
    import nf_zoo

    nf_zoo.demo("wide_resnet16_1.cifar10", block=False)


def publish_space():
    import nf_zoo

    nf_zoo.push_space("wide_resnet16_1.cifar10", "me/try", dry_run=True)


ASKING = {
    "gradio": [serve_demo, publish_space],
    "pillow_heif": [read_heic],
    "tensorflow_datasets": [open_data_set, open_recipe_data],
    "ml_collections": [use_training],
    "jax": [choose_backend],
    **{row.runtime.partition(".")[0]: [row.require] for row in FORMATS.values() if row.extra},
}


@pytest.mark.parametrize(
    ("package", "use"), [(name, use) for name, uses in ASKING.items() for use in uses]
)
def test_an_error_that_asks_for_a_package_names_its_extra(package, use, monkeypatch):
    for name in [name for name in sys.modules if name.partition(".")[0] == package]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises((ImportError, ValueError)) as told:
        use()
    assert f"pip install 'nf-zoo[{EXTRAS[package]}]'" in str(told.value)


def test_an_error_of_a_format_names_the_extra_that_has_all_of_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(ImportError, match=r"OpenVINO files need onnx.*'nf-zoo\[openvino\]'"):
        FORMATS["openvino"].require()


def test_a_broken_package_is_not_a_missing_one(tmp_path, monkeypatch):
    (tmp_path / "broken_one.py").write_text("import not_there")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(ModuleNotFoundError, match="not_there"):
        require("broken_one", "Files")


def test_packages_without_an_extra_are_named_themselves():
    assert remedy("tensorflow") == "pip install tensorflow"
