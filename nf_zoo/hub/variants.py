"""Two networks share a name: the one with timm's weights and DeepMind's, ``variant="paper"``.

Their tensors can have the same names and shapes and their outputs still differ, so a file of one
must not fill the other.
"""

from __future__ import annotations

from nf_zoo.hub.checkpoint import WeightsFile
from nf_zoo.hub.errors import WeightsMismatch
from nf_zoo.hub.recognize import recognize
from nf_zoo.models.registry import architecture

_FORM = ("gamma_in", "padding", "eps_form", "preactivation", "width_divisor")
"""Fields that tell the two apart and that no weights make up for."""


def has_paper_form(model) -> bool:
    """Whether weights of DeepMind's code compute in this model what they did there."""
    paper = architecture(model.architecture).module.VARIANTS.get("paper", {})
    return all(getattr(model.config, name) == paper[name] for name in _FORM if name in paper)


def is_the_papers(model) -> bool:
    """Whether a model is DeepMind's network in every field that the variant sets."""
    paper = architecture(model.architecture).module.VARIANTS.get("paper", {})
    return bool(paper) and all(getattr(model.config, field) == paper[field] for field in paper)


def check_variant(model, file: WeightsFile) -> None:
    """Refuse a file of timm's in DeepMind's network and the reverse.

    Args:
        model: The model to be filled.
        file: The open checkpoint.

    Raises:
        WeightsMismatch: saying which network to build for the file.
    """
    if file.format == "haiku" and not has_paper_form(model):
        name = recognize(file) or model.architecture
        raise WeightsMismatch(
            f"{file.path} is of DeepMind's code, whose networks differ from this "
            f"{model.architecture} where weights do not tell (padding, epsilons, GELU). "
            f"Build theirs: nf_zoo.create_model({name!r}, variant='paper', pretrained=...)."
        )
    if file.format == "timm" and is_the_papers(model):
        name = recognize(file) or model.architecture
        raise WeightsMismatch(
            f"{file.path} holds timm's weights, but this {model.architecture} is the network of "
            "DeepMind's code (variant='paper'), whose outputs with them would be wrong. Leave "
            f"variant out: nf_zoo.create_model({name!r}, pretrained=...)."
        )
