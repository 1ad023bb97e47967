"""Reference vectors of timm and DeepMind's code, and the fill by name that reproduces them.

See tests/reference/README.md for the rules.
"""

from __future__ import annotations

import json
import zlib
from pathlib import Path

import numpy as np

REFERENCE = Path(__file__).parent / "reference"
SIZES = ((64, 64), (75, 93))


def record(source: str, model: str) -> dict:
    return json.loads((REFERENCE / source / f"{model}.json").read_text())


def outputs(source: str, model: str, size: tuple[int, int]) -> dict[str, np.ndarray]:
    with np.load(REFERENCE / source / f"{model}__{size[0]}x{size[1]}.npz") as arrays:
        return dict(arrays)


def images(size: tuple[int, int]) -> np.ndarray:
    generator = np.random.default_rng(20261123)
    return generator.standard_normal((2, *size, 3)).astype("float32")


def draw(key: str, shape) -> np.ndarray:
    generator = np.random.default_rng(zlib.crc32(key.encode("utf-8")))
    return np.asarray(generator.standard_normal(tuple(shape))).astype("float32")


def fill_timm(key: str, shape) -> np.ndarray:
    z, last = draw(key, shape), key.rpartition(".")[2]
    if last == "weight" and len(shape) > 1:
        return z * np.float32(np.sqrt(1 / np.prod(shape[1:])))
    if last in ("weight", "gain"):
        return 1 + np.float32(0.1) * z
    if last in ("bias", "running_mean"):
        return np.float32(0.1) * z
    if last == "running_var":
        return np.float32(0.5) + np.abs(z)
    if last == "skipinit_gain":
        return np.float32(0.5) + np.float32(0.1) * z
    raise KeyError(key)


def fill_haiku(key: str, shape) -> np.ndarray:
    if key.endswith("/average"):
        z = draw(key, shape)
        return np.float32(0.5) + np.abs(z) if "var_ema" in key else np.float32(0.1) * z
    z, last = draw(key, shape), key.rpartition("/")[2]
    if last == "w":
        return z * np.float32(np.sqrt(1 / np.prod(shape[:-1])))
    if last in ("gain", "scale"):
        return 1 + np.float32(0.1) * z
    if last in ("b", "offset") or last.startswith("bias"):
        return np.float32(0.1) * z
    if last == "skip_gain":
        return np.float32(0.5) + np.float32(0.1) * z
    raise KeyError(key)


FILLS = {"timm": fill_timm, "haiku": fill_haiku}


def source_shapes(source: str, model: str) -> dict[str, tuple[int, ...]]:
    """Every tensor of the source that carries a weight."""
    golden = record(source, model)
    entries = golden["keys"] + golden.get("state_keys", [])
    ignored = ("num_batches_tracked", "/hidden", "/counter")
    return {key: tuple(shape) for key, shape in entries if not key.endswith(ignored)}


def haiku_trees(shapes: dict[str, tuple[int, ...]]) -> tuple[dict, dict]:
    """(params, state) as DeepMind's code holds them, filled by name."""
    params: dict[str, dict] = {}
    state: dict[str, dict] = {}
    for key, shape in shapes.items():
        module, _, name = key.rpartition("/")
        value = np.asarray(fill_haiku(key, shape))
        if name == "average":
            state[module] = {"hidden": value, "average": value, "counter": np.int32(1_000_000)}
        else:
            params.setdefault(module, {})[name] = value
    return params, state


def fill(model, source: str, golden: str) -> None:
    """Fill a model of ours through the converter, from the source's keys and layouts."""
    from nf_zoo.hub.foreign_names import plan

    steps = plan(model, source)
    shapes = source_shapes(source, golden)
    assert {step.key for step in steps} == set(shapes)
    for step in steps:
        step.variable.assign(step.convert(FILLS[source](step.key, shapes[step.key])))
