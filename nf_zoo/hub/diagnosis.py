"""What a file is that is not the safetensors file it should be."""

from __future__ import annotations

from pathlib import Path

from nf_zoo.hub.errors import CorruptWeights, UnsafeWeights, WeightsError, printable

_PICKLED = (".pth", ".pt", ".bin", ".pkl", ".pickle", ".ckpt", ".tar")
_PICKLE_REMEDY = (
    "Convert it once, where its origin is trusted: "
    "safetensors.torch.save_file(torch.load(file, weights_only=True), 'model.safetensors'), "
    "or take the model.safetensors that most hub repositories hold beside it."
)


def refuse_pickle(path: Path | str) -> None:
    """Raise `UnsafeWeights` for a file name that PyTorch and others use for pickles."""
    if Path(path).suffix.lower() in _PICKLED:
        raise UnsafeWeights(
            f"{path} is a pickle by its name: loading it could run any code, so nf_zoo reads "
            f"safetensors only. {_PICKLE_REMEDY}"
        )


def diagnosis(path: Path, error: Exception) -> WeightsError:
    """What a file that safetensors refuses is instead, as far as its first bytes tell."""
    with open(path, "rb") as file:
        head = file.read(512)
    size = path.stat().st_size
    if head[:1] == b"\x80" or head[:2] == b"PK":
        return UnsafeWeights(
            f"{path} is not a safetensors file but a pickle or a zip archive, as PyTorch writes "
            f"them: nf_zoo reads safetensors only. {_PICKLE_REMEDY}"
        )
    if head[:8] == b"\x89HDF\r\n\x1a\n":
        return CorruptWeights(
            f"{path} is an HDF5 file, as Keras writes them: use model.load_weights for it."
        )
    if head.startswith(b"version https://git-lfs"):
        return CorruptWeights(
            f"{path} is a Git LFS pointer, not the weights themselves: run `git lfs pull` there."
        )
    kind = "truncated or damaged"
    if head.lstrip()[:1] == b"<":
        kind = "a web page, not weights (the answer of a proxy or a login page, perhaps)"
    return CorruptWeights(
        f"{path} is {kind}: {size} bytes; {printable(str(error))}. "
        f"Delete it ({path.resolve()}), if it is still there, and fetch it again."
    )
