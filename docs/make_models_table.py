"""Write the tables of docs/models.md and docs/choose.md, from the catalog.

python docs/make_models_table.py
"""

from __future__ import annotations

from pathlib import Path

from nf_zoo import list_models, model_info
from nf_zoo.hub.catalog import read_catalog

ARCHITECTURES = """## Architectures

| Name | Factory | Parameters (M) | Multiply-adds (G) | Checkpoints |
|---|---|---:|---:|---|
"""

CHOICE = """| Name | Factory | Parameters (M) | Weights | Pixels | Top-1 (%) |
|---|---|---:|---|---:|---:|
"""

CHOSEN = (
    *("nf_resnet50", "nf_regnet_b1", "nfnet_l0", "eca_nfnet_l0", "eca_nfnet_l2", "dm_nfnet_f0"),
    *("dm_nfnet_f6", "wide_resnet16_4", "wide_resnet16_2", "nf_resnet14", "wide_resnet16_1"),
    *("resnet18", "resnet26", "resnet50", "resnet101", "resnetv2_50"),
)
"""Architectures in the table of docs/choose.md; all that have weights are in docs/models.md."""

WEIGHTS = """
## Checkpoints

Checkpoints called `haiku` are DeepMind's own files, for `variant="paper"`; parameters and
multiply-adds above are those of the plain network of that name.

Top-1 and top-5 are in percent, with the preprocessing of the checkpoint's evaluation. A dash means
that no figure was published with these settings.

| Name | Pixels | Crop | Top-1 | Top-5 | Measured on | License | Source of the weights |
|---|---:|---:|---:|---:|---|---|---|
"""


def tag_and_size(record, parameters: int) -> str:
    """Return the tag, and the parameters of a checkpoint narrower than its architecture."""
    if record.source != "shipped":
        return f"`{record.tag}`"
    own = model_info(record.name).parameters
    return f"`{record.tag}`" + (f" ({own / 1e6:.2f} M)" if own < 0.9 * parameters else "")


def measured_on(record, notes: dict[str, str]) -> str:
    """Return the data set of a record's accuracy, with a link or a footnote to its source."""
    dataset, _, source = (record.accuracy_source or "-").partition("; ")
    if source.startswith("weights/"):
        return f"[{dataset}](../{source.rpartition('/')[0]}/README.md)"
    return dataset + (f"[^{notes.setdefault(source, str(len(notes) + 1))}]" if source else "")


def models_page(page: str) -> str:
    """Return the text of docs/models.md with its tables made anew."""
    lines = [page.partition(ARCHITECTURES)[0], ARCHITECTURES]
    weights, notes = [WEIGHTS], {}
    small = {r.architecture for r in read_catalog() if r.preprocessing.input_size == (32, 32)}
    for name in dict.fromkeys(name.partition(".")[0] for name in list_models(pretrained=True)):
        info = model_info(name, input_size=(32, 32) if name in small else (224, 224))
        tags = ", ".join(tag_and_size(record, info.parameters) for record in info.weights)
        lines.append(
            f"| `{name}` | `{info.factory}` | {info.parameters / 1e6:.2f} | "
            f"{info.multiply_adds / 1e9:.2f} | {tags} |\n"
        )
        for record in info.weights:
            recipe = record.preprocessing
            where = record.repository or record.url or "this repository"
            top1, top5 = (f"{n:.2f}" if n else "-" for n in (record.top1, record.top5))
            weights.append(
                f"| `{record.name}` | {recipe.input_size[0]} | {recipe.crop_fraction:g} | {top1} | "
                f"{top5} | {measured_on(record, notes)} | {record.license} | {where} |\n"
            )
    sources = [f"\n[^{number}]: {source}\n" for source, number in notes.items()]
    return "".join(lines + weights + sources)


def choice() -> str:
    """Return the table of docs/choose.md."""
    return CHOICE + "".join(map(choice_row, CHOSEN))


def choice_row(name: str) -> str:
    """Return an architecture's row: its default checkpoint, or all if nf_zoo brings that one."""
    info = model_info(name)
    is_here = info.weights[0].source == "shipped"
    shipped = sorted(info.weights, key=lambda r: r.tag) if is_here else []
    shown = shipped or info.weights[:1]
    tags = ", ".join(f"`{record.tag}`" for record in shown)
    accuracies = ", ".join(f"{record.top1:.2f}" for record in shown)
    if shipped:
        accuracies += f" on {shown[0].accuracy_source.partition(',')[0]}"
    tags += ", in the package" if shipped else ", ImageNet"
    pixels = shown[0].preprocessing.input_size[0]
    return (
        f"| `{name}` | `{info.factory}` | {info.parameters / 1e6:.1f} | {tags} | {pixels} | "
        f"{accuracies} |\n"
    )


def with_table(page: str) -> str:
    """Return the text of docs/choose.md with its table made anew."""
    start = page.index(CHOICE)
    return page[:start] + choice() + page[page.index("\n\n", start) + 1 :]


def main() -> None:
    docs = Path(__file__).parent
    for page, made in ((docs / "models.md", models_page), (docs / "choose.md", with_table)):
        page.write_text(made(page.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
