"""What is wrong with a network at initialisation, in words, with the evidence and the remedy."""

from __future__ import annotations

import itertools
import math
import re
from typing import Any

import keras
import numpy as np

from nf_zoo.models.norm_free_block import NormFreeBlock
from nf_zoo.models.variance import variance_ledger
from nf_zoo.signal_propagation import graph
from nf_zoo.signal_propagation.measure import signal_propagation
from nf_zoo.signal_propagation.result import (
    BlockSignal,
    Diagnosis,
    Finding,
    SignalPropagation,
)

RESETS = 4.0
"""How far beyond linear growth, or below its inverse, the variance may go."""
LEDGER = 2.0
"""How far a normaliser-free network may grow beyond its ledger, or a branch within a stage."""
WEAK_BRANCH = 0.1
MEAN_SHIFT_NORM_FREE, MEAN_SHIFT = 0.3, 3.0
LARGE_SHARE = 2.5
"""How many times the share 1 / (l + 1) late blocks may add, in the median."""


def diagnose(model: keras.Model, images_or_shape: Any = (16, 64, 64, 3), **options) -> Diagnosis:
    """Measure a network's signal propagation and say what is wrong where.

    Meant for initialisation. A network of normaliser-free blocks is held to its variance ledger,
    with gains at one; any other to what normalised residual networks do: variance that grows
    linearly at most, and branches that weigh ever less against the skip path.

    Args:
        model: as for :func:`~nf_zoo.signal_propagation.measure.signal_propagation`.
        images_or_shape: likewise; large enough that the last stage has some pixels.
        **options: likewise (``batch_size``, ``seed``, ``batch_statistics``).

    Returns:
        A :class:`Diagnosis`; it is false if nothing is wrong.

    Raises:
        TypeError, ValueError: as ``signal_propagation``.

    Source: the statements on initialisation in De & Smith, NeurIPS 2020, and Brock, De & Smith,
    ICLR 2021; the thresholds are this library's.

    Example:
        >>> import nf_zoo
        >>> plain = nf_zoo.create_model("wide_resnet100_1", scheme="none", num_classes=10)
        >>> [finding.kind for finding in nf_zoo.diagnose(plain, (4, 32, 32, 3))][0]
        'exploding'
    """
    layers = list(model._flatten_layers())
    blocks = [layer for layer in layers if isinstance(layer, NormFreeBlock)]
    signals = signal_propagation(model, images_or_shape, unit_gains=bool(blocks), **options)
    findings = _not_finite(signals)
    if not findings:
        for rule in (_norm_free if blocks else _any_network, _mean_shift):
            findings += rule(signals, blocks)
        findings += _dead_branches(model, signals)
    findings += _order(model, layers)
    return Diagnosis(tuple(findings), signals)


def _not_finite(signals) -> list[Finding]:
    finite = list(itertools.takewhile(lambda row: math.isfinite(row.variance), signals))
    if len(finite) == len(signals):
        return []
    grown = ""
    if len(finite) > 1:
        rate = (finite[-1].variance / finite[0].variance) ** (1 / (len(finite) - 1))
        grown = f" Up to there the variance grows by a factor of {rate:.3g} per block."
    return [
        Finding(
            "exploding",
            signals[len(finite)].name,
            f"The activations overflow.{grown}",
            "Put BatchNorm on the branches, or a skip gain that starts at 0 (SkipInit), or use "
            "normaliser-free blocks.",
        )
    ]


def _norm_free(signals, blocks) -> list[Finding]:
    """Against the ledger: the variances of branches and outputs that the betas reckon with."""
    depths = [len(list(rows)) for _, rows in itertools.groupby(signals, key=lambda row: row.stage)]
    ledger = variance_ledger(depths, blocks[0].alpha)
    start = signals[0].variance / ledger[0].after
    findings = []
    for row, expected in zip(signals, ledger, strict=True):
        if row.variance > LEDGER * max(start, 1.0) * expected.after:
            rate = (row.variance / signals[0].variance) ** (1 / max(len(signals) - 1, 1))
            findings.append(
                Finding(
                    "exploding",
                    row.name,
                    f"The variance is {row.variance:.3g} where the ledger expects "
                    f"{expected.after:.3g}: it grows by a factor of {rate:.3f} per block.",
                    "Multiply the input of every branch by beta = 1 / sqrt(expected variance).",
                )
            )
            break
    findings += _branch_growth(signals)
    # What reaches a branch is the input over what the ledger expects of it.
    inputs = [signals.before[1], *(row.variance for row in signals)]
    weak = [
        row
        for row, before, expected in zip(signals, inputs, ledger, strict=False)
        if 0 < row.residual_variance < WEAK_BRANCH * before / expected.before
    ]
    if weak:
        findings.append(
            Finding(
                "vanishing",
                weak[0].name,
                f"The branch has a variance of {weak[0].residual_variance:.3g} at its end, where "
                f"it should keep that of its input; so do {len(weak)} of {len(signals)} branches.",
                "Give the convolutions scaled weight standardisation with the activation's gamma.",
            )
        )
    return findings


