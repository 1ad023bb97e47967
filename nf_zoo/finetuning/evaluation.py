"""Evaluation of a classifier on labeled pictures: overall, by class, picture by picture."""

import dataclasses
import math
import os
from typing import Any, NamedTuple

import numpy as np

from nf_zoo.finetuning.batches import EvaluationBatches
from nf_zoo.finetuning.labeled_pictures import open_one
from nf_zoo.finetuning.settings import EvaluationSettings
from nf_zoo.options import takes
from nf_zoo.pictures.images import as_input, input_of
from nf_zoo.pictures.predictions import of_logits


class Sample(NamedTuple):
    """A picture, (h, w, 3) uint8 as the network saw it, and the network's prediction."""

    pixels: np.ndarray
    true: int
    predicted: int
    probability: float
    name: str | None = None

    @property
    def correct(self) -> bool:
        """True if the prediction is right."""
        return self.true == self.predicted


@dataclasses.dataclass
class Evaluation:
    """Counts over a set of pictures."""

    labels: tuple[str, ...]
    # (classes, classes) counts, row the true class, column the predicted one
    confusion: np.ndarray | None = None
    top5: int = 0  # pictures whose class is among the five likeliest
    cross_entropy: float = 0.0  # sum of -log(probability of the true class), in nats
    samples: list[Sample] = dataclasses.field(default_factory=list)  # pictures drawn at random
    # the most confident wrong predictions, worst first
    mistakes: list[Sample] = dataclasses.field(default_factory=list)

    def __post_init__(self):
        if self.confusion is None:
            self.confusion = np.zeros((len(self.labels),) * 2, dtype=np.int64)

    def add(self, probabilities: np.ndarray, classes: np.ndarray) -> None:
        """Add pictures, given (N, classes) probabilities and (N,) true class indices."""
        if not np.isfinite(probabilities).all():
            raise ValueError(
                "The model must answer with finite numbers to be evaluated: lower the learning "
                "rate of its training. Received: NaN or infinity"
            )
        np.add.at(self.confusion, (classes, probabilities.argmax(axis=1)), 1)
        self.cross_entropy += float(
            surprisals(probabilities)[np.arange(len(classes)), classes].sum()
        )
        likeliest = np.argsort(-probabilities, axis=1)[:, :5]
        self.top5 += int((likeliest == classes[:, None]).sum())

    def metrics(self) -> dict[str, Any]:
        """Return the figures, JSON-able, under the keys that :func:`evaluate` documents."""
        pictures = int(self.confusion.sum())
        right = {"accuracy": int(np.trace(self.confusion))}
        if len(self.labels) > 5:
            right["top5_accuracy"] = self.top5
        shares = {}
        for name, count in right.items():
            shares[name] = count / pictures
            shares[f"{name}_interval"] = list(interval(count / pictures, pictures))
        return {
            **shares,
            "cross_entropy": self.cross_entropy / pictures,
            "pictures": pictures,
            "labels": list(self.labels),
            "per_class": per_class(self.confusion, self.labels),
            "confusion_matrix": self.confusion.tolist(),
        }


@takes(EvaluationSettings)
def evaluate(model, data, *, settings: EvaluationSettings) -> dict[str, Any]:
    """Evaluate a classifier on a folder of pictures or a data set.

    Pictures are prepared as ``model.preprocess`` does, on every backend of Keras.

    Args:
        model: an ImageClassifier with classes, folded or not.
        data: a folder of class folders named after ``model.labels`` (without labels: one folder
            for each output, in sorted order); if it is split, test/ is used, or else val/. Or a
            pair (pictures, classes) or a ``tf.data.Dataset`` of them, as ``finetune`` takes them.
        {settings}

    Returns:
        A dict: ``accuracy``, ``top5_accuracy`` (with more than five classes), each with a 95 %
        confidence interval under ``accuracy_interval`` and ``top5_accuracy_interval``,
        ``cross_entropy`` (nats), ``pictures``, ``labels``, ``per_class`` (label, precision, recall,
        f1, support), ``confusion_matrix`` (row: true class), ``skipped`` (reason by file name),
        ``ignored`` (number of files by suffix or reason).

    Raises:
        ValueError: if the model is not a classifier of the zoo, the folders do not match its
            labels, or no picture can be read.

    Example:
        >>> import nf_zoo
        >>> model = nf_zoo.create_model("wide_resnet16_2.cifar10")
        >>> result = nf_zoo.evaluate(model, "pets/")  # with folders cat and dog
        >>> 0.0 <= result["accuracy"] <= 1.0
        True
    """
    if not getattr(model, "num_classes", None):
        raise ValueError(
            "evaluate takes a classifier of the zoo, which knows how to prepare pictures and what "
            "its outputs mean. For any other compiled Keras model, call its own "
            "model.evaluate(images, classes). "
            f"Received: {type(model).__name__} {getattr(model, 'name', '')!r} with "
            f"num_classes={getattr(model, 'num_classes', None)}"
        )
    labels = model.labels
    if labels is None and not isinstance(data, str | os.PathLike):
        labels = getattr(data, "class_names", None) or [str(i) for i in range(model.num_classes)]
    pictures, labels, skipped, ignored = open_one(data, labels, settings.strict)
    if len(labels) != model.num_classes:
        raise ValueError(
            f"data must have one class for each of the {model.num_classes} outputs of the model. "
            f"Received: {len(labels)} classes, "
            f"{', '.join(labels[:8])}"
        )
    if not len(pictures):
        raise ValueError(f"No picture can be read. Received: {str(data)!r}")
    evaluation = evaluate_pictures(model, pictures, labels, settings.batch_size)
    return {**evaluation.metrics(), "skipped": skipped, "ignored": ignored}


