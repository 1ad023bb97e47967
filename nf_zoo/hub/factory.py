"""The zoo's front door: factories, create_model, list_models, model_info."""

from __future__ import annotations

import dataclasses
import fnmatch
import logging
import os
from typing import Any

from nf_zoo.hub.blueprint import build_blueprint, count_parameters
from nf_zoo.hub.catalog import PretrainedWeights, records_of
from nf_zoo.hub.errors import UnknownWeights
from nf_zoo.hub.repository import earlier_version_kept
from nf_zoo.hub.sources import pinned, resolve_pretrained
from nf_zoo.models.registry import Architecture, architecture, architectures

Pretrained = bool | str | os.PathLike

logger = logging.getLogger("nf_zoo")


def create_model(
    name: str,
    pretrained: Pretrained | None = None,
    *,
    variant: str | None = None,
    num_classes: int | None = None,
    **options: Any,
):
    """A model by name, with or without pretrained weights.

    Args:
        name: an architecture (``"nf_resnet50"``) or one of its checkpoints
            (``"nf_resnet50.ra2_in1k"``); timm's names where timm has the network.
        pretrained: True (the tag in ``name``, or the default one), a tag,
            ``"hf://owner/name[@revision]"``, or the path of a safetensors file or folder, or of
            an .npz of DeepMind's code (with ``variant="paper"``). None means True for the name of
            a checkpoint, else False. False with the name of a checkpoint builds its network with
            fresh weights and without its labels.
        variant: None for the network with timm's weights, ``"paper"`` for DeepMind's; a
            checkpoint's name ("nfnet_f0.haiku") implies it.
        num_classes: width of the classifier; None takes the checkpoint's (1000 without one); 0
            gives pooled features. Another number than the checkpoint's keeps the pretrained
            body and starts a new classifier.
        **options: ``input_shape`` (height, width, channels; default (None, None, 3)),
            ``classifier_activation`` (None: logits, or ``"softmax"``), ``include_preprocessing``
            (the graph takes raw 0..255 pixels), ``pooling``, ``features_only`` and
            ``out_indices`` (maps of several strides), ``output_stride`` (32, 16 or 8),
            ``rematerialize`` (gradient checkpointing), ``drop_rate``, ``stochastic_depth_rate``,
            ``model_name``, ``dtype``, ``labels``, ``preprocessing``, and every field of the
            family's record (``alpha``, ``activation``, ``depths``, ...).

    Returns:
        An :class:`~nf_zoo.models.classifier.ImageClassifier`.

    Raises:
        ValueError: on an unknown architecture or variant, or an illegal value.
        TypeError: on an unknown field.
        nf_zoo.hub.errors.WeightsError: if the weights cannot be had or do not fit.

    Example:
        >>> import nf_zoo
        >>> nf_zoo.create_model("nf_resnet26", num_classes=4).output_shape
        (None, 4)
    """
    name, _, tag = name.partition(".")
    row = architecture(name)
    pretrained = bool(tag) if pretrained is None else pretrained
    if pretrained is False:
        # The tag alone still says how pictures are prepared and how many classes there are.
        source = resolve_pretrained(name, tag) if tag else None
        if tag:
            logger.warning(
                "%s.%s: pretrained=False builds its network with fresh weights", name, tag
            )
    else:
        wanted = tag if tag and pretrained is True else pretrained
        source = resolve_pretrained(name, wanted, variant)
    if num_classes is not None:
        options["num_classes"] = num_classes
    if variant is not None:
        options["variant"] = variant
    if source is None:
        from nf_zoo.models.classifier import build_model

        return build_model(name, **options)
    with earlier_version_kept(source):
        return _create_for(row, pinned(source), options, load=pretrained is not False)


