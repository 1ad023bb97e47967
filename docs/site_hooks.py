"""Hooks of mkdocs.yml: the pages lie where they lie in the repository, with the reference added.

A page keeps its path, so that one link works in the repository and on the site, and the strict
build checks the links of README.md and CONTRIBUTING.md as well.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

from latex2mathml.converter import convert
from mkdocs.structure.files import File, Files
from nbconvert import MarkdownExporter

REPOSITORY = Path(__file__).parents[1]
sys.path.insert(0, str(REPOSITORY))  # this nf_zoo, before an installed one

import make_stub  # noqa: E402, F401 (runtime_signatures.py finds it loaded)
import reference  # noqa: E402

SHOWN = (
    *(
        "*.md",
        "docs/*.md",
        "docs/*.png",
        "docs/*/*.png",
        "docs/*/*.csv",
        "docs/*/*.json",
        "docs/assets/*",
    ),
    *("benchmarks/*.md", "benchmarks/*.csv", "benchmarks/*.png", "examples/*"),
    *("weights/*/*.md", "weights/*/metrics.json"),
)
"""Files of the repository that are part of the site."""


def on_config(config):
    for entry in config.nav:
        if "Reference" in entry:
            entry["Reference"] = reference.navigation()
    return config


def on_files(files, config):
    ours = [
        File.generated(config, path.relative_to(REPOSITORY).as_posix(), abs_src_path=str(path))
        for pattern in SHOWN
        for path in sorted(REPOSITORY.glob(pattern))
    ]
    made = {**reference.pages(), **_notebooks()}
    ours += [File.generated(config, path, content=content) for path, content in made.items()]
    for file in ours:
        file.dest_uri = file.dest_uri.removeprefix("docs/")
    theme = [file for file in files if file.src_dir != config.docs_dir]
    return Files([*theme, *ours])


def _notebooks() -> dict[str, str | bytes]:
    """Return a page for each notebook, and the pictures that its cells drew."""
    made = {}
    for path in sorted(REPOSITORY.glob("examples/*.ipynb")):
        named = {"unique_key": path.stem}
        text, resources = MarkdownExporter().from_filename(str(path), resources=named)
        made[f"examples/{path.stem}.md"] = f"{text}\n\n[The notebook]({path.name})\n"
        made |= {f"examples/{name}": content for name, content in resources["outputs"].items()}
    return made


def on_page_markdown(markdown, page, **_):
    """Lead to the page of a notebook, whose last link is the notebook itself."""
    if page.file.src_uri.startswith("examples/"):
        return markdown
    return re.sub(r"(\]\([^)\s]*examples/\w+)\.ipynb\)", r"\1.md)", markdown)


def on_page_content(html, **_):
    """Write formulas as MathML, which browsers draw without a script."""

    def drawn(match: re.Match) -> str:
        text = match[1].replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&")
        block = text.startswith(r"\[")
        if not block:
            return convert(text[2:-2].strip())
        return f'<div class="formula">{convert(text[2:-2].strip(), display="block")}</div>'

    return re.sub(r'<(?:span|div) class="arithmatex">(.*?)</(?:span|div)>', drawn, html, flags=re.S)
