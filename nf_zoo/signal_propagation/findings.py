"""Findings on a network: the fault, the evidence, and a remedy that the network lacks."""

import dataclasses
import itertools
import math
import re
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np

from nf_zoo.functional import as_functional, graphs_of, nodes_of
from nf_zoo.layers import ScaledWSConv2D, SkipInit
from nf_zoo.models.norm_free import variance_ledger
from nf_zoo.models.residual_block import ResidualBlock
from nf_zoo.signal_propagation.measure import signal_propagation
from nf_zoo.signal_propagation.model_inspection import (
    find_merges,
    is_trained,
    norms_after_activations,
)
from nf_zoo.signal_propagation.result import BlockSignal, SignalPropagation

RESETS = 4.0
"""Largest factor of the variance beyond linear growth, or below its inverse."""
LEDGER = 2.0
"""Largest growth of a normalizer-free network beyond its ledger, or of a branch in a stage."""
WEAK_BRANCH = 0.1
MEAN_SHIFT_NORM_FREE, MEAN_SHIFT = 0.3, 3.0
LARGE_SHARE = 2.5
"""Largest multiple of the share 1 / (l + 1) that late blocks may add, in the median."""


BETA = ("beta", "multiply the input of every branch by beta = 1 / sqrt(expected variance)")
STANDARDIZED = ("standardized kernels", "standardize the kernels (ScaledWSConv2D)")
GAMMA = ("gamma", "multiply the activations, or the kernels after them, by the activation's gamma")
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
"""Remedies: the name of the remedy in a network that has it (empty if it cannot be seen), and the
advice."""


@dataclasses.dataclass(frozen=True)
class Finding:
    """One fault of a network.

    Attributes:
        kind: ``"exploding"``, ``"vanishing"``, ``"mean shift"``, ``"dead branch"``,
            ``"branch not down-weighted"`` or ``"activation before BatchNorm"``.
        where: name of the first affected block.
        evidence: measurement that shows the fault, in words.
        remedy: advice that usually helps.
    """

    kind: str
    where: str
    evidence: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.kind}, from {self.where}: {self.evidence} {self.remedy}"


@dataclasses.dataclass(frozen=True)
class Diagnosis:
    """The findings on a network; false if there are none.

    Attributes:
        findings: the findings, in the order of the rules.
        signals: the measurement that they rest on.
        trained: whether the weights are trained, so that rules for initialization do not apply.
    """

    findings: tuple[Finding, ...]
    signals: SignalPropagation
    trained: bool = False

    def __iter__(self) -> Iterator[Finding]:
        return iter(self.findings)

    def __len__(self) -> int:
        return len(self.findings)

    def __repr__(self) -> str:
        about = self.signals.model
        if self.trained:
            about += ": trained, so statements on initialization do not apply"
        if not self.findings:
            return f"{about}: nothing wrong in {len(self.signals)} blocks"
        return "\n".join([f"{about}:", *(f"- {finding}" for finding in self.findings)])


