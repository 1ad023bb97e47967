"""A Space: the page of :func:`nf_zoo.demo`, run by the Hugging Face Hub."""

import importlib.metadata
import platform
import tempfile
from pathlib import Path

import nf_zoo
from nf_zoo.extras import require
from nf_zoo.hub import errors
from nf_zoo.hub.card import CARD_FILE
from nf_zoo.hub.publishing import Publication, look_before, publish_folder, writable
from nf_zoo.hub.repository import HUB, HubRepository
from nf_zoo.hub.sources import is_name, resolve_pretrained
from nf_zoo.hub.untrusted.documents import MOST_BYTES

APP_FILE = "app.py"
REQUIREMENTS_FILE = "requirements.txt"
MARK = "Written by `nf-zoo publish --space`."
_PINNED = ("gradio", "huggingface-hub", "keras", "numpy", "pillow", "safetensors", "tensorflow")
_APP = '''"""{mark} It shows a model of the hub on a page to try it."""

import nf_zoo

nf_zoo.demo({source!r}, host="0.0.0.0", port=7860)
'''
_PAGE = """Drop pictures on the page. It shows the likeliest classes, the evidence for the first of
them (Grad-CAM), and what the network is given. {mark}
"""


def push_space(
    source: str,
    space: str,
    *,
    private: bool = False,
    force: bool = False,
    dry_run: bool = False,
    verbose: bool = True,
) -> Publication:
    """Publish a Space on the Hugging Face Hub: the page of ``demo`` for a model that is there.

    Its files are app.py, requirements.txt with the versions that are installed here, and README.md.
    They replace those of an earlier Space of nf_zoo.

    Args:
        source: the model: ``"hf://owner/name[@revision]"``, or a checkpoint of the catalog. The
            Space opens it when it starts. For a private model, give the Space a secret HF_TOKEN on
            its settings page.
        space: ``"owner/name"``.
        private: make the Space private if it is created.
        force: replace a Space that nf_zoo did not write.
        dry_run: only show the files; write nothing on the hub, which need not be reached.
        verbose: print the files uploaded, and the address.

    Returns:
        a ``Publication``.

    Raises:
        RepositoryTaken: if there is another program and ``force`` is false; or if ``private`` is
            true and the Space is public.
        ValueError: if ``source`` is not on the hub, nor in the catalog; if ``space`` is malformed.
        ImportError: without the extra ``demo``, whose version is pinned.
        WeightsError: as ``push_to_hub``.

    Example:
        >>> import nf_zoo
        >>> nf_zoo.push_space("hf://me/flowers", "me/try", dry_run=True)  # doctest: +SKIP
    """
    check_space(source, space)
    texts = _texts(source, space)
    target = writable(space, kind="space", dry_run=dry_run)
    if source.startswith(HUB) and not dry_run:
        HubRepository.parse(source).filenames()
    remote = look_before(target, private, dry_run, verbose)
    if APP_FILE in remote.files and not force:
        there = remote.of(target).fetch(APP_FILE, MOST_BYTES)
        if MARK not in there.read_text(encoding="utf-8", errors="replace"):
            raise errors.RepositoryTaken(
                f"{target} runs another program, which this one would replace: choose another "
                "Space, or pass force=True. Nothing was uploaded."
            )
    with tempfile.TemporaryDirectory(prefix="nf_zoo-") as scratch:
        for name, text in texts.items():
            Path(scratch, name).write_text(text, encoding="utf-8")
        return publish_folder(target, Path(scratch), remote, [*texts], private, dry_run, verbose)


def check_space(source: str, space: str, model=None) -> None:
    """Refuse, before anything is uploaded, what cannot become a Space.

    Malformed names are refused, models that the hub cannot open, such as local folders, models
    without a classifier, and a machine without the extra ``demo``.
    """
    try:
        HubRepository.parse(f"{HUB}{space.removeprefix(HUB)}")
    except errors.UnknownWeights:
        raise ValueError(f"A Space is written owner/name. Received: {space!r}") from None
    if source.startswith(HUB):
        HubRepository.parse(source)
    elif is_name(source):
        name, _, tag = source.partition(".")
        resolve_pretrained(name, tag or True)
    else:
        raise ValueError(
            "A Space opens its model from the hub: publish the model first, and name it "
            f"hf://owner/name. Received: {source!r}"
        )
    if model is not None and not model.num_classes:
        raise ValueError("The model of a Space must have a classifier. Received: num_classes=0")
    require("gradio", "Spaces")


def _texts(source: str, space: str) -> dict[str, str]:
    """Return the files of a Space by name."""
    from huggingface_hub import SpaceCardData

    found = {name: [*importlib.metadata.distributions(name=name)] for name in _PINNED}
    versions = {name: there[0].version for name, there in found.items() if there}
    head = SpaceCardData(
        title=space.rpartition("/")[2],
        sdk="gradio",
        sdk_version=versions["gradio"],
        python_version=".".join(platform.python_version_tuple()[:2]),
        app_file=APP_FILE,
        models=[HubRepository.parse(source).name] if source.startswith(HUB) else None,
        tags=["image-classification", "keras"],
    )
    pins = [f"nf-zoo[demo]=={nf_zoo.__version__}", *(f"{n}=={v}" for n, v in versions.items())]
    return {
        APP_FILE: _APP.format(mark=MARK, source=source),
        REQUIREMENTS_FILE: "".join(f"{pin}\n" for pin in pins),
        CARD_FILE: f"---\n{head.to_yaml()}\n---\n\n{_PAGE.format(mark=MARK)}",
    }
