"""Depths at which Wide ResNets train: gradients at the start, the loss a little later."""

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
"""(most layers, updates): deeper networks get fewer updates."""
TRIED_UP_TO = 400
"""Most layers at which all learning rates are tried."""
CHUNK = 10
"""Updates between two checks of the loss."""
LAST = 10
"""Updates whose mean loss counts."""
TRAINS = 0.9
"""A network trains if its loss falls below this share of the loss of guessing."""
DEPTHS = 5
"""Numbers of blocks per stage that are tried."""


@dataclasses.dataclass(frozen=True)
class Run:
    """One network trained at one learning rate."""

    rate: float
    updates: int  # number of updates made; fewer than planned if the loss was no longer finite
    loss: float  # mean over the last updates; NaN if the run diverged


@dataclasses.dataclass(frozen=True)
class Trained:
    """One scheme at one depth."""

    scheme: str  # one of ``SCHEMES``
    layers: int  # number of layers of the network
    # norms at the start of the loss's gradient with respect to every block's input and the last
    # block's output, relative to the latter; NaN if it overflows, 0 if it vanishes
    gradients: tuple[float, ...]
    # one run per learning rate; the deepest only have the better rate of the depth before
    runs: tuple[Run, ...]
    guessing: float  # the loss of guessing, ln(classes)

    @property
    def best(self) -> Run:
        """Run with the lowest loss; the first run if all diverged."""
        return min(self.runs, key=lambda run: run.loss if math.isfinite(run.loss) else math.inf)

    @property
    def trains(self) -> bool:
        """True if the best run's loss fell below ``TRAINS`` times that of guessing."""
        return self.best.loss < TRAINS * self.guessing


@dataclasses.dataclass(frozen=True)
class TrainableDepth:
    """The measured figure: its title, and every scheme at every depth."""

    title: str
    trained: tuple[Trained, ...]

    threshold = TRAINS
    fields = (
        *("scheme", "layers", "block", "gradient_norm"),
        *("learning_rate", "updates", "loss", "best", "trains"),
    )

    def rows(self) -> list[dict]:
        """Return rows with the gradient at each block, and one row per run with the loss.

        The deepest networks have rows for all blocks, and one more for the output of the last;
        the others only for the first block.
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
    """Pictures (M, H, W, 3), labels (M,), the number of classes, and a description in words."""

    images: np.ndarray
    labels: np.ndarray
    classes: int
    kind: str

    @property
    def guessing(self) -> float:
        """Cross-entropy of an answer that gives all classes the same probability."""
        return math.log(self.classes)


def synthetic_task(pictures: int, size: int, seed: int) -> Task:
    """Return a task with a random pattern per class as half of the variance; the rest is noise."""
    generator, classes = np.random.default_rng(seed), 10
    coarse = -(-size // 2)
    patterns = generator.standard_normal((classes, coarse, coarse, 3))
    patterns = patterns.repeat(2, axis=1).repeat(2, axis=2)[:, :size, :size]
    labels = np.arange(pictures) % classes
    noise = generator.standard_normal((pictures, size, size, 3))
    images = (patterns[labels] + noise) / math.sqrt(2)
    kind = f"{pictures} synthetic pictures of {size} x {size}"
    return Task(images.astype("float32"), labels, classes, kind)


def measure(task: Task, most: int, width: int, seed: int) -> TrainableDepth:
    """Train networks of up to ``most`` blocks per stage on a task; the title tells the details.

    ``width`` is that of the first stage; the others have two and four times as many channels.
    """
    if keras.backend.backend() not in ("tensorflow", "jax"):
        raise RuntimeError(
            "The backend must be TensorFlow or JAX to train: set KERAS_BACKEND to one of them. "
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
    """Train every scheme at every depth and learning rate, two schemes at a time."""
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
    # Evenly spaced on a logarithmic scale.
    for depth in sorted({round(depth) for depth in np.geomspace(1, most, DEPTHS).tolist()}):
        layers, start = 6 * depth + 4, network.draw(depth, seed)
        updates = next(count for most, count in UPDATES if layers <= most)
        batches = _batches(task, seed)[:updates]
        gradients = _gradients(network, start, task, batches[:CHUNK], seed)
        # The deepest networks cost most, so they only get the better rate of the depth before.
        rates = RATES if layers <= TRIED_UP_TO else (trained[-1].best.rate,)
        runs = tuple(_train(network, start, task, batches, rate) for rate in rates)
        trained.append(Trained(scheme, layers, gradients, runs, task.guessing))
    return trained


def _batches(task: Task, seed: int) -> np.ndarray:
    """Return indices (updates, BATCH), in a new order every epoch, the same for all networks."""
    generator = np.random.default_rng(seed)
    needed = max(updates for _, updates in UPDATES) * BATCH
    epochs = -(-needed // len(task.images))
    order = np.concatenate([generator.permutation(len(task.images)) for _ in range(epochs)])
    return order[:needed].reshape(-1, BATCH)


def _gradients(network: RepeatedBlocks, start: State, task: Task, batches, seed: int):
    """Return the initial gradient norms, with a random classifier, as one at 0 passes none."""
    *tail, kernel, bias = start.weights[-1]
    random = np.random.default_rng(seed).standard_normal(kernel.shape)
    kernel = keras.ops.convert_to_tensor(random / math.sqrt(kernel.shape[0]), "float32")
    start = dataclasses.replace(start, weights=[*start.weights[:-1], [*tail, kernel, bias]])
    _, norms, _ = network.train(start, task.images, task.labels, batches, rate=0.0)
    # If the signal dies out on the way, the last norm is 0 too.
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
