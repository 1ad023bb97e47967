"""What is wrong with a network, in words, with the evidence and a remedy that it lacks."""

from __future__ import annotations

import itertools
import math
import re
from typing import Any

import keras
import numpy as np

from nf_zoo.layers import ScaledWSConv2D, SkipInit
from nf_zoo.models.norm_free import variance_ledger
from nf_zoo.models.residual_block import ResidualBlock
from nf_zoo.signal_propagation import graph
from nf_zoo.signal_propagation.freshness import is_trained
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
"""How far a normalizer-free network may grow beyond its ledger, or a branch within a stage."""
WEAK_BRANCH = 0.1
MEAN_SHIFT_NORM_FREE, MEAN_SHIFT = 0.3, 3.0
LARGE_SHARE = 2.5
"""How many times the share 1 / (l + 1) late blocks may add, in the median."""


BETA = ("beta", "multiply the input of every branch by beta = 1 / sqrt(expected variance)")
STANDARDIZED = ("standardized kernels", "standardize the kernels (ScaledWSConv2D)")
GAMMA = ("gamma", "multiply the activations, or the kernels behind them, by the activation's gamma")
BATCH_NORM = ("BatchNorm", "put BatchNorm on the branches")
SKIP_GAIN = (
    "skip gains",
    "give the branches a skip gain that starts at 0 (SkipInit), or at most at "
    "1 / sqrt(number of blocks)",
)
NORM_FREE = ("normalizer-free blocks", "use normalizer-free blocks")
KEEPING = (
    "",
    "initialize the branches to keep the variance, and add them to an unscaled skip path",
)
"""Remedies: what a network has that has taken them (nothing, if that cannot be seen), and the
advice."""


def diagnose(
    model: keras.Model,
    images_or_shape: Any = None,
    *,
    batch_size: int = 16,
    batch_statistics: bool | None = None,
    seed: int = 0,
) -> Diagnosis:
    """Measure a network's signal propagation and say what is wrong where.

    At initialization a network of normalizer-free blocks is held to its variance ledger, with
    gains at one; any other to what normalized residual networks do: variance that grows linearly
    at most, and branches that weigh ever less against the skip path. What is advised, the network
    does not have. Nothing of this applies to trained weights, which go where the loss takes them:
    of these, measured with their own gains, only what is wrong in any network is said, namely
    activations that are not finite and branches that are dead.

    Args:
        model: as for :func:`~nf_zoo.signal_propagation.measure.signal_propagation`.
        images_or_shape: likewise; large enough that the last stage has some pixels.
        batch_size, batch_statistics, seed: likewise.

    Returns:
        A :class:`Diagnosis`; it is false if nothing is wrong. Its ``trained`` says what the
        weights were taken for: trained, if most biases, gains, scales and moving statistics have
        left where they start.

    Raises:
        FileNotFoundError, TypeError, ValueError: as ``signal_propagation``.

    Source: the statements on initialization in De & Smith, NeurIPS 2020, and Brock, De & Smith,
    ICLR 2021; the thresholds are this library's.

    Example:
        >>> import nf_zoo
        >>> plain = nf_zoo.create_model("wide_resnet100_1", scheme="none", num_classes=10)
        >>> [finding.kind for finding in nf_zoo.diagnose(plain, (4, 32, 32, 3))][0]
        'exploding'
    """
    layers = list(model._flatten_layers())
    blocks = [x for x in layers if isinstance(x, ResidualBlock) and x.beta is not None]
    trained = is_trained(model)
    signals = signal_propagation(
        model,
        images_or_shape,
        batch_size=batch_size,
        unit_gains=bool(blocks) and not trained,
        batch_statistics=batch_statistics,
        seed=seed,
    )
    has = _remedies_in(layers, blocks)
    findings = _not_finite(signals, has, trained)
    if not findings:
        if not trained:
            findings = _norm_free(signals, blocks, has) if blocks else _any_network(signals, has)
            findings += _mean_shift(signals, blocks, has)
        findings += _dead_branches(model, signals, trained)
    if not trained:
        findings += _order(model, layers)
    return Diagnosis(tuple(findings), signals, trained)