def _create_for(row: Architecture, source, options: dict[str, Any], load: bool):
    """Build the network that a checkpoint prescribes, the user's options laid over it."""
    from nf_zoo.hub.loading import build_options, load_pretrained_weights
    from nf_zoo.models.classifier import build_model

    variant = options.get("variant")
    if variant and isinstance(source, PretrainedWeights) and source.variant != variant:
        raise UnknownWeights(
            f"{source.name} are weights of the plain {row.name}, not of its {variant!r} variant, "
            "whose outputs with them would be wrong: leave variant out, or give a path to weights "
            "of that variant."
        )
    prescribed = build_options(row.name, source)
    classes = options.get("num_classes")
    if "labels" in options or classes not in (None, prescribed.get("num_classes")):
        prescribed.pop("labels", None)
        prescribed.pop("num_classes", None)
    if options.get("num_classes") and prescribed.get("pooling", "avg") is None:
        prescribed.pop("pooling")  # of a checkpoint without a classifier
    if not load:
        prescribed.pop("labels", None)
    else:
        # Fine-tuning asks it whether the body is pretrained, wherever the weights came from.
        prescribed["weights_tag"] = getattr(source, "tag", None) or getattr(
            source, "name", str(source)
        )
    if not options.pop("features_only", False):
        model = build_model(row.name, **{**prescribed, **options})
        if load:
            load_pretrained_weights(model, source)
        return model
    # A checkpoint fits the whole network, of which the maps wanted may be a part.
    indices = options.pop("out_indices", None)
    if options.get("num_classes"):
        raise ValueError(
            "features_only=True gives maps, not classes: leave num_classes out, or 0. "
            f"Received: num_classes={options['num_classes']}"
        )
    for name in ("num_classes", "labels", "features_only", "out_indices"):
        prescribed.pop(name, None)
    model = build_model(row.name, **{**prescribed, "num_classes": 0, **options})
    if load:
        load_pretrained_weights(model, source)
    return model.with_feature_maps(indices)


def list_models(pattern: str = "*", pretrained: bool = False) -> list[str]:
    """Names of architectures, or of checkpoints.

    Args:
        pattern: shell-style, ``"nf_*"``.
        pretrained: list ``"architecture.tag"`` names, the default checkpoint of each first.

    Returns:
        Names that :func:`create_model` takes, in table order.

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
    """What is known of an architecture.

    Attributes:
        name: ``"nf_resnet50"``.
        family: ``"nf_resnet"``.
        factory: ``"NFResNet50"``.
        parameters: trainable parameters: of a checkpoint, its own; of an architecture with the
            classes of its default checkpoint, or 1000.
        multiply_adds: of one picture of ``input_size``.
        input_size: (height, width) in pixels, at which they are counted.
        config: the architecture record.
        weights: records of the checkpoints, the default one first.
        unpinned: names of those without a checksum on record: what is downloaded for them is
            only held against the checksum that the hub itself gives.
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
    """Size, cost and checkpoints of an architecture; no weights are allocated for it.

    Args:
        name: an architecture or one of its checkpoints (``"nf_resnet50.ra2_in1k"``), to which the
            answer is then restricted, and of whose variant and (if it comes with the package)
            widths and other fields it is.
        input_size: (height, width) in pixels for the multiply-adds; None takes the size at which
            the checkpoint was evaluated, or 224.

    Returns:
        A :class:`ModelInfo`.

    Raises:
        ValueError: if there is no such architecture.
        nf_zoo.hub.errors.UnknownWeights: if there is no such tag.

    Example:
        >>> import nf_zoo
        >>> nf_zoo.model_info("resnet50").parameters
        25557032
    """
    bare, _, tag = name.partition(".")
    row = architecture(bare)
    records = sorted(records_of(bare), key=lambda record: not record.default)
    if tag:
        records = [resolve_pretrained(bare, tag)]
    shown = records[0] if records and (tag or records[0].default) else None
    size = input_size or (shown.preprocessing.input_size if shown else (224, 224))
    classes = {"num_classes": shown.num_classes if shown else 1000}
    model = build_blueprint(bare, **(_blueprint_options(shown) if tag else classes))
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


def _blueprint_options(record: PretrainedWeights) -> dict[str, Any]:
    """What a checkpoint prescribes to its network, as far as it can be had without a download."""
    from nf_zoo.hub.loading import build_options

    if record.source == "shipped":
        return build_options(record.architecture, record)
    return {"num_classes": record.num_classes, "variant": record.variant}
