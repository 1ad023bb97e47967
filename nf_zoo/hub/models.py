"""The zoo's front door: factories, create_model, list_models, model_info."""

import dataclasses
import fnmatch
import functools
import importlib.resources
import logging
import os
from typing import Any

from nf_zoo.hub.catalog import PretrainedWeights, records_of
from nf_zoo.hub.description import build_blueprint, count_parameters, is_readable_config
from nf_zoo.hub.errors import WeightsMismatch
from nf_zoo.hub.repository import earlier_version_kept
from nf_zoo.hub.sources import Source, resolve_pretrained
from nf_zoo.models.registry import Architecture, architecture, architectures

Pretrained = bool | str | os.PathLike

logger = logging.getLogger("nf_zoo")
LEFT_OPEN = (
    *("input_shape", "include_preprocessing", "features_only", "out_indices"),
    *("preprocessing", "labels", "dtype", "model_name"),
)
"""Options whose None stands for what the checkpoint has, or the default."""


def create_model(
    name: str,
    pretrained: Pretrained | None = None,
    *,
    variant: str | None = None,
    num_classes: int | None = None,
    **options: Any,
):
    """Build a model by name, with or without pretrained weights.

    Args:
        name: an architecture (``"nf_resnet50"``) or one of its checkpoints
            (``"nf_resnet50.ra2_in1k"``); timm's names where timm has the network.
        pretrained: True (the tag in ``name``, or the default one), a tag,
            ``"hf://owner/name[@revision]"``, or the path of a safetensors file or folder, or of
            an .npz of DeepMind's code (with ``variant="paper"``). None means True for a checkpoint
            name, else False. False with a checkpoint name builds its network with fresh weights
            and without its labels.
        variant: None for the network with timm's weights, ``"paper"`` for DeepMind's; a
            checkpoint's name (``"nfnet_f0.haiku"``) implies it.
        num_classes: width of the classifier; None takes the checkpoint's (1000 without one); 0
            gives pooled features. A number other than the checkpoint's keeps the pretrained body
            and starts a new classifier.
        **options: ``input_shape`` (height, width, channels; default (None, None, 3)),
            ``classifier_activation`` (None: logits, ``"softmax"`` or ``"sigmoid"``),
            ``include_preprocessing`` (the graph takes raw 0..255 pixels), ``pooling``,
            ``features_only`` and ``out_indices`` (maps of several strides), ``output_stride``
            (32, 16 or 8), ``rematerialize`` (gradient checkpointing), ``drop_rate``,
            ``stochastic_depth_rate``, ``model_name``, ``dtype``, ``labels``, ``preprocessing``,
            and every field of the family's record (``alpha``, ``activation``, ``depths``, ...).

    Returns:
        an :class:`~nf_zoo.models.classifier.ImageClassifier`.

    Raises:
        ValueError: on an unknown architecture or variant, or an illegal value.
        TypeError: on an unknown field.
        WeightsError: if the weights cannot be loaded or do not fit.

    Example:
        >>> import nf_zoo
        >>> nf_zoo.create_model("nf_resnet26", num_classes=4).output_shape
        (None, 4)
    """
    name, _, tag = name.partition(".")
    row = architecture(name)
    pretrained = bool(tag) if pretrained is None else pretrained
    given = {"num_classes": num_classes, "variant": variant}
    options |= {key: value for key, value in given.items() if value is not None}
    options = {k: x for k, x in options.items() if x is not None or k not in LEFT_OPEN}
    if not tag and pretrained is False:
        from nf_zoo.models.classifier import build_model

        return build_model(name, **options)
    if pretrained is False:
        # The tag still sets the preprocessing and the number of classes.
        logger.warning("%s.%s: pretrained=False builds its network with fresh weights", name, tag)
    wanted = tag if tag and isinstance(pretrained, bool) else pretrained
    source = resolve_pretrained(name, wanted, variant)
    with earlier_version_kept(source):
        return _create_for(row, source.pinned(), options, load=pretrained is not False)


def _create_for(row: Architecture, source: Source, options: dict[str, Any], load: bool):
    """Build the network that a checkpoint prescribes; the user's options take precedence."""
    from nf_zoo.hub.loading import build_options, check_described, fill
    from nf_zoo.models.assembly import GraphOptions
    from nf_zoo.models.classifier import build_model

    prescribed = build_options(row.name, source)
    dropped = set()
    if "labels" in options or options.get("num_classes") not in (
        None,
        prescribed.get("num_classes"),
    ):
        dropped |= {"labels", "num_classes"}
    wants_maps = options.pop("features_only", None)
    wants_classes = bool(options.get("num_classes")) or "labels" in options
    if wants_classes or wants_maps is False:
        dropped |= {"features_only", "out_indices"}
    if wants_classes and prescribed.get("pooling", "avg") is None:
        dropped.add("pooling")  # comes from a checkpoint without a classifier
    if load:
        # Fine-tuning reads it to tell whether the body is pretrained, from any source.
        prescribed["weights_tag"] = source.tag
    else:
        dropped.add("labels")
    # A checkpoint fits the whole network, but the maps wanted may need only a part of it.
    holds_maps, indices = bool(prescribed.get("features_only")), None
    if wants_maps:
        indices = options.pop("out_indices", None)
        GraphOptions(num_classes=options.get("num_classes") or 0, features_only=True)  # it checks
        dropped |= {"labels"} if holds_maps else {"labels", "features_only", "out_indices"}
        options["num_classes"] = 0
    kept = {name: value for name, value in prescribed.items() if name not in dropped}
    _check_variant(row, source, kept, options)
    arguments, path = {**kept, **options}, source.description()
    if load and source.record is None and path is not None and is_readable_config(path):
        check_described(path, source, lambda: build_blueprint(row.name, **arguments))
    model = build_model(row.name, **arguments)
    if load:
        fill(model, source)
    if not wants_maps or (holds_maps and indices is None):
        return model
    return model.with_feature_maps(indices)


