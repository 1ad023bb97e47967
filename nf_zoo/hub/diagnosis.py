"""What a file is that is not the safetensors file it should be."""

from __future__ import annotations

from pathlib import Path

from nf_zoo.hub.errors import CorruptWeights, UnsafeWeights, WeightsError, printable

_PICKLED = (".pth", ".pt", ".bin", ".pkl", ".pickle", ".ckpt", ".tar")


def is_pickle(path: Path | str) -> bool:
    """Whether a file name is one that PyTorch and others use for pickles."""
    return Path(path).suffix.lower() in _PICKLED


def pickle_remedy(path: Path | str) -> str:
    """How to make a safetensors file of one of PyTorch's, in words and as code to paste.

    The semicolons keep it code where a message is printed as one line.
    """
    return f"""\
Take the model.safetensors that most hub repositories hold beside it. Or convert it once, where its
origin is trusted, with torch and safetensors. Checkpoints of timm's training hold their weights as
"state_dict", and averaged ones as "state_dict_ema":

    import argparse, safetensors.torch, torch;
    torch.serialization.add_safe_globals([argparse.Namespace]);
    state = torch.load({str(path)!r}, map_location="cpu", weights_only=True);
    state = state.get("state_dict", state);
    state = {{name: tensor.clone().contiguous() for name, tensor in state.items()}};
    safetensors.torch.save_file(state, "model.safetensors")
"""


def refuse_pickle(path: Path | str) -> None:
    """Raise `UnsafeWeights` for a file name that PyTorch and others use for pickles."""
    if is_pickle(path):
        raise UnsafeWeights(
            f"{path} is a pickle by its name: loading it could run any code, so nf_zoo reads "
            f"safetensors only. {pickle_remedy(path)}"
        )


def diagnosis(path: Path, error: Exception) -> WeightsError:
    """What a file that safetensors refuses is instead, as far as its first bytes tell."""
    with open(path, "rb") as file:
        head = file.read(512)
    size = path.stat().st_size
    if head[:1] == b"\x80" or head[:2] == b"PK":
        return UnsafeWeights(
            f"{path} is not a safetensors file but a pickle or a zip archive, as PyTorch writes "
            f"them: nf_zoo reads safetensors only. {pickle_remedy(path)}"
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
