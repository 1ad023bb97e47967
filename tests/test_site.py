"""The documentation site: every public name has its place, links lead somewhere, and it builds."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest
from browser import browser
from programs import succeed

import nf_zoo

__all__ = ["browser"]

ROOT = Path(__file__).parents[1]
PAGES = [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), ROOT / "benchmarks/README.md"]
LINK = re.compile(r"\]\(([^)#\s]+)(?:#[\w-]+)?\)")


@pytest.mark.fast
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_to_files_of_the_repository(page):
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    links = [link for link in LINK.findall(text) if not link.startswith(("http:", "https:"))]
    assert not [link for link in links if not (page.parent / link).exists()]


@pytest.mark.fast
def test_words_are_spelled_as_keras_spells_them():
    british = re.compile(
        r"\b\w*(normal|standard|quant|initial|optim|regular|general|recogn|organ|special|summar)"
        r"is(e[drs]?|ing|ation)\b|\b(colou|behaviou|neighbou|favou)r|\b(catalogue|centre|licence)\b",
        re.IGNORECASE,
    )
    kinds = (".py", ".md", ".html", ".toml", ".csv", ".ipynb")
    folders = ("nf_zoo", "training", "evidence", "benchmarks", "docs", "examples", "weights")
    files = [file for folder in folders for file in (ROOT / folder).rglob("*")]
    found = {}
    for file in files + list(ROOT.glob("*.md")):
        text = file.read_text(encoding="utf-8") if file.suffix in kinds else ""
        if words := british.search(text):
            found[str(file.relative_to(ROOT))] = words[0]
    assert not found


def test_every_public_name_is_in_the_reference(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "docs")
    import reference

    pages = reference.pages()
    shown = re.findall(r"^::: (.+)$", "".join(pages.values()), re.MULTILINE)
    assert len(shown) == len(set(shown))
    # The stub is what editors know of nf_zoo.
    stub = ast.parse(Path(nf_zoo.__file__).with_name("__init__.pyi").read_text(encoding="utf-8"))
    names = {node.name for node in stub.body if isinstance(node, ast.FunctionDef)}
    for node in stub.body:
        if isinstance(node, ast.ImportFrom) and node.module.startswith("nf_zoo"):
            # Without "as" a name is the stub's own.
            names |= {alias.asname for alias in node.names} - {None, *nf_zoo._MODULES}
    assert names <= {name.rpartition(".")[2] for name in shown}
    assert {f"nf_zoo.layers.{name}" for name in nf_zoo.layers.__all__} <= set(shown)
    index = pages["docs/reference/index.md"]
    assert not [name for name in shown if f"][{name}]" not in index]


@pytest.mark.fast
def test_the_citation_has_the_version():
    text = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert f"\nversion: {nf_zoo.__version__}\n" in text


@pytest.fixture(scope="module")
def site_folder(tmp_path_factory):
    return tmp_path_factory.mktemp("site")


@pytest.fixture(scope="module")
def site(site_folder):
    """The pages that `mkdocs build --strict` makes; .ci/run installs what it needs."""
    pytest.importorskip("mkdocs", reason="pip install '.[docs]'")
    folder = site_folder
    succeed(
        "import sys; from mkdocs.__main__ import cli; cli(sys.argv[1:])",
        *("build", "--strict", "--site-dir", folder),
        cwd=ROOT,
    )
    pages = {
        page.relative_to(folder).as_posix(): page.read_text(encoding="utf-8")
        for page in folder.rglob("*.html")
    }
    for page, text in pages.items():
        used = re.findall(r"""<(?:script|link|img)[^>]*(?:src|href)="([^":?#]+)""", text)
        base = folder if page == "404.html" else (folder / page).parent
        assert not [file for file in used if not (base / file.lstrip("/")).exists()], page
    return pages


def test_a_notebook_is_a_page_with_its_outputs(site):
    for name in ("quick_tour", "signal_propagation", "small_batches"):
        page = site[f"examples/{name}.html"]
        assert "<img" in page and f'href="{name}.ipynb"' in page
        assert f'href="examples/{name}.html"' in site["index.html"]


def test_on_a_phone_no_page_is_wider_than_the_screen(site, site_folder, browser):
    page = browser.new_page(viewport={"width": 390, "height": 800})
    wide = {}
    for name in sorted(site):
        page.goto((site_folder / name).as_uri())
        width = page.evaluate("document.documentElement.scrollWidth")
        if width > 390:
            wide[name] = width
    page.close()
    assert not wide


def test_plots_are_dark_on_a_dark_page_but_photographs_as_they_are(site, site_folder, browser):
    page = browser.new_page(color_scheme="dark")
    inverted = {}
    for name in ("results.html", "why.html", "speed.html", "demo.html", "examples/quick_tour.html"):
        page.goto((site_folder / name).as_uri())
        inverted[name] = page.evaluate(
            "[...document.images].map(image => getComputedStyle(image).filter.includes('invert'))"
        )
    page.close()
    for name in ("results.html", "why.html", "speed.html"):
        assert inverted[name] and all(inverted[name]), name
    for name in ("demo.html", "examples/quick_tour.html"):
        assert inverted[name] and not any(inverted[name]), name


def test_signatures_on_the_site_list_the_fields(site):
    for page, name, fields in (
        ("factories/nf_resnet", "NFResNet50", ("attention", "stem_width", "num_classes")),
        ("finetuning", "finetune", ("layer_decay", "accumulate", "resume")),
        ("layers", "layers.SkipInit", ("initial_gain",)),
    ):
        text = site[f"reference/{page}.html"]
        section = text.partition(f'id="nf_zoo.{name}"')[2][:40_000]
        assert all(field in section for field in fields), name


def test_the_site_needs_no_other_host(site):
    loaded = re.compile(
        r"""<(?:script|img|iframe|source)[^>]*src="(?:https?:)?//|"""
        r"""<link[^>]*rel="(?:stylesheet|preload|icon|preconnect)"[^>]*href="(?:https?:)?//|"""
        r"""<link[^>]*href="(?:https?:)?//[^"]*"[^>]*rel="(?:stylesheet|preload|preconnect)""",
    )
    assert len(site) > 30
    assert not {page: loaded.findall(text) for page, text in site.items() if loaded.search(text)}


def test_pictures_on_the_site_are_described(site):
    pictures = [tag for text in site.values() for tag in re.findall(r"<img [^>]*>", text)]
    assert len(pictures) > 10
    assert not [tag for tag in pictures if not re.search(r'alt="[^"]+"', tag)]
