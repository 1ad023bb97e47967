"""The model card: README.md with the hub's metadata, written from a model and its results."""

import dataclasses
import math
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from nf_zoo.hub.catalog import PretrainedWeights, find_record
from nf_zoo.hub.description import count_parameters
from nf_zoo.hub.foreign_names import is_the_papers
from nf_zoo.hub.repository import HUB, HubRepository
from nf_zoo.models.registry import architecture

CARD_FILE = "README.md"
LIBRARY = "nf-zoo"
UNKNOWN = "unknown"
MARK = "<!-- Written by nf_zoo. Delete this line to keep the card when saving again. -->"
_FRACTIONS = {"accuracy": "Top-1 accuracy", "top5_accuracy": "Top-5 accuracy"}
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
    "Classification of color pictures like those it was trained on into the classes listed below, "
    "and fine-tuning on other kinds of pictures."
)
_FEATURES = "Turning color pictures into feature vectors, and fine-tuning."
_LIMITS = (
    "The answer is always one of the known classes, whatever a picture shows; the probabilities do "
    "not say whether the picture belongs to any of them. Pictures that differ from the training "
    "pictures in origin, size or quality get worse answers than the figures here suggest. The "
    "model has not been examined for unequal treatment of people or places, and is not meant for "
    "decisions about people."
)
_UNKNOWN_LICENSE = "The license of these weights was not stated: ask their author before use."


@dataclasses.dataclass(frozen=True)
class CardDetails:
    """Contents of a model card that the model itself does not know. Every field is optional.

    Attributes:
        repository: ``"owner/name"`` that the usage snippet loads from; ``push_to_hub`` fills it in.
        license: one of the hub's identifiers, such as ``"apache-2.0"``; None takes that of the
            cataloged checkpoint the model started from, or else ``"unknown"``.
        datasets: datasets on the hub that the model was trained on, such as ``"cifar10"``.
        dataset_name: name of the pictures behind ``metrics``.
        base_model: hub repository that training started from; None takes that of the cataloged
            checkpoint, if it has one.
        training: the recipe, in Markdown; None takes the settings of a ``finetune`` report.
        command: the command that trained the model.
        intended_use: in Markdown; None gives a text that holds for any such network.
        limits: in Markdown; None gives a text that holds for any such network.
        checkpoint: ``"architecture.tag"`` of the cataloged checkpoint that the usage snippet loads.

    Raises:
        ValueError: for a license or dataset that the hub would reject.

    Example:
        >>> import nf_zoo
        >>> nf_zoo.CardDetails(license="mit", datasets=("cifar10",)).license
        'mit'
    """

    repository: str | None = None
    license: str | None = None
    datasets: tuple[str, ...] = ()
    dataset_name: str | None = None
    base_model: str | None = None
    training: str | None = None
    command: str | None = None
    intended_use: str | None = None
    limits: str | None = None
    checkpoint: str | None = None

    def __post_init__(self):
        if self.license is not None and not re.fullmatch(r"[a-z0-9][a-z0-9.+-]*", self.license):
            raise ValueError(
                "license must be one of the hub's identifiers in lower case, such as 'apache-2.0', "
                f"'mit', 'cc-by-4.0' or 'other'. Received: {self.license!r}"
            )
        if isinstance(self.datasets, str):
            raise ValueError(f"datasets must be a sequence. Received: {self.datasets!r}")
        object.__setattr__(self, "datasets", tuple(self.datasets))
        for name in (*self.datasets, *filter(None, [self.base_model])):
            if not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", name):
                raise ValueError(
                    "datasets and base_model must be names on the hub, such as 'cifar10' or "
                    f"'owner/name'. Received: {name!r}"
                )


class Result(NamedTuple):
    """One figure of the evaluation: a fraction in 0..1, or nats for the cross-entropy."""

    split: str  # "validation" or "test"
    key: str  # the name that `evaluate` gives it
    label: str
    value: float
    pictures: int | None


def model_card(
    model, details: CardDetails | None = None, metrics: Mapping[str, Any] | None = None
) -> str:
    """Write the text of README.md for a model: Markdown with a YAML head that the hub accepts."""
    details = _completed(model, details or CardDetails(), metrics or {})
    results = list(read_results(metrics or {}))
    name = details.checkpoint or (details.repository or model.name).rpartition("/")[2]
    head = _metadata(model, name, details, results).to_yaml()
    body = _body(model, name, details, results, metrics or {})
    return f"---\n{head}\n---\n\n{MARK}\n\n{body}"


def is_generated(path: Path) -> bool:
    """Check that ``model_card`` wrote a README.md and nobody has taken it over by hand since."""
    try:
        return MARK in path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return False