def evaluate_pictures(
    model, pictures, labels: tuple[str, ...], batch_size: int, samples=0, mistakes=0, seed=0
) -> Evaluation:
    """Count right and wrong predictions in one pass, and keep some pictures.

    ``samples`` pictures are drawn at random by ``seed``; ``mistakes`` wrong predictions are the
    most confident ones.
    """
    result = Evaluation(labels)
    chosen = np.random.default_rng(abs(seed)).permutation(len(pictures))[:samples]
    wanted, worst, position = set(chosen.tolist()), [], 0
    for pixels, classes in EvaluationBatches(pictures, model.preprocessing, batch_size):
        probabilities = predict(model, pixels, batch_size)
        result.add(probabilities, classes)
        for row, (true, predicted) in enumerate(
            zip(classes.tolist(), probabilities.argmax(axis=1).tolist(), strict=True)
        ):
            name = pictures.names[position] if pictures.names else None
            sample = Sample(pixels[row], true, predicted, float(probabilities[row].max()), name)
            if position in wanted:
                result.samples.append(sample)
            if mistakes and not sample.correct:
                worst.append((-sample.probability, position, sample))
            position += 1
        worst = sorted(worst)[:mistakes]
    result.mistakes = [sample for _, _, sample in worst]
    return result


def interval(share: float, pictures: int) -> tuple[float, float]:
    """Return the 95 % confidence interval of a share of pictures (Wilson, 1927)."""
    z = 1.959964
    weight = z * z / pictures
    center = (share + weight / 2) / (1 + weight)
    half = math.sqrt(share * (1 - share) * weight + weight * weight / 4) / (1 + weight)
    return round(max(center - half, 0.0), 12), round(min(center + half, 1.0), 12)


def in_words(share: float, pictures: int) -> str:
    """Return an accuracy with its interval, as ``"90.0 % (95 % confidence: 79.9 to 95.3 %)"``."""
    low, high = interval(share, pictures)
    return f"{100 * share:.1f} % (95 % confidence: {100 * low:.1f} to {100 * high:.1f} %)"


def classifier_alone(history: list[dict[str, Any]]) -> float | None:
    """Return the validation accuracy after the last epoch of the classifier alone, or None."""
    return next((r["val_accuracy"] for r in reversed(history) if r["phase"] == "head"), None)


def predict(model, pixels: np.ndarray, batch_size: int | None = None) -> np.ndarray:
    """Return probabilities, float64 (N, classes), for uint8 pixels (N, h, w, 3).

    Fewer pictures than ``batch_size`` are filled up, so that one program serves all batches.
    """
    count = len(pixels)
    pixels = np.resize(pixels, (max(batch_size or count, count), *pixels.shape[1:]))
    images = as_input(pixels, model.preprocessing, **input_of(model))
    # Under tf.distribute every replica answers the whole batch.
    outputs = np.asarray(model.predict_on_batch(images), dtype=np.float64)[:count]
    return outputs if model.classifier_activation is not None else of_logits(outputs)


def surprisals(probabilities: np.ndarray) -> np.ndarray:
    """Return -log of (N, classes) probabilities, in nats; those of a picture sum to 1 first.

    Keras's cross-entropy does the same with the outputs of a sigmoid for each class.
    """
    sums = probabilities.sum(axis=1, keepdims=True) if probabilities.shape[1] > 1 else 1.0
    shares = probabilities / np.maximum(sums, 1e-30)
    return -np.log(np.maximum(shares, 1e-30))


def per_class(confusion: np.ndarray, labels: tuple[str, ...]) -> list[dict[str, Any]]:
    """Return precision, recall, F1 and support of each class; a ratio over no pictures is 0."""
    hits = np.diag(confusion).astype(float)
    support, predicted = confusion.sum(axis=1), confusion.sum(axis=0)
    precision, recall = hits / np.maximum(predicted, 1), hits / np.maximum(support, 1)
    f1 = 2 * hits / np.maximum(support + predicted, 1)
    columns = (labels, precision.tolist(), recall.tolist(), f1.tolist(), support.tolist())
    keys = ("label", "precision", "recall", "f1", "support")
    return [dict(zip(keys, row, strict=True)) for row in zip(*columns, strict=True)]
