"""The sections of a model card, in words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from nf_zoo.hub.blueprint import count_parameters
from nf_zoo.hub.variants import is_the_papers
from nf_zoo.models.registry import architecture

if TYPE_CHECKING:
    from nf_zoo.hub.card import CardDetails, Result

MOST_LABELS = 20

PAPERS = {
    "2002.10444": """@inproceedings{de2020batch,
  title = {Batch Normalization Biases Residual Blocks Towards the Identity Function in Deep
           Networks},
  author = {De, Soham and Smith, Samuel L.},
  booktitle = {Advances in Neural Information Processing Systems},
  year = {2020},
  note = {arXiv:2002.10444}
}""",
    "2101.08692": """@inproceedings{brock2021characterizing,
  title = {Characterizing signal propagation to close the performance gap in unnormalized
           {ResNets}},
  author = {Brock, Andrew and De, Soham and Smith, Samuel L.},
  booktitle = {International Conference on Learning Representations},
  year = {2021},
  note = {arXiv:2101.08692}
}""",
}
"""arXiv number -> BibTeX entry."""

_INTENDED = (
    "Telling apart the classes listed below in colour pictures like those it was trained on, and "
    "as a start for fine-tuning on pictures of another kind."
)
_FEATURES = "Turning colour pictures into feature vectors, and as a start for fine-tuning."
_LIMITS = (
    "Whatever a picture shows, one of the known classes is the answer; the probabilities do not "
    "say whether the picture is of a known kind at all. Pictures of another origin, size or "
    "quality than the training pictures are answered worse than the figures here say. It has not "
    "been examined for unequal treatment of people or places, and is not meant for decisions about "
    "people."
)
_UNKNOWN_LICENCE = "The licence of these weights was not stated: ask their author before use."


def body(
    model, name: str, details: CardDetails, results: list[Result], metrics: Mapping[str, Any]
) -> str:
    """Everything below the metadata, Markdown."""
    sections = {
        "Use": _usage(model, details),
        "Intended use": details.intended_use or (_INTENDED if model.num_classes else _FEATURES),
        "Limits": details.limits or _LIMITS,
        "Evaluation": _evaluation(results),
        "Training": _training(model, details, metrics),
        "Preprocessing": _preprocessing(model),
        "Classes": _classes(model),
        "Licence": _UNKNOWN_LICENCE if details.licence == "unknown" else f"`{details.licence}`",
        "Citation": "```bibtex\n" + "\n\n".join(PAPERS.values()) + "\n```",
    }
    text = "".join(f"\n## {title}\n\n{text.strip()}\n" for title, text in sections.items() if text)
    return f"# {name}\n\n{_summary(model)}{text}"


def _summary(model) -> str:
    parameters = count_parameters(model)
    height, width = model.preprocessing.input_size
    channels = model.input_shape[-1]
    options = _options(model)
    rows = {
        "Architecture": f"`{model.architecture}` of nf_zoo",
        **({"Options": f"`{options}`"} if options else {}),
        "Parameters": f"{parameters:,}",
        "Input": f"{height} x {width} pixels, {channels} channels",
        "Output": _output(model),
    }
    table = "".join(f"| {name} | {value} |\n" for name, value in rows.items())
    return f"| | |\n|---|---|\n{table}"


def _options(model) -> str:
    """What ``create_model`` needs beside the architecture's name to build this network."""
    variant = {"variant": "paper"} if is_the_papers(model) else {}
    published = architecture(model.architecture).configure(**variant)
    changes = {**variant, **model.config.changes_from(published)}
    return ", ".join(f"{name}={value!r}" for name, value in changes.items())


def _output(model) -> str:
    if not model.num_classes:
        return "features"
    kind = "logits" if model.classifier_activation is None else model.classifier_activation
    return f"{model.num_classes} classes ({kind})"


def _usage(model, details: CardDetails) -> str:
    source = f"hf://{details.repository}" if details.repository else "path/to/this/folder"
    loaded = f'load_pretrained("{source}")'
    if details.checkpoint:
        loaded = f'create_model("{details.checkpoint}", pretrained=True)'
    lines = [
        "import nf_zoo",
        "",
        f"model = nf_zoo.{loaded}",
        'pixels = model.preprocess("picture.jpg")',
    ]
    if not model.num_classes:
        lines.append("print(model.predict(pixels).shape)")
    elif model.labels is None and model.num_classes != 1000:
        lines.append("print(model.predict(pixels).argmax(axis=-1))")
    else:
        lines.append("print(nf_zoo.decode_predictions(model.predict(pixels), top=5, labels=model))")
    return "With nf_zoo installed:\n\n```python\n" + "\n".join(lines) + "\n```"


def _evaluation(results: list[Result]) -> str:
    if not results:
        return "No evaluation was given."
    rows = [
        f"| {result.split} | {_count(result.pictures)} | {result.label} | {_figure(result)} |\n"
        for result in results
    ]
    return "| Split | Pictures | Metric | Value |\n|---|---:|---|---:|\n" + "".join(rows)


def _count(pictures: int | None) -> str:
    return f"{pictures:,}" if isinstance(pictures, int) else ""


def _figure(result: Result) -> str:
    if result.key == "cross_entropy":
        return f"{result.value:.4f}"
    return f"{100 * result.value:.2f} %"


def _training(model, details: CardDetails, metrics: Mapping[str, Any]) -> str:
    parts = [details.training or _recipe(metrics) or "The training recipe was not given."]
    if details.base_model:
        parts.append(
            f"Training started from [{details.base_model}](https://huggingface.co/"
            f"{details.base_model})."
        )
    if details.command:
        parts.append(f"```bash\n{details.command}\n```")
    return "\n\n".join(part.strip() for part in parts)


def _recipe(metrics: Mapping[str, Any]) -> str | None:
    """The settings of a finetune report as a table."""
    run = metrics.get("run")
    settings = run.get("settings") if isinstance(run, Mapping) else None
    if not isinstance(settings, Mapping):
        return None
    rows = {**settings, **{f"{k} pictures": v for k, v in metrics.get("counts", {}).items()}}
    table = "".join(f"| {name.replace('_', ' ')} | {value} |\n" for name, value in rows.items())
    return (
        "Fine-tuned with `nf_zoo.finetune`: the classifier alone first, then the whole network; "
        "SGD with Nesterov momentum, a cosine schedule with a linear rise.\n\n"
        f"| Setting | Value |\n|---|---|\n{table}"
    )


def _preprocessing(model) -> str:
    settings = model.preprocessing
    height, width = settings.input_size
    scaled = " x ".join(map(str, settings.scale_size))
    normalised = "inside the network" if model.include_preprocessing else "before the network"
    return (
        f"Resized to {scaled} pixels ({settings.crop_mode}, {settings.interpolation}), the centre "
        f"of {height} x {width} cut out; pixels divided by 255, minus mean {list(settings.mean)}, "
        f"divided by standard deviation {list(settings.std)}, {normalised}. "
        "`model.preprocess` does all of it."
    )


def _classes(model) -> str:
    if model.labels is None:
        return "Those of ImageNet (ILSVRC 2012)." if model.num_classes == 1000 else ""
    names = ", ".join(_plain(label) for label in model.labels[:MOST_LABELS])
    more = len(model.labels) - MOST_LABELS
    return f"{names} and {more} more, listed in labels.txt." if more > 0 else f"{names}."


def _plain(label: str) -> str:
    """A class name that Markdown takes literally."""
    text = " ".join(label.split())
    return f"`{text}`" if text and "`" not in text else text.replace("`", "'") or "(no name)"