def read_results(metrics: Mapping[str, Any]) -> Iterator[Result]:
    """Yield the figures of a report that belong in a card, after a check of their ranges."""
    # A finetune report has a separate "test" entry; a result of evaluate is of any pictures, and
    # may say which under "split".
    of_a_run = "run" in metrics or "test" in metrics or metrics.get("split") == "validation"
    parts = [("validation" if of_a_run else "test", metrics), ("test", metrics.get("test"))]
    for split, part in parts:
        if not isinstance(part, Mapping):
            continue
        for key, label in {**_FRACTIONS, "cross_entropy": "Cross-entropy (nats)"}.items():
            if key not in part:
                continue
            value = part[key]
            is_number = isinstance(value, int | float) and not isinstance(value, bool)
            top = 1 if key in _FRACTIONS else math.inf
            if not is_number or not 0 <= value <= top or not math.isfinite(value):
                raise ValueError(f"metrics: {key} must be in [0, {top}]. Received: {value!r}")
            yield Result(split, key, label, float(value), part.get("pictures"))


def _completed(model, details: CardDetails, metrics: Mapping[str, Any]) -> CardDetails:
    """Fill in the details from the catalog's record of the checkpoint that started training."""
    start = _of_run(metrics, "started_from")
    tag = str((start.get("weights") if start else model.weights_tag) or "")
    record = _record(model, tag)
    published = record.repository if record else None
    if start and tag.startswith(HUB):
        published = HubRepository.parse(tag).name
    return dataclasses.replace(
        details,
        license=details.license or (record.license if record else UNKNOWN),
        base_model=details.base_model or published,
    )


def _of_run(metrics: Mapping[str, Any], key: str) -> Mapping[str, Any] | None:
    """Return the settings of a finetune report, or the model that its training started from."""
    run = metrics.get("run")
    found = run.get(key) if isinstance(run, Mapping) else None
    return found if isinstance(found, Mapping) else None


def _record(model, tag: object) -> PretrainedWeights | None:
    """Return the catalog's record of a tag, with or without its architecture."""
    name = str(tag or "").removeprefix(f"{model.architecture}.")
    return find_record(model.architecture, name) if name else None


def _metadata(model, name: str, details: CardDetails, results: list[Result]):
    import keras
    from huggingface_hub import EvalResult, ModelCardData

    norms = [x for x in model._flatten_layers() if isinstance(x, keras.layers.BatchNormalization)]
    kind = "batch-normalization" if norms else "normalizer-free"
    task = "image-classification" if model.num_classes else "image-feature-extraction"
    # "imagefolder" is the hub's name for pictures in folders that are not on the hub.
    dataset = details.datasets[0] if details.datasets else "imagefolder"
    found = [
        EvalResult(
            task_type=task,
            dataset_type=dataset,
            dataset_name=details.dataset_name or dataset,
            dataset_split=result.split,
            metric_type="accuracy" if result.key in _FRACTIONS else result.key,
            metric_name=result.label,
            metric_value=round(result.value, 6),
        )
        for result in results
    ]
    return ModelCardData(
        library_name=LIBRARY,
        pipeline_tag=task,
        license=details.license,
        base_model=details.base_model,
        datasets=list(details.datasets) or None,
        metrics=["accuracy"] if found else None,
        tags=[task, "keras", kind, *(f"arxiv:{p}" for p in PAPERS)],
        model_name=name if found else None,
        eval_results=found or None,
    )


def _body(
    model, name: str, details: CardDetails, results: list[Result], metrics: Mapping[str, Any]
) -> str:
    """Write everything below the metadata, in Markdown."""
    sections = {
        "Use": _usage(model, details),
        "Intended use": details.intended_use or (_INTENDED if model.num_classes else _FEATURES),
        "Limits": details.limits or _LIMITS,
        "Evaluation": _evaluation(results),
        "Training": _training(model, details, metrics),
        "Preprocessing": _preprocessing(model),
        "Classes": _classes(model),
        "License": _UNKNOWN_LICENSE if details.license == "unknown" else f"`{details.license}`",
        "Citation": "```bibtex\n" + "\n\n".join(PAPERS.values()) + "\n```",
    }
    text = "".join(f"\n## {title}\n\n{text.strip()}\n" for title, text in sections.items() if text)
    return f"# {name}\n\n{_summary(model)}{text}"


