"""Small trained-like networks of the zoo with labels, and pictures for them."""

from __future__ import annotations

import numpy as np
import pytest
import tiny_networks

from nf_zoo.models.classifier import build_model

LABELS = ("alpha", "beta", "gamma", "delta", "epsilon", "zeta")


@pytest.fixture(scope="session")
def build_filled():
    """label of a tiny network, options -> that network, its weights drawn by name."""

    def build(label: str, **options):
        name, fields = tiny_networks.NETWORKS[label]
        settings = {"preprocessing": {"input_size": [40, 56], "crop_fraction": 0.9}}
        classes = {} if options.get("features_only") else {"labels": LABELS}
        return tiny_networks.fill(
            build_model(name, **{**settings, **classes, **fields, **options}), "export"
        )

    return build


@pytest.fixture(scope="session")
def pictures() -> np.ndarray:
    """Twenty uint8 pictures (48, 64, 3)."""
    return np.random.default_rng(0).integers(0, 256, (20, 48, 64, 3), dtype="uint8")
