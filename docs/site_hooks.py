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
    ours += [File.generated(config, path, content=text) for path, text in reference.pages().items()]
    for file in ours:
        file.dest_uri = file.dest_uri.removeprefix("docs/")
    theme = [file for file in files if file.src_dir != config.docs_dir]
    return Files([*theme, *ours])


def on_page_content(html, **_):
    """Write formulas as MathML, which browsers draw without a script."""

    def drawn(match: re.Match) -> str:
        text = match[1].replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&")
        block = text.startswith(r"\[")
        return convert(text[2:-2].strip(), display="block" if block else "inline")

    return re.sub(r'<(?:span|div) class="arithmatex">(.*?)</(?:span|div)>', drawn, html, flags=re.S)
