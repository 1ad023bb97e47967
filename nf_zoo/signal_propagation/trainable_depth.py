"""Which Wide ResNets train at which depth: gradients at the start, the loss a little later."""

from __future__ import annotations

import dataclasses
import math
from concurrent.futures import ThreadPoolExecutor

import keras
import numpy as np

from nf_zoo.models.classifier import build_model
from nf_zoo.models.configuration import choices, field_types
from nf_zoo.models.registry import architecture
from nf_zoo.signal_propagation.repeated_blocks import RepeatedBlocks, State

NETWORK = "wide_resnet16_1"
SCHEMES: tuple[str, ...] = choices(field_types(type(architecture(NETWORK).config))["scheme"])
RATES = (0.1, 0.02)
BATCH = 8
UPDATES = ((100, 200), (math.inf, 80))
"""(layers up to which, updates): deeper networks get fewer."""
TRIED_UP_TO = 400
"""Layers up to which all learning rates are tried."""
CHUNK = 10
"""Updates between two looks at the loss."""
LAST = 10
"""Updates whose mean loss counts."""
TRAINS = 0.9
"""A network trains if its loss falls below this share of that of guessing."""
DEPTHS = 5


@dataclasses.dataclass(frozen=True)
class Run:
    """One network trained at one learning rate.

    Attributes:
        rate: the learning rate.
        updates: how many were made; fewer than meant if the loss was no longer finite.
        loss: mean over the last updates; NaN where it diverged.
    """

    rate: float
    updates: int
    loss: float


@dataclasses.dataclass(frozen=True)
class Trained:
    """One scheme at one depth.

    Attributes:
        scheme: key of ``SCHEMES``.
        layers: of the network.
        gradients: at the start, norm of the loss's gradient by every block's input and by the last
            one's output, relative to this; NaN where it overflows, 0 where it vanishes altogether.
        runs: one per learning rate; of the deepest, the rate of the depth before.
        guessing: the loss of guessing, ln(classes).
    """

    scheme: str
    layers: int
    gradients: tuple[float, ...]
    runs: tuple[Run, ...]
    guessing: float

    @property
    def best(self) -> Run:
        """The run of the lowest loss; the first if all diverged."""
        return min(self.runs, key=lambda run: run.loss if math.isfinite(run.loss) else math.inf)

    @property
    def trains(self) -> bool:
        """Whether the best run's loss fell below ``TRAINS`` of that of guessing."""
        return self.best.loss < TRAINS * self.guessing


@dataclasses.dataclass(frozen=True)
class TrainableDepth:
    """The measured figure: title, and every scheme at every depth."""

    title: str
    trained: tuple[Trained, ...]

    threshold = TRAINS
    fields = (
        *("scheme", "layers", "block", "gradient_norm"),
        *("learning_rate", "updates", "loss", "best", "trains"),
    )

    def rows(self) -> list[dict]:
        """Per network a row with the gradient at a block, and one per run with the loss.

        The blocks are all of the deepest networks, with what is behind the last as one more, and
        the first of the others.
        """
        rows, deepest = [], max(one.layers for one in self.trained)
        for one in self.trained:
            own = {"scheme": one.scheme, "layers": one.layers}
            shown = one.gradients if one.layers == deepest else one.gradients[:1]
            norms = enumerate(shown, start=1)
            rows += [{**own, "block": block, "gradient_norm": norm} for block, norm in norms]
            for run in one.runs:
                best = {"best": run is one.best, "trains": run is one.best and one.trains}
                figures = {"learning_rate": run.rate, "updates": run.updates, "loss": run.loss}
                rows.append({**own, **figures, **best})
        return rows


@dataclasses.dataclass(frozen=True)
class Task:
    """Pictures (M, H, W, 3) with labels (M,) of so many classes, and what they are in words."""

    images: np.ndarray
    labels: np.ndarray
    classes: int
    kind: str

    @property
    def guessing(self) -> float:
        """Cross-entropy of an answer that gives all classes the same."""
        return math.log(self.classes)


