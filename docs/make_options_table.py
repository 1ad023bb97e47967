"""Write the table of options into docs/finetuning.md, from the fields of ``finetune``'s record.

python docs/make_options_table.py
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

from nf_zoo.finetuning.settings import Settings

PAGE = Path(__file__).with_name("finetuning.md")
HEADER = "| option | default | it decides |\n|---|---|---|\n"


def table() -> str:
    """Return a row for each option; a star marks those that only Python has."""
    lines = []
    for field in dataclasses.fields(Settings):
        star = "*" if field.metadata["kind"].flag is None else ""
        help = field.metadata["help"].replace("``", "`").replace("|", "\\|")
        lines.append(f"| `{field.name}`{star} | `{field.default!r}` | {help} |\n")
    return HEADER + "".join(lines)


def with_table(page: str) -> str:
    """Return the page with its table made anew."""
    before, _, rest = page.partition(HEADER)
    _, _, after = rest.partition("\n\n")
    return f"{before}{table()}\n{after}"


if __name__ == "__main__":
    PAGE.write_text(with_table(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
