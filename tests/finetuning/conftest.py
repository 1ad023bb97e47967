"""Generated pictures and tiny networks."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from seeding import pytest_fixture_setup, seeded  # noqa: F401  also run without the folder above

SHAPES = {"bar": 0, "disc": 1, "ring": 2}
"""Name -> the color channel in which it is bright."""


def draw(shape: str, rng: np.random.Generator, side: int = 20) -> np.ndarray:
    """A red bar, green disc or blue ring somewhere on a dark, noisy ground."""
    y, x = np.mgrid[:side, :side] - rng.integers(7, side - 7, (2, 1, 1))
    radius = np.hypot(y, x)
    mask = {"bar": abs(y) < 2, "disc": radius < 5, "ring": (radius > 5) & (radius < 8)}[shape]
    pixels = rng.integers(0, 60, (side, side, 3))
    pixels[mask, SHAPES[shape]] += rng.integers(120, 190)
    return pixels.astype(np.uint8)


def write_pictures(root: Path, counts: dict[str, int], seed: int = 0) -> Path:
    """A class folder for each shape, half PNG, half JPEG."""
    rng = np.random.default_rng(seed)
    for shape, count in counts.items():
        (root / shape).mkdir(parents=True)
        for i in range(count):
            path = root / shape / f"{i:03d}.{'png' if i % 2 else 'jpg'}"
            Image.fromarray(draw(shape, rng)).save(path)
    return root


def build_tiny(**options):
    """An NF-ResNet of one block for 16-pixel pictures."""
    from nf_zoo.models.classifier import build_model
    from nf_zoo.pictures.preprocessing import Preprocessing

    settings = {
        "depths": (1,),
        "widths": (8,),
        "stem_width": 8,
        "num_classes": 5,
        "weights_tag": "test",
        "preprocessing": Preprocessing(input_size=16, crop_fraction=1.0),
    }
    return build_model("nf_resnet10", **{**settings, **options})


@pytest.fixture(scope="session")
def shapes(tmp_path_factory) -> Path:
    """24 pictures each of three shapes, a corrupt file, a text file, a nested folder."""
    root = write_pictures(tmp_path_factory.mktemp("shapes") / "data", dict.fromkeys(SHAPES, 24))
    (root / "disc" / "broken.jpg").write_bytes(b"\xff\xd8\xff no picture")
    (root / "disc" / "notes.txt").write_text("not a picture")
    (root / "ring" / "more").mkdir()
    (root / "ring" / "000.jpg").rename(root / "ring" / "more" / "000.jpg")
    return root


@pytest.fixture
def few(tmp_path) -> Path:
    """Eight pictures each of two shapes."""
    return write_pictures(tmp_path / "few", {"bar": 8, "disc": 8})


@pytest.fixture(scope="session")
def tiny():
    """The function that builds a tiny ImageClassifier."""
    return build_tiny


@pytest.fixture(scope="session")
def write_shapes():
    """The function that writes class folders of shapes."""
    return write_pictures