def _remedies_in(layers: list, blocks: list) -> set[str]:
    """Names of the remedies that a network has."""
    present = {
        BETA: any(block.beta != 1 for block in blocks),
        STANDARDIZED: any(isinstance(layer, ScaledWSConv2D) for layer in layers),
        GAMMA: bool(blocks) and all(block.has_gamma for block in blocks),
        BATCH_NORM: any(isinstance(layer, keras.layers.BatchNormalization) for layer in layers),
        SKIP_GAIN: any(isinstance(layer, SkipInit) for layer in layers),
        NORM_FREE: bool(blocks),
    }
    return {name for (name, _), is_there in present.items() if is_there}


def _advice(has: set[str], *remedies: tuple[str, str]) -> str:
    """Those of the remedies that the network lacks, as a sentence."""
    lacking = [advice for name, advice in remedies if name not in has]
    if not lacking:
        names = ", ".join(name for name, _ in remedies)
        return f"What helps is there ({names}): look at the weights, and at what goes in."
    text = ", or ".join(lacking)
    return f"{text[0].upper()}{text[1:]}."


def _not_finite(signals, has: set[str], trained: bool) -> list[Finding]:
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
            f"The activations are not finite.{grown}",
            "The training has diverged: go back to weights from before, and lower the learning "
            "rate or clip the gradients."
            if trained
            else _advice(has, BATCH_NORM, SKIP_GAIN, NORM_FREE),
        )
    ]


def _norm_free(signals, blocks, has: set[str]) -> list[Finding]:
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
                    _advice(has, BETA, STANDARDIZED, GAMMA),
                )
            )
            break
    findings += _branch_growth(signals, has)
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
                _advice(has, STANDARDIZED, GAMMA),
            )
        )
    return findings


def _branch_growth(signals, has: set[str]) -> list[Finding]:
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
                    _advice(has, BETA),
                )
            ]
    return []


def _any_network(signals: SignalPropagation, has: set[str]) -> list[Finding]:
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
                    f"factor of {rate:.3g} per block; in a normalized network of {count} blocks it "
                    "changes linearly at most.",
                    _advice(has, *((BATCH_NORM, SKIP_GAIN, NORM_FREE) if grows else (KEEPING,))),
                )
            )
            break
    return findings + _shares(signals, has)


def _shares(signals: SignalPropagation, has: set[str]) -> list[Finding]:
    """The share of the variance that a block adds: 1 / (l + 1) for the l-th, if normalized."""
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
            f"Block {index} of its stage adds {share:.0%} of the variance; a normalized branch "
            f"would add about 1 / (l + 1), {1 / (index + 1):.1%}.",
            _advice(has, SKIP_GAIN, BATCH_NORM),
        )
    ]


def _mean_shift(signals: SignalPropagation, blocks, has: set[str]) -> list[Finding]:
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
            _advice(has, STANDARDIZED),
        )
    ]


def _dead_branches(model, signals: SignalPropagation, trained: bool) -> list[Finding]:
    """Branches that give a constant though none of their weights is all zero."""
    silent = [row for row in signals if row.residual_variance is not None and _is_silent(row)]
    layers = {layer.name: layer for layer in model._flatten_layers()}
    branches = {m.name: m.branch for m in graph.find_merges(graph.as_functional(model))}
    dead, largest = [], []
    for row in silent:
        members = branches.get(row.name) or (layers[row.name],)
        weights = [w for member in members for w in getattr(member, "weights", ())]
        # The branch is measured before its skip gain.
        scales = [w for w in weights if re.search(r"(?<!skip_gain)/(kernel|gain|gamma)$", w.path)]
        sizes = [float(np.max(np.abs(keras.ops.convert_to_numpy(w)))) for w in scales]
        if all(sizes):
            dead.append(row)
            largest.append(min(sizes, default=0.0))
    if not dead:
        return []
    evidence = f"{len(dead)} of {len(signals)} branches give the same value for every pixel, "
    if trained:
        evidence += f"with kernels or gains that are at most {largest[0]:.1g} in the first of them."
        remedy = (
            "The training has shut these blocks, by weight decay or by activations that never "
            "fire: the network does without them."
        )
    else:
        evidence += "though no kernel or gain in them is zero."
        remedy = "Look for activations that never fire (large negative biases) or a blocked input."
    return [Finding("dead branch", dead[0].name, evidence, remedy)]


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
