"""A tiny network of every family, filled by name. Imports no backend by itself."""

from __future__ import annotations

import contextlib
import zlib
from typing import Any
from unittest import mock

import numpy as np

SMALL = {"depths": (1, 2), "widths": (8, 16)}
GROUPED = {
    "depths": (1, 2),
    "widths": (16, 32),
    "stem_widths": (4, 4, 8, 8),
    "group_width": 4,
}

NETWORKS: dict[str, tuple[str, dict[str, Any]]] = {
    "nf_resnet": ("nf_resnet26", {**SMALL, "stem_width": 8}),
    "nf_resnet_paper": ("nf_seresnet26", {**SMALL, "stem_width": 8, "variant": "paper"}),
    "nf_regnet": ("nf_regnet_b0", {**SMALL, "width_factor": 1.0, "group_width": 4}),
    "nfnet": ("test_nfnet", GROUPED),
    "nfnet_eca_paper": ("eca_nfnet_l0", {**GROUPED, "variant": "paper"}),
    "skipinit_resnet": ("skipinit_resnet50", {**SMALL, "stem_width": 8}),
    "fixup_resnet": ("fixup_resnet50", {**SMALL, "stem_width": 8}),
    "resnet": ("resnet26", {**SMALL, "stem_width": 8}),
    "resnet_v2": ("resnetv2_50d", {**SMALL, "stem_width": 8}),
    "regnety": ("regnety_004", {**SMALL, "stem_width": 8, "group_width": 4}),
    "wide_resnet": ("wide_resnet10_1", SMALL),
    "wide_resnet_bn": ("wide_resnet10_1", {**SMALL, "scheme": "bn"}),
}
"""Label -> (architecture, what makes it tiny); every family has one at least."""

CLASSES = 5


def families() -> set[str]:
    """The families that NETWORKS has a network of."""
    from nf_zoo.models.registry import architecture

    return {architecture(name).family for name, _ in NETWORKS.values()}


def build(label: str, **options):
    """The network of that label, freshly initialized."""
    from nf_zoo.models.classifier import build_model

    name, fields = NETWORKS[label]
    return build_model(name, **{"num_classes": CLASSES, **fields, **options})


def filled(label: str, salt: str):
    """The network of that label, with every weight drawn from its name and the salt."""
    with undrawn():
        model = build(label)
    return fill(model, salt)


@contextlib.contextmanager
def undrawn():
    """Begin with kernels of zeros, where all of them are replaced: drawing takes the longest."""
    from keras.initializers import RandomNormal, VarianceScaling

    def zeros(initializer, shape, dtype=None, **kwargs) -> np.ndarray:
        return np.zeros(shape, dtype or "float32")

    with contextlib.ExitStack() as patches:
        for kind in (RandomNormal, VarianceScaling):
            patches.enter_context(mock.patch.object(kind, "__call__", zeros))
        yield


def fill(model, salt: str):
    """The same model, with every weight drawn from its name and the salt."""
    from nf_zoo.models.classifier import variable_names

    for name, variable in variable_names(model).items():
        variable.assign(_draw(f"{salt}/{name}", tuple(variable.shape)))
    return model


def images(count: int = 2, size: tuple[int, int] = (47, 64)) -> np.ndarray:
    """Normalized pictures, float32 (count, *size, 3)."""
    return np.random.default_rng(0).standard_normal((count, *size, 3)).astype("float32")


def difference(actual: np.ndarray, expected: np.ndarray) -> float:
    """The largest, as a share of the largest expected value."""
    return float(np.abs(actual - expected).max() / np.abs(expected).max())


def _draw(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """As large as a trained weight of that name may be; none is zero."""
    z = np.random.default_rng(zlib.crc32(name.encode())).standard_normal(shape)
    kind = name.rpartition("/")[2]
    if kind == "kernel":
        return z / np.sqrt(np.prod(shape[:-1]))
    if "variance" in kind:
        return 0.5 + np.abs(z)
    if kind in ("gain", "gamma", "scale"):
        return 1 + 0.1 * z
    return 0.1 * z