def _check_variant(row: Architecture, source: Source, prescribed: dict, options: dict) -> None:
    """Refuse the weights of another variant than the one asked for."""
    fields = row.record.variants.get(options.get("variant"), {}).items()
    others = [k for k, x in fields if k not in options and prescribed.get(k, x) != x]
    if others:
        raise WeightsMismatch(
            f"{source} is not of the {options['variant']!r} variant of {row.name}: it has another "
            f"{' and '.join(others)}. Leave variant out."
        )


@functools.cache
def parameter_counts() -> dict[str, int]:
    """Return the trainable parameters by name, of architectures and of checkpoints that differ.

    They are those of :func:`model_info`, counted in advance by docs/make_parameters_table.py.
    """
    table = importlib.resources.files("nf_zoo").joinpath("data", "parameters.tsv")
    rows = (line.split("\t") for line in table.read_text(encoding="utf-8").splitlines())
    return {name: int(count) for name, count in rows}


def list_models(pattern: str = "*", pretrained: bool = False) -> list[str]:
    """List the names of architectures, or of checkpoints.

    Args:
        pattern: shell-style, ``"nf_*"``.
        pretrained: list ``"architecture.tag"`` names, the default checkpoint of each first.

    Returns:
        names that :func:`create_model` takes, in table order.

    Example:
        >>> import nf_zoo
        >>> nf_zoo.list_models("nf_resnet5*")
        ['nf_resnet50']
    """
    names = list(architectures())
    if pretrained:
        names = [
            record.name
            for name in names
            for record in sorted(records_of(name), key=lambda record: not record.default)
        ]
    return fnmatch.filter(names, pattern)


@dataclasses.dataclass(frozen=True)
class ModelInfo:
    """Facts about an architecture.

    Attributes:
        name: ``"nf_resnet50"``.
        family: ``"nf_resnet"``.
        factory: ``"NFResNet50"``.
        parameters: trainable parameters of the checkpoint, or of the architecture with the classes
            of its default checkpoint, or 1000.
        multiply_adds: multiply-adds for one picture of ``input_size``.
        input_size: (height, width) in pixels for ``multiply_adds``.
        config: the architecture record.
        weights: records of the checkpoints, the default one first.
        unpinned: names of checkpoints without a checksum on record; their downloads are checked
            only against the hub's own checksum.
    """

    name: str
    family: str
    factory: str
    parameters: int
    multiply_adds: int
    input_size: tuple[int, int]
    config: Any
    weights: tuple[PretrainedWeights, ...]
    unpinned: tuple[str, ...]


def model_info(name: str, input_size: tuple[int, int] | None = None) -> ModelInfo:
    """Return size, cost and checkpoints of an architecture without allocating weights.

    Args:
        name: an architecture or one of its checkpoints (``"nf_resnet50.ra2_in1k"``). A checkpoint
            restricts the answer to itself and to its variant; if it comes with the package, its
            widths and other fields count too.
        input_size: (height, width) in pixels for the multiply-adds; None takes the size at which
            the checkpoint was evaluated, or 224.

    Returns:
        a :class:`ModelInfo`.

    Raises:
        ValueError: if there is no such architecture.
        UnknownWeights: if there is no such tag.

    Example:
        >>> import nf_zoo
        >>> nf_zoo.model_info("resnet50").parameters
        25557032
    """
    bare, _, tag = name.partition(".")
    row = architecture(bare)
    records = sorted(records_of(bare), key=lambda record: not record.default)
    if tag:
        records = [resolve_pretrained(bare, tag).record]
    shown = records[0] if records and (tag or records[0].default) else None
    size = input_size or (shown.preprocessing.input_size if shown else (224, 224))
    options = {"num_classes": shown.num_classes if shown else 1000}
    if tag:
        options["variant"] = shown.variant
    if tag and shown.source == "shipped":
        from nf_zoo.hub.loading import build_options

        options = build_options(bare, shown)
    model = build_blueprint(bare, **options)
    return ModelInfo(
        name=bare,
        family=row.family,
        factory=row.factory,
        parameters=count_parameters(model),
        multiply_adds=model.multiply_adds(*size),
        input_size=tuple(size),
        config=model.config,
        weights=tuple(records),
        unpinned=tuple(record.name for record in records if not record.pinned),
    )