def synthetic_task(pictures: int, size: int, seed: int, classes: int = 10) -> Task:
    """A random pattern per class, half of every picture's variance; the rest is noise."""
    generator = np.random.default_rng(seed)
    coarse = -(-size // 2)
    patterns = generator.standard_normal((classes, coarse, coarse, 3))
    patterns = patterns.repeat(2, axis=1).repeat(2, axis=2)[:, :size, :size]
    labels = np.arange(pictures) % classes
    noise = generator.standard_normal((pictures, size, size, 3))
    images = (patterns[labels] + noise) / math.sqrt(2)
    kind = f"{pictures} synthetic pictures of {size} x {size}"
    return Task(images.astype("float32"), labels, classes, kind)


def depths_up_to(most: int) -> list[int]:
    """Blocks per stage, evenly on a logarithmic scale from 1."""
    return sorted({round(depth) for depth in np.geomspace(1, most, DEPTHS).tolist()})


def measure(task: Task, most: int, width: int, seed: int) -> TrainableDepth:
    """Train networks of up to ``most`` blocks per stage on a task, and say in words what was done.

    ``width`` is the first stage's; the others have two and four times as many channels.
    """
    if keras.backend.backend() not in ("tensorflow", "jax"):
        raise RuntimeError(
            "The networks are trained with TensorFlow or JAX: set KERAS_BACKEND to one of them. "
            f"Received: backend {keras.backend.backend()!r}"
        )
    trained = train_all(task, most, width, seed)
    updates = " / ".join(str(count) for _, count in UPDATES)
    rates = " and ".join(map(str, RATES))
    title = (
        f"Wide ResNets of {width} to {4 * width} channels on {task.kind}\n"
        f"{updates} updates by {BATCH} pictures (up to 100 layers / more), the better of the "
        f"learning rates {rates} (up to {TRIED_UP_TO} layers; then that one)\n"
        "filled: trains; x: not finite (at the top) or 0 (at the bottom)"
    )
    return TrainableDepth(title, trained)


def train_all(task: Task, most: int, width: int, seed: int) -> tuple[Trained, ...]:
    """Every scheme at every depth and learning rate; two schemes at a time."""
    networks = {scheme: _network(scheme, task, most, width) for scheme in SCHEMES}
    with ThreadPoolExecutor(2) as pool:
        found = pool.map(
            lambda scheme: _train_scheme(scheme, networks[scheme], task, most, seed), SCHEMES
        )
        return tuple(one for same in found for one in same)


def _network(scheme: str, task: Task, most: int, width: int) -> RepeatedBlocks:
    template = build_model(
        NETWORK,
        scheme=scheme,
        widths=(width, 2 * width, 4 * width),
        stem_width=width,
        num_classes=task.classes,
        input_shape=task.images.shape[1:],
    )
    return RepeatedBlocks(template, most)


def _train_scheme(scheme, network, task, most: int, seed: int) -> list[Trained]:
    trained = []
    for depth in depths_up_to(most):
        layers, start = 6 * depth + 4, network.draw(depth, seed)
        updates = next(count for most, count in UPDATES if layers <= most)
        batches = _batches(task, seed)[:updates]
        gradients = _gradients(network, start, task, batches[:CHUNK], seed)
        # The deepest cost most: they get the rate that was better one depth before.
        rates = RATES if layers <= TRIED_UP_TO else (trained[-1].best.rate,)
        runs = tuple(_train(network, start, task, batches, rate) for rate in rates)
        trained.append(Trained(scheme, layers, gradients, runs, task.guessing))
    return trained


def _batches(task: Task, seed: int) -> np.ndarray:
    """(updates, BATCH) indices: every epoch another order, the same for all networks."""
    generator = np.random.default_rng(seed)
    needed = max(updates for _, updates in UPDATES) * BATCH
    epochs = -(-needed // len(task.images))
    order = np.concatenate([generator.permutation(len(task.images)) for _ in range(epochs)])
    return order[:needed].reshape(-1, BATCH)


def _gradients(network: RepeatedBlocks, start: State, task: Task, batches, seed: int):
    """Gradient norms at the start, with a random classifier: one that starts at 0 passes none."""
    *tail, kernel, bias = start.weights[-1]
    random = np.random.default_rng(seed).standard_normal(kernel.shape)
    kernel = keras.ops.convert_to_tensor(random / math.sqrt(kernel.shape[0]), "float32")
    start = dataclasses.replace(start, weights=[*start.weights[:-1], [*tail, kernel, bias]])
    _, norms, _ = network.train(start, task.images, task.labels, batches, rate=0.0)
    # Where the signal dies out on the way, the last is 0 too.
    norms = norms / norms[-1] if norms[-1] else np.zeros_like(norms)
    return tuple(float(norm) if np.isfinite(norm) else math.nan for norm in norms)


def _train(network: RepeatedBlocks, state: State, task: Task, batches, rate: float) -> Run:
    losses: list[float] = []
    for first in range(0, len(batches), CHUNK):
        chosen = batches[first : first + CHUNK]
        new, _, state = network.train(state, task.images, task.labels, chosen, rate)
        losses.extend(map(float, new))
        if not np.isfinite(losses[-1]):
            return Run(rate, int(np.isfinite(losses).sum()), math.nan)
    return Run(rate, len(losses), float(np.mean(losses[-LAST:])))