def _summary(model) -> str:
    # The arguments of `create_model` besides the architecture's name that build this network.
    variant = {"variant": "paper"} if is_the_papers(model) else {}
    published = architecture(model.architecture).configure(**variant)
    changes = {**variant, **model.config.changes_from(published)}
    options = ", ".join(f"{name}={value!r}" for name, value in changes.items())
    height, width = model.preprocessing.input_size
    classes = f"{model.num_classes} classes ({model.classifier_activation or 'logits'})"
    rows = {
        "Architecture": f"`{model.architecture}` of nf_zoo",
        "Options": options and f"`{options}`",
        "Parameters": f"{count_parameters(model):,}",
        "Input": f"{height} x {width} pixels, {model.input_shape[-1]} channels",
        "Output": classes if model.num_classes else "features",
    }
    table = "".join(f"| {name} | {value} |\n" for name, value in rows.items() if value)
    return f"| | |\n|---|---|\n{table}"


def _usage(model, details: CardDetails) -> str:
    source = f"hf://{details.repository}" if details.repository else "path/to/this/folder"
    loaded = f'load_pretrained("{source}")'
    if details.checkpoint:
        loaded = f'create_model("{details.checkpoint}", pretrained=True)'
    answer = "nf_zoo.decode_predictions(model.predict(pixels), top=5, labels=model)"
    if not model.num_classes:
        answer = "model.predict(pixels).shape"
    elif model.labels is None and model.num_classes != 1000:
        answer = "model.predict(pixels).argmax(axis=-1)"
    return f"""With nf_zoo installed:

```python
import nf_zoo

model = nf_zoo.{loaded}
pixels = model.preprocess("picture.jpg")
print({answer})
```"""


def _evaluation(results: list[Result]) -> str:
    if not results:
        return "No evaluation was given."
    text = "| Split | Pictures | Metric | Value |\n|---|---:|---|---:|\n"
    for split, key, label, value, pictures in results:
        count = f"{pictures:,}" if isinstance(pictures, int) else ""
        figure = f"{value:.4f}" if key == "cross_entropy" else f"{100 * value:.2f} %"
        text += f"| {split} | {count} | {label} | {figure} |\n"
    return text


def _training(model, details: CardDetails, metrics: Mapping[str, Any]) -> str:
    parts = [details.training or _recipe(metrics) or "The training recipe was not given."]
    if details.base_model:
        parts.append(
            f"Training started from [{details.base_model}](https://huggingface.co/"
            f"{details.base_model})."
        )
    elif record := _record(model, (_of_run(metrics, "started_from") or {}).get("weights")):
        # Any other start is a place on somebody's machine, which a card does not tell.
        parts.append(f"Training started from `{record.name}`.")
    if details.command:
        parts.append(f"```bash\n{details.command}\n```")
    return "\n\n".join(part.strip() for part in parts)


def _recipe(metrics: Mapping[str, Any]) -> str | None:
    """Write the settings of a finetune report as a table."""
    settings = _of_run(metrics, "settings")
    if settings is None:
        return None
    rows = {**settings, **{f"{k} pictures": v for k, v in metrics.get("counts", {}).items()}}
    table = "".join(f"| {name.replace('_', ' ')} | {value} |\n" for name, value in rows.items())
    warmup, trained = settings.get("warmup_epochs"), "the whole network"
    if warmup:
        alone = "the classifier alone"
        trained = alone if warmup == settings.get("epochs") else f"{alone} first, then {trained}"
    adam = settings.get("optimizer") == "adamw"
    optimizer = "AdamW" if adam else "SGD with Nesterov momentum"
    return (
        f"Fine-tuned with `nf_zoo.finetune`: {trained}; {optimizer}, a cosine schedule with a "
        f"linear rise.\n\n| Setting | Value |\n|---|---|\n{table}"
    )


def _preprocessing(model) -> str:
    settings = model.preprocessing
    height, width = settings.input_size
    scaled = " x ".join(map(str, settings.scale_size))
    normalized = "inside the network" if model.include_preprocessing else "before the network"
    return (
        f"Resized to {scaled} pixels ({settings.crop_mode}, {settings.interpolation}), the center "
        f"of {height} x {width} cut out; pixels divided by 255, minus mean {list(settings.mean)}, "
        f"divided by standard deviation {list(settings.std)}, {normalized}. "
        "`model.preprocess` does all of it."
    )


def _classes(model) -> str:
    if model.labels is None:
        return "The classes of ImageNet (ILSVRC 2012)." if model.num_classes == 1000 else ""
    # Markdown takes text between backticks literally.
    labels = [" ".join(label.split()) for label in model.labels[:MOST_LABELS]]
    names = ", ".join(
        f"`{label}`" if label and "`" not in label else label.replace("`", "'") or "(no name)"
        for label in labels
    )
    more = len(model.labels) - MOST_LABELS
    return f"{names} and {more} more, listed in labels.txt." if more > 0 else f"{names}."
