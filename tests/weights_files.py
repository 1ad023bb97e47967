"""Weights of a model to and from one file, without its description."""

from nf_zoo.hub.folder import write_variables
from nf_zoo.hub.foreign_names import is_the_papers
from nf_zoo.hub.loading import fill
from nf_zoo.hub.repository import earlier_version_kept
from nf_zoo.hub.sources import resolve_pretrained
from nf_zoo.models.classifier import variable_names


def load_pretrained_weights(model, source) -> None:
    """Fill a model with the weights of anything that ``pretrained=`` takes, as a factory does."""
    variant = "paper" if source is True and is_the_papers(model) else None
    source = resolve_pretrained(model.architecture, source, variant)
    with earlier_version_kept(source):
        fill(model, source)


def save_weights(model, path, dtype: str | None = None):
    """Write the variables of a model to a safetensors file of nf_zoo's format."""
    write_variables(model, variable_names(model), path, dtype)
    return path