def _branch_growth(signals) -> list[Finding]:
    """A branch whose variance follows the skip path's is not fed the down-scaled input."""
    for _, rows in itertools.groupby(signals, key=lambda row: row.stage):
        stage = list(rows)
        first = stage[0].residual_variance
        grown = [row for row in stage if first and row.residual_variance > LEDGER * first]
        if grown:
            return [
                Finding(
                    "branch not down-weighted",
                    grown[0].name,
                    f"The branch's variance grows with the skip path's, from {first:.3g} to "
                    f"{stage[-1].residual_variance:.3g} within its stage.",
                    "Divide the branch's input by the expected standard deviation (beta), so that "
                    "the block's share falls with depth.",
                )
            ]
    return []


def _any_network(signals: SignalPropagation, blocks) -> list[Finding]:
    first, count = signals[0].variance, len(signals)
    findings = []
    for row in signals:
        ratio = row.variance / first if first else math.inf
        if not 1 / (RESETS * (count + 1)) < ratio < RESETS * (count + 1):
            rate = (signals[-1].variance / first) ** (1 / max(count - 1, 1)) if first else math.inf
            grows = ratio > 1
            findings.append(
                Finding(
                    "exploding" if grows else "vanishing",
                    row.name,
                    f"The variance goes from {first:.3g} to {signals[-1].variance:.3g}, by a "
                    f"factor of {rate:.3g} per block; in a normalised network of {count} blocks it "
                    "changes linearly at most.",
                    "Put BatchNorm on the branches, or a skip gain that starts at 0 (SkipInit), or "
                    "use normaliser-free blocks."
                    if grows
                    else "Initialise the branches to keep the variance, and add them to an "
                    "unscaled skip path.",
                )
            )
            break
    return findings + _shares(signals)


def _shares(signals: SignalPropagation) -> list[Finding]:
    """The share of the variance that a block adds: 1 / (l + 1) for the l-th, if normalised."""
    excesses, late = [], None
    for _, rows in itertools.groupby(signals, key=lambda row: row.stage):
        stage = list(rows)
        for index, (before, after) in enumerate(itertools.pairwise(stage), start=2):
            if index > len(stage) / 2 and after.variance > 0:
                share = 1 - before.variance / after.variance
                excesses.append(share * (index + 1))
                late = (after.name, share, index)
    if not signals.residual or len(signals) < 8 or not excesses:
        return []
    if float(np.median(excesses)) <= LARGE_SHARE:
        return []
    name, share, index = late
    return [
        Finding(
            "branch not down-weighted",
            name,
            f"Block {index} of its stage adds {share:.0%} of the variance; a normalised branch "
            f"would add about 1 / (l + 1), {1 / (index + 1):.1%}.",
            "Add a skip gain that starts at 0, or at most 1 / sqrt(number of blocks).",
        )
    ]


def _mean_shift(signals: SignalPropagation, blocks) -> list[Finding]:
    limit = MEAN_SHIFT_NORM_FREE if blocks else MEAN_SHIFT
    # What the stem hands over is not the blocks' doing.
    squared_mean, variance = signals.before
    limit = max(limit, 3 * squared_mean / variance if variance else 0)
    shifted = [row for row in signals if row.squared_mean > limit * row.variance > 0]
    if not shifted:
        return []
    worst = max(shifted, key=lambda row: row.squared_mean / row.variance)
    return [
        Finding(
            "mean shift",
            shifted[0].name,
            f"The channels' squared mean is {worst.squared_mean / worst.variance:.2g} times their "
            f"variance at {worst.name}.",
            "Standardise the kernels (ScaledWSConv2D), so that an activation with positive mean "
            "cannot push the channels off zero.",
        )
    ]


def _dead_branches(model, signals: SignalPropagation) -> list[Finding]:
    """Branches that give a constant though none of their weights is all zero."""
    silent = [row for row in signals if row.residual_variance is not None and _is_silent(row)]
    layers = {layer.name: layer for layer in model._flatten_layers()}
    branches = {m.name: m.branch for m in graph.find_merges(graph.as_functional(model))}
    dead = []
    for row in silent:
        members = branches.get(row.name) or (layers[row.name],)
        weights = [w for member in members for w in getattr(member, "weights", ())]
        # The branch is measured before its skip gain.
        # The branch is measured before its skip gain.
        scales = [w for w in weights if re.search(r"(?<!skip_gain)/(kernel|gain|gamma)$", w.path)]
        if all(np.any(keras.ops.convert_to_numpy(w)) for w in scales):
            dead.append(row)
    if not dead:
        return []
    return [
        Finding(
            "dead branch",
            dead[0].name,
            f"{len(dead)} of {len(signals)} branches give the same value for every pixel, though "
            "no kernel or gain in them is zero.",
            "Look for activations that never fire (large negative biases) or a blocked input.",
        )
    ]


def _is_silent(row: BlockSignal) -> bool:
    return row.residual_variance <= 1e-12 * max(row.variance, 1e-30)


def _order(model, layers: list) -> list[Finding]:
    """BatchNorm that sees activations instead of feeding them."""
    where = [layer.name for layer in layers if getattr(layer, "_activation_first", False)]
    where += graph.norms_after_activations(graph.as_functional(model))
    if not where:
        return []
    return [
        Finding(
            "activation before BatchNorm",
            where[0],
            f"In {len(where)} places the activation stands before the BatchNorm that feeds the "
            "convolution, so the branch keeps its full variance.",
            "Use BatchNorm, activation, convolution, in this order.",
        )
    ]
