"""Write the table of formats into docs/deploy.md, from the rows of ``nf_zoo.deploy.formats``.

python docs/make_formats_table.py
"""

from __future__ import annotations

from pathlib import Path

from nf_zoo.deploy.formats import FORMATS

PAGE = Path(__file__).with_name("deploy.md")
HEADER = """\
| format | function | needs to write | needs to run | precisions |
|---|---|---|---|---|
| Keras | `nf_zoo.fold(model).save("m.keras")` | - | nf_zoo | the model's, bfloat16 |
"""


def table() -> str:
    lines = []
    for row in FORMATS.values():
        needs = ["TensorFlow"] * row.tensorflow + [f"`nf-zoo[{row.extra}]`"] * bool(row.extra)
        precisions = ", ".join(row.precisions) or "the model's, bfloat16"
        cells = (row.title, f"`nf_zoo.{row.function}`", ", ".join(needs) or "-", row.runs_on)
        lines.append(f"| {' | '.join(cells)} | {precisions} |\n")
    return HEADER + "".join(lines)


def main() -> None:
    page = PAGE.read_text(encoding="utf-8")
    before, _, rest = page.partition(HEADER.partition("\n")[0])
    after = rest.partition("\n\n")[2]
    PAGE.write_text(f"{before}{table()}\n{after}", encoding="utf-8")


if __name__ == "__main__":
    main()
