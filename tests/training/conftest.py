from __future__ import annotations

import numpy as np
import pytest
from small_recipes import small_recipe

CLASSES = 4


def pictures(count: int, seed: int):
    """Squares of a color and a place that tell the class, in noise."""
    rng = np.random.default_rng(seed)
    classes = rng.integers(0, CLASSES, count)
    images = rng.integers(0, 80, (count, 16, 16, 3))
    for image, one in zip(images, classes, strict=True):
        top, left = 8 * (one // 2), 8 * (one % 2)
        image[top : top + 8, left : left + 8, one % 3] += 120
    return images.astype("uint8"), classes.astype("int32")


@pytest.fixture(scope="session")
def arrays(tmp_path_factory):
    """An .npz file of 96 training and 30 test pictures."""
    path = tmp_path_factory.mktemp("arrays") / "squares.npz"
    values = {"labels": [f"class {n}" for n in range(CLASSES)]}
    for split, count in (("train", 96), ("test", 30)):
        images, classes = pictures(count, seed=count)
        values |= {f"{split}_images": images, f"{split}_classes": classes}
    np.savez(path, **values)
    return path


@pytest.fixture
def recipe(arrays):
    """A network of a few thousand parameters, five steps of 16 pictures."""
    return small_recipe(arrays)
