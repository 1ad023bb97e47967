"""Weights files by a stranger: their names and headers, the index of several, what else they are.

The layout of several files is the hub's: model-00001-of-00003.safetensors, ..., and
model.safetensors.index.json with {"metadata": {"total_size": bytes}, "weight_map": {name: file}}.
"""

import re
from pathlib import Path

from nf_zoo.hub.errors import CorruptWeights, UnsafeWeights, WeightsError, printable
from nf_zoo.hub.untrusted.documents import parse_json, read_json

MOST_HEADER_BYTES = 32 * 2**20
MOST_SHARDS = 1000
_PLAIN_NAME = re.compile(r"\w[\w.-]*\.safetensors", re.ASCII)
_PICKLED = (".pth", ".pt", ".bin", ".pkl", ".pickle", ".ckpt", ".tar")


def is_pickle(path: Path | str) -> bool:
    """Return True if a file name is one that PyTorch and others use for pickles."""
    return Path(path).suffix.lower() in _PICKLED


def pickle_remedy(path: Path | str) -> str:
    """Say how to make a safetensors file of one of PyTorch's, in words and as code to paste.

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
    """Raise ``UnsafeWeights`` for a file name that PyTorch and others use for pickles."""
    if is_pickle(path):
        raise UnsafeWeights(
            f"{path} is a pickle by its name: loading it could run any code, so nf_zoo reads "
            f"safetensors only. {pickle_remedy(path)}"
        )


def check_header(path: Path) -> None:
    """Raise ``ValueError`` for a safetensors header too large, or with two entries of one name.

    The library takes the last of two entries, others the first.
    """
    with open(path, "rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if length > MOST_HEADER_BYTES:
            raise ValueError(f"a header of {length} bytes, {MOST_HEADER_BYTES} at most")
        parse_json(file.read(length))


def diagnosis(path: Path, error: Exception) -> WeightsError:
    """Say what a file that safetensors refuses is instead, as far as its first bytes tell."""
    with open(path, "rb") as file:
        head = file.read(512)
    if path.suffix == ".keras":
        return CorruptWeights(
            f"{path} is a model as Keras saves it, not weights alone: load it with "
            "nf_zoo.load_pretrained, or take its weights by model.load_weights."
        )
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
    return damaged(path, head, printable(str(error)))


def damaged(path: Path, head: bytes, reason: str) -> CorruptWeights:
    """Return the error for a file that is truncated, or a web page instead of weights."""
    kind = "truncated or damaged"
    if head.lstrip()[:1] == b"<":
        kind = "a web page, not weights (the answer of a proxy or a login page, perhaps)"
    return CorruptWeights(
        f"{path} is {kind}: {path.stat().st_size} bytes; {reason}. "
        f"Delete it ({path.resolve()}), if it is still there, and fetch it again."
    )


def is_index(path: Path) -> bool:
    """Return True if a path is that of an index rather than of tensors."""
    return path.name.endswith(".safetensors.index.json")


def read_index(path: Path) -> dict[str, str]:
    """Return tensor name -> file name of an index, in its order; all files lie beside it."""
    try:
        shards = read_json(path)["weight_map"]
        if not isinstance(shards, dict) or not shards:
            raise TypeError("weight_map must be an object that names tensors")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CorruptWeights(
            f"{path} is not an index of safetensors files: {printable(error)}. Fetch it again."
        ) from error
    names = {name if isinstance(name, str) else repr(name) for name in shards.values()}
    for name in sorted(names):
        if not _PLAIN_NAME.fullmatch(name):
            raise UnsafeWeights(
                f"{path} points to something other than a safetensors file in its own folder, so "
                f"nothing of it is read. Received: {printable(name)!r}"
            )
    if len(names) > MOST_SHARDS:
        raise CorruptWeights(f"{path} names more than {MOST_SHARDS} files.")
    return shards
