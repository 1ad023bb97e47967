"""Write docs/models.md and the table of models in README.md, from the catalog.

python docs/make_models_table.py
"""

from __future__ import annotations

from pathlib import Path

from nf_zoo import list_models, model_info
from nf_zoo.hub.catalog import read_catalog

HEADER = """# Models and weights

Parameters are counted with the classes of the default checkpoint, or 1000 (behind a checkpoint of a
narrower network its own); multiply-adds for one
picture of 224 x 224 pixels, 32 x 32 for CIFAR-10. `nf-zoo info NAME` says the same of the
architectures without a checkpoint. This page is written by
`python docs/make_models_table.py`.

Every normalizer-free family has a twin with BatchNorm, to compare it with: `resnetv2_*` that of
`nf_resnet*`, and `regnety_*` that of `nf_regnet_*`, whose blocks have the same plan (1x1, grouped
3x3, squeeze-excite, 1x1). A Wide ResNet has its own, `scheme="bn"`.

## Architectures

| Name | Factory | Parameters (M) | Multiply-adds (G) | Checkpoints |
|---|---|---:|---:|---|
"""

README_TABLE = """| Name | Factory | Parameters (M) | Default weights | Pixels | Top-1 (%) |
|---|---|---:|---|---:|---:|
"""

IN_README = (
    *("nf_resnet50", "nf_regnet_b1", "nfnet_l0", "eca_nfnet_l0", "eca_nfnet_l2", "dm_nfnet_f0"),
    *("dm_nfnet_f6", "wide_resnet16_4", "wide_resnet16_2", "nf_resnet26", "resnetv2_26"),
    *("nf_resnet14", "wide_resnet16_1", "resnet18", "resnet26", "resnet50", "resnet101"),
    "resnetv2_50",
)
"""Architectures in README's table; docs/models.md has all that have weights."""

WEIGHTS = """
## Checkpoints

Checkpoints called `haiku` are DeepMind's own files, for `variant="paper"`; parameters and
multiply-adds above are those of the plain network of that name.

Top-1 and top-5 in per cent, with the preprocessing the checkpoint was evaluated with; a dash where
no figure was published with these settings.

| Name | Pixels | Crop | Top-1 | Top-5 | License | Source of the weights | Source of the accuracy |
|---|---:|---:|---:|---:|---|---|---|
"""


def tag_and_size(record, parameters: int) -> str:
    """Return the tag, with the number of parameters if it differs from the architecture's."""
    if record.source != "shipped":
        return f"`{record.tag}`"
    own = model_info(record.name).parameters
    return f"`{record.tag}`" + (f" ({own / 1e6:.2f} M)" if own < 0.9 * parameters else "")


def models_page() -> str:
    """Return the text of docs/models.md."""
    lines, weights = [HEADER], [WEIGHTS]
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
                f"{top5} | {record.license} | {where} | "
                f"{record.accuracy_source or '-'} |\n"
            )
    return "".join(lines + weights)


def readme_table() -> str:
    """Return the table of models in README.md."""
    return README_TABLE + "".join(map(readme_row, IN_README))


def readme_row(name: str) -> str:
    """Return an architecture's row: its default checkpoint, or those that come with nf_zoo."""
    info = model_info(name)
    shipped = sorted((r for r in info.weights if r.source == "shipped"), key=lambda r: r.tag)
    shown = shipped or info.weights[:1]
    tags = ", ".join(f"`{record.tag}`" for record in shown)
    accuracies = ", ".join(f"{record.top1:.2f}" for record in shown)
    label, parameters = f"`{name}`", info.parameters
    if not shipped:
        tags += ", ImageNet"
    else:
        tags += ", comes with the package" if len(shown) == 1 else ", come with the package"
        accuracies += f" on {shown[0].accuracy_source.partition(',')[0]}"
        parameters = model_info(shown[0].name).parameters
    if parameters < 0.9 * info.parameters:
        label += ", narrower"
    if not shown[0].default:
        tags += ", not by `pretrained=True`"
    pixels = shown[0].preprocessing.input_size[0]
    return (
        f"| {label} | `{info.factory}` | {parameters / 1e6:.1f} | {tags} | {pixels} | "
        f"{accuracies} |\n"
    )


def with_table(readme: str) -> str:
    """Return the text of README.md with a new table of models."""
    start = readme.index(README_TABLE)
    return readme[:start] + readme_table() + readme[readme.index("\n\n", start) + 1 :]


def main() -> None:
    docs = Path(__file__).parent
    (docs / "models.md").write_text(models_page())
    readme = docs.parent / "README.md"
    readme.write_text(with_table(readme.read_text()))


if __name__ == "__main__":
    main()