def diagnose(
    model: keras.Model,
    images_or_shape: Any = None,
    *,
    batch_size: int = 16,
    batch_statistics: bool | None = None,
    seed: int = 0,
) -> Diagnosis:
    """Measure a network's signal propagation and report the faults and their places.

    At initialization a network of normalizer-free blocks, with gains at one, must follow its
    variance ledger. Any other network must behave like a normalized residual network: its variance
    grows at most linearly, and its branches weigh ever less against the skip path. The advice
    names only remedies that the network lacks. These rules do not apply to trained weights, which
    may go anywhere. Trained networks are measured with their own gains, and only what is a
    fault in any network is reported: activations that are not finite, and dead branches.

    Args:
        model: as for :func:`~nf_zoo.signal_propagation.measure.signal_propagation`.
        images_or_shape: likewise; large enough that the last stage has several pixels.
        batch_size, batch_statistics, seed: likewise.

    Returns:
        A :class:`Diagnosis`, false if nothing is wrong. Its ``trained`` is true if most biases,
        gains, scales and moving statistics have left their initial values.

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
    findings = list(_not_finite(signals, has, trained))
    if not findings:
        if not trained:
            findings += _norm_free(signals, blocks, has) if blocks else _any_network(signals, has)
            findings += _mean_shift(signals, blocks, has)
        findings += _dead_branches(model, signals, trained)
    if not trained:
        findings += _order(model, layers)
    return Diagnosis(tuple(findings), signals, trained)


def _remedies_in(layers: list, blocks: list) -> set[str]:
    """Return the names of the remedies that a network has."""
    present = {
        BETA: any(block.beta != 1 for block in blocks),
        STANDARDIZED: any(isinstance(layer, ScaledWSConv2D) for layer in layers),
        GAMMA: bool(blocks) and all(block.record.gamma_in is not None for block in blocks),
        BATCH_NORM: any(isinstance(layer, keras.layers.BatchNormalization) for layer in layers),
        SKIP_GAIN: any(isinstance(layer, SkipInit) for layer in layers),
        NORM_FREE: bool(blocks),
    }
    return {name for (name, _), is_there in present.items() if is_there}


def _advice(has: set[str], *remedies: tuple[str, str]) -> str:
    """Return the remedies that the network lacks, as a sentence."""
    lacking = [advice for name, advice in remedies if name not in has]
    if not lacking:
        names = ", ".join(name for name, _ in remedies)
        return f"The usual remedies are present ({names}): check the weights and the input."
    text = ", or ".join(lacking)
    return f"{text[0].upper()}{text[1:]}."


def _stages(signals: SignalPropagation) -> list[list[BlockSignal]]:
    return [list(rows) for _, rows in itertools.groupby(signals, key=lambda row: row.stage)]


def _rate(first: BlockSignal, last: BlockSignal, blocks: int) -> float:
    """Return the factor per block by which the variance grows."""
    if not first.variance:
        return math.inf
    return (last.variance / first.variance) ** (1 / max(blocks, 1))


def _not_finite(signals, has: set[str], trained: bool) -> Iterator[Finding]:
    finite = list(itertools.takewhile(lambda row: math.isfinite(row.variance), signals))
    if len(finite) == len(signals):
        return
    evidence = "The activations are not finite."
    if len(finite) > 1:
        rate = _rate(finite[0], finite[-1], len(finite) - 1)
        evidence += f" Before, the variance grows by a factor of {rate:.3g} per block."
    remedy = _advice(has, BATCH_NORM, SKIP_GAIN, NORM_FREE)
    if trained:
        remedy = (
            "Training has diverged: go back to earlier weights, and lower the learning "
            "rate or clip the gradients."
        )
    yield Finding("exploding", signals[len(finite)].name, evidence, remedy)


def _norm_free(signals, blocks, has: set[str]) -> Iterator[Finding]:
    """Compare the variances of branches and outputs with the ledger that the betas follow."""
    ledger = variance_ledger([len(stage) for stage in _stages(signals)], blocks[0].alpha)
    start = signals[0].variance / ledger[0].after
    for index, (row, expected) in enumerate(zip(signals, ledger, strict=True)):
        if row.variance > LEDGER * max(start, 1.0) * expected.after:
            rate = _rate(signals[0], row, index)
            yield Finding(
                "exploding",
                row.name,
                f"The variance is {row.variance:.3g} where the ledger expects "
                f"{expected.after:.3g}: it grows by a factor of {rate:.3f} per block.",
                _advice(has, BETA, STANDARDIZED, GAMMA),
            )
            break
    yield from _branch_growth(signals, has)
    # A branch receives the input divided by the ledger's expectation of it.
    inputs = [signals.before[1], *(row.variance for row in signals)]
    weak = [
        row
        for row, before, expected in zip(signals, inputs, ledger, strict=False)
        if 0 < row.residual_variance < WEAK_BRANCH * before / expected.before
    ]
    if weak:
        yield Finding(
            "vanishing",
            weak[0].name,
            f"The variance at the end of the branch is {weak[0].residual_variance:.3g} instead "
            f"of that of its input; {len(weak)} of {len(signals)} branches are weak in this way.",
            _advice(has, STANDARDIZED, GAMMA),
        )


def _branch_growth(signals, has: set[str]) -> Iterator[Finding]:
    """Find branches whose variance follows the skip path's: their input is not scaled down."""
    for stage in _stages(signals):
        first = stage[0].residual_variance
        grown = [row for row in stage if first and row.residual_variance > LEDGER * first]
        if grown:
            yield Finding(
                "branch not down-weighted",
                grown[0].name,
                f"The branch's variance grows with the skip path's, from {first:.3g} to "
                f"{stage[-1].residual_variance:.3g} within its stage.",
                _advice(has, BETA),
            )
            return


