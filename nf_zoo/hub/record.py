"""What is on record of one published checkpoint."""

from __future__ import annotations

from dataclasses import dataclass

from nf_zoo.pictures.preprocessing import Preprocessing

IMAGENET_LABELS = "imagenet1k"
LABELS_IN_CONFIG = "config.json"


@dataclass(frozen=True)
class PretrainedWeights:
    """One checkpoint: what it is, where it lies and how it was evaluated.

    Attributes:
        architecture: The network it belongs to, e.g. "nf_resnet50".
        tag: The name of this checkpoint among that network's, e.g. "ra2_in1k".
        license: SPDX identifier in lower case, e.g. "apache-2.0".
        preprocessing: How pictures were prepared when the checkpoint was evaluated.
        variant: The variant of the architecture that it is for: None or "paper".
        source: "hf" (a Hugging Face repository), "url" (a file somewhere else on the web) or
            "shipped" (a file in the weights directory).
        repository: "owner/name" on the Hugging Face Hub; None for the others.
        url: Address of the file; None for the others.
        filename: The file in the repository, or its path relative to the weights directory.
        revision: Branch, tag or commit of the repository.
        sha256: Checksum of the file, or None: the download is then not pinned.
        format: "timm" or "haiku" (timm's or DeepMind's names and layouts), or "nf_zoo" (ours).
        num_classes: Number of classes of the checkpoint's classifier; 0 if it has none.
        train_input_size: (height, width) in pixels during training, or None.
        top1: Published top-1 accuracy in per cent, or None.
        top5: Published top-5 accuracy in per cent, or None.
        accuracy_source: Where the accuracies were published; None if there are none.
        parameters: Number of trainable parameters, or None.
        labels: "imagenet1k"; "config.json" (of a repository that nf_zoo wrote); or a JSON file
            relative to the weights directory with a "labels" list.
        default: Whether `pretrained=True` takes this checkpoint.

    Example:
        >>> from nf_zoo.hub.catalog import find_record
        >>> find_record("nf_resnet50", "ra2_in1k").preprocessing.input_size
        (288, 288)
    """

    architecture: str
    tag: str
    license: str
    preprocessing: Preprocessing
    variant: str | None = None
    source: str = "hf"
    repository: str | None = None
    url: str | None = None
    filename: str = "model.safetensors"
    revision: str = "main"
    sha256: str | None = None
    format: str = "timm"
    num_classes: int = 1000
    train_input_size: tuple[int, int] | None = None
    top1: float | None = None
    top5: float | None = None
    accuracy_source: str | None = None
    parameters: int | None = None
    labels: str = IMAGENET_LABELS
    default: bool = False

    @property
    def name(self) -> str:
        """timm's way of naming a checkpoint: "architecture.tag"."""
        return f"{self.architecture}.{self.tag}"

    @property
    def pinned(self) -> bool:
        """Whether a checksum is on record, so that the file cannot change unnoticed."""
        return self.sha256 is not None

    @property
    def trust(self) -> str:
        """What stands for the file being the published one, in words."""
        if self.source == "shipped":
            return "comes with nf_zoo, SHA-256 checked"
        return "pinned: SHA-256 checked" if self.pinned else "not pinned: no SHA-256 on record"
