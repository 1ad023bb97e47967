"""Search for the block in which a network's signal breaks down."""

from __future__ import annotations

import math

import numpy as np
from absl import logging

import nf_zoo
from training import augmentation


def report_divergence(engine, feed, recipe, step: int) -> str:
    """Return in words which block diverged, given the pictures of the step and the present weights.

    Updates that are not finite are skipped, so the weights are still those of the step.

    Args:
        engine: holds the model.
        feed: gives the pictures of a step.
        recipe: gives their normalization.
        step: counted from 0.
    """
    images = np.asarray(feed.pictures(step))
    engine.state()  # brings the model up to date
    images = np.asarray(augmentation.normalize(recipe, images))
    try:
        rows = nf_zoo.signal_propagation(engine.model, images).to_dict()["blocks"]
    except (ValueError, FloatingPointError) as error:
        logging.warning("The signal could not be measured: %s", error)
        return "the signal could not be measured"
    if not rows:
        return "the network has no residual blocks to measure"
    for row in rows:
        if not math.isfinite(row["variance"]):
            return f"the output of {row['name']} is the first that is not finite"
    largest = max(rows, key=lambda row: row["variance"])
    return (
        "all activations are finite, and their variance is largest, "
        f"{largest['variance']:.3g}, after {largest['name']}"
    )