def _any_network(signals: SignalPropagation, has: set[str]) -> Iterator[Finding]:
    first, last, count = signals[0], signals[-1], len(signals)
    limit = RESETS * (count + 1)
    for row in signals:
        ratio = row.variance / first.variance if first.variance else math.inf
        if not 1 / limit < ratio < limit:
            grows = ratio > 1
            yield Finding(
                "exploding" if grows else "vanishing",
                row.name,
                f"The variance goes from {first.variance:.3g} to {last.variance:.3g}, by a factor "
                f"of {_rate(first, last, count - 1):.3g} per block; in a normalized network of "
                f"{count} blocks it changes at most linearly.",
                _advice(has, *((BATCH_NORM, SKIP_GAIN, NORM_FREE) if grows else (KEEPING,))),
            )
            break
    yield from _shares(signals, has)


def _shares(signals: SignalPropagation, has: set[str]) -> Iterator[Finding]:
    """Check the share of the variance that a block adds: 1 / (l + 1) for the l-th if normalized."""
    late = [
        (after.name, 1 - before.variance / after.variance, index)
        for stage in _stages(signals)
        for index, (before, after) in enumerate(itertools.pairwise(stage), start=2)
        if index > len(stage) / 2 and after.variance > 0
    ]
    if not signals.residual or len(signals) < 8 or not late:
        return
    if float(np.median([share * (index + 1) for _, share, index in late])) > LARGE_SHARE:
        name, share, index = late[-1]
        yield Finding(
            "branch not down-weighted",
            name,
            f"Block {index} of its stage adds {100 * share:.0f} % of the variance; a normalized "
            f"branch would add about 1 / (l + 1), {100 / (index + 1):.1f} %.",
            _advice(has, SKIP_GAIN, BATCH_NORM),
        )


def _mean_shift(signals: SignalPropagation, blocks, has: set[str]) -> Iterator[Finding]:
    limit = MEAN_SHIFT_NORM_FREE if blocks else MEAN_SHIFT
    # The blocks do not cause the mean shift that the stem hands over.
    squared_mean, variance = signals.before
    limit = max(limit, 3 * squared_mean / variance if variance else 0)
    shifted = [row for row in signals if row.squared_mean > limit * row.variance > 0]
    if shifted:
        worst = max(shifted, key=lambda row: row.squared_mean / row.variance)
        yield Finding(
            "mean shift",
            shifted[0].name,
            f"The channels' squared mean is {worst.squared_mean / worst.variance:.2g} times their "
            f"variance at {worst.name}.",
            _advice(has, STANDARDIZED),
        )


def _dead_branches(model, signals: SignalPropagation, trained: bool) -> Iterator[Finding]:
    """Find branches with a constant output, though none of their weights is all zero."""
    branches: dict[str, tuple] = {}
    for graph in graphs_of(as_functional(model)):
        own = [(node.operation.name, (node.operation,)) for node in nodes_of(graph)]
        own += [(merge.name, merge.branch) for merge in find_merges(graph)]
        rows = {f"{where}{name}": part for name, part in own for where in ("", f"{graph.name}/")}
        branches = rows | branches
    dead = {}
    for row in signals:
        variance = row.residual_variance
        if variance is None or variance > 1e-12 * max(row.variance, 1e-30):
            continue
        members = branches.get(row.name, ())
        weights = [w for member in members for w in getattr(member, "weights", ())]
        # The branch is measured before its skip gain.
        scales = [w for w in weights if re.search(r"(?<!skip_gain)/(kernel|gain|gamma)$", w.path)]
        sizes = [float(np.max(np.abs(keras.ops.convert_to_numpy(w)))) for w in scales]
        if sizes and all(sizes):
            dead[row.name] = min(sizes)
    if not dead:
        return
    first, largest = next(iter(dead.items()))
    evidence = f"{len(dead)} of {len(signals)} branches return the same value for every pixel, "
    if trained:
        evidence += f"with kernels or gains that are at most {largest:.1g} in the first of them."
        remedy = (
            "Training has shut off these blocks, by weight decay or by activations that never "
            "fire: the network works without them."
        )
    else:
        evidence += "though no kernel or gain in them is zero."
        remedy = "Look for activations that never fire (large negative biases) or a blocked input."
    yield Finding("dead branch", first, evidence, remedy)


def _order(model, layers: list) -> Iterator[Finding]:
    """Find BatchNorms that come after activations instead of before them."""
    where = [layer.name for layer in layers if getattr(layer, "_activation_first", False)]
    for graph in graphs_of(as_functional(model)):
        where += norms_after_activations(graph)
    if where:
        yield Finding(
            "activation before BatchNorm",
            where[0],
            f"In {len(where)} places the activation stands before the BatchNorm that feeds the "
            "convolution, so the branch keeps its full variance.",
            "Use BatchNorm, activation, convolution, in this order.",
        )
