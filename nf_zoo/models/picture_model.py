"""Common base of the zoo's networks and their folded form: pictures in, class names out."""

import inspect
import logging
import re
import warnings
from typing import Any

import keras
import numpy as np

from nf_zoo.models.accumulation import Accumulation, accumulation_of
from nf_zoo.models.replicas import step_as_on_one_device
from nf_zoo.pictures.images import preprocess
from nf_zoo.pictures.predictions import Prediction, decode_predictions

logger = logging.getLogger("nf_zoo")


class PictureModel(Accumulation, keras.Model):
    """Keras model that knows how to prepare its pictures and what its classes are called.

    A subclass sets ``preprocessing``, ``num_classes``, ``classifier_activation`` and ``labels``.
    """

    @property
    def head(self):
        """Classifier layer, or None with ``num_classes=0``."""
        return self.get_layer("head") if self.num_classes else None

    def preprocess(self, images):
        """Turn pictures into the array this model takes; see :func:`nf_zoo.preprocess`."""
        return preprocess(images, self)

    def predict(self, x, *args, **kwargs):
        """Predict as ``keras.Model.predict`` does; warns of pictures that were not preprocessed."""
        if self.preprocessing is not None and not self.include_preprocessing:
            warn_of_raw_pixels(x, self.preprocessing)
        return super().predict(x, *args, **kwargs)

    def decode_predictions(self, predictions, top: int = 5) -> list[list[Prediction]]:
        """Name the most probable classes; see :func:`nf_zoo.decode_predictions`.

        Args:
            predictions: array (N, num_classes) of logits or probabilities, as from ``predict``.
            top: number of classes for each picture.

        Example:
            >>> import nf_zoo
            >>> model = nf_zoo.NFResNet26(num_classes=2, labels=("cat", "dog"))
            >>> model.decode_predictions([[2.0, 0.0]], top=1)[0][0].name
            'cat'
        """
        return decode_predictions(predictions, top=top, labels=self)

    def compile(self, optimizer="rmsprop", loss=None, *, accumulate: int = 1, **kwargs):
        """Configure the model for training, as ``keras.Model.compile`` does.

        Args:
            optimizer: as in Keras. A bound on gradients, such as ``global_clipnorm``, holds for
                the gradient of all replicas together.
            loss: as in Keras. The name of a cross-entropy, such as
                ``"sparse_categorical_crossentropy"``, means the one for logits if the classifier
                gives logits; so do the names of metrics. Those with a threshold, such as
                ``"precision"``, and ``"accuracy"`` with a single logit take logits above 0 for
                class 1.
            accumulate: number of micro-batches that a step of ``fit`` cuts its batch into. In
                networks without batch normalization the step is exactly that of the whole
                batch, in the memory of a part of it; batch normalization uses the statistics
                of each part. Use this in place of the optimizer's
                ``gradient_accumulation_steps``, which updates averages of the weights too often.
            **kwargs: as in Keras.

        Raises:
            ValueError: if ``accumulate`` is below 1, or above 1 with a loss that is not the mean
                over the pictures.

        Example:
            >>> import nf_zoo
            >>> model = nf_zoo.NFResNet26(num_classes=2)
            >>> model.compile("sgd", "sparse_categorical_crossentropy", accumulate=4)
        """
        gives_logits = bool(self.num_classes) and self.classifier_activation is None
        loss = fitting(loss, gives_logits, LOSSES)
        for given in {"metrics", "weighted_metrics"} & set(kwargs):
            kinds = METRICS | (OF_ONE_CLASS if self.num_classes == 1 else {})
            kwargs[given] = fitting(kwargs[given], gives_logits, kinds)
        self.accumulate = accumulation_of(accumulate, loss)
        super().compile(optimizer, loss, **kwargs)
        step_as_on_one_device(self.optimizer)

    def make_train_function(self, force=False):
        """Make what runs the steps of ``fit``. Keras calls this method.

        TensorFlow traces a step twice if the first one makes variables.
        """
        if self.optimizer is not None and not self.optimizer.built:
            self.optimizer.build(self.trainable_variables)
        super().make_train_function(force)

    def get_compile_config(self):
        config = super().get_compile_config()
        return {**config, "accumulate": self.accumulate} if config else config

    def compile_from_config(self, config):
        """Compile as a saved model was compiled. Keras calls this method."""
        self.compile(**keras.saving.deserialize_keras_object(config))
        self.optimizer.build(self.trainable_variables)


LARGEST_NORMALIZED = 10.0
"""Value that few normalized pictures reach; those of ImageNet end at 2.64."""


def warn_of_raw_pixels(images: Any, preprocessing) -> None:
    """Warn if the first pictures of an array or tensor have values that no prepared one has."""
    if not (hasattr(images, "shape") and hasattr(images, "dtype") and len(images.shape)):
        return
    largest = float(np.max(keras.ops.convert_to_numpy(images[:32]), initial=0))
    white = max((1 - m) / s for m, s in zip(preprocessing.mean, preprocessing.std, strict=True))
    if largest > max(LARGEST_NORMALIZED, 1.01 * white):
        warnings.warn(
            "The pictures were probably not preprocessed: pass model.preprocess(pictures) to "
            f"predict. Received: values up to {largest:g}, while the network takes normalized "
            "ones, about -3 to 3",
            stacklevel=3,
        )


LOSSES = {
    "bce": keras.losses.BinaryCrossentropy,
    "binary_crossentropy": keras.losses.BinaryCrossentropy,
    "binary_focal_crossentropy": keras.losses.BinaryFocalCrossentropy,
    "categorical_crossentropy": keras.losses.CategoricalCrossentropy,
    "categorical_focal_crossentropy": keras.losses.CategoricalFocalCrossentropy,
    "sparse_categorical_crossentropy": keras.losses.SparseCategoricalCrossentropy,
}
METRICS = {
    "auc": keras.metrics.AUC,
    "bce": keras.metrics.BinaryCrossentropy,
    "binary_accuracy": keras.metrics.BinaryAccuracy,
    "binary_crossentropy": keras.metrics.BinaryCrossentropy,
    "categorical_crossentropy": keras.metrics.CategoricalCrossentropy,
    "false_negatives": keras.metrics.FalseNegatives,
    "false_positives": keras.metrics.FalsePositives,
    "precision": keras.metrics.Precision,
    "recall": keras.metrics.Recall,
    "sparse_categorical_crossentropy": keras.metrics.SparseCategoricalCrossentropy,
    "true_negatives": keras.metrics.TrueNegatives,
    "true_positives": keras.metrics.TruePositives,
}
"""Losses and metrics of Keras that take probabilities unless told otherwise."""
OF_ONE_CLASS = dict.fromkeys(("acc", "accuracy"), keras.metrics.BinaryAccuracy)
"""What Keras's own name means if there is a single logit."""


def fitting(given: Any, gives_logits: bool, kinds: dict[str, type]):
    """Return the loss or the metrics to compile with.

    For a linear classifier the name, function or class of one of ``kinds`` means that for logits.
    An object that expects the other kind of output is kept, with a warning in the log.
    """
    if isinstance(given, list | tuple | dict):
        return keras.tree.map_structure(lambda one: fitting(one, gives_logits, kinds), given)
    if not isinstance(given, str) and not given_by_keras(given):
        return given
    name = getattr(given, "__name__", given)
    if isinstance(name, str):
        if kinds is LOSSES and gives_logits and name.lower() in ("ce", "crossentropy"):
            return Crossentropy()
        kind = kinds.get(re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).lower())
        if kind is None or not gives_logits:
            return given
        option, wanted = _for_logits(kind)
        named = {} if isinstance(given, type) else {"name": name}  # as Keras names it
        return kind(**named, **{option: wanted})
    if type(given) in kinds.values() and not _fits(given, gives_logits):
        option, wanted = _for_logits(type(given))
        logger.warning(
            "The classifier gives %s, but %s takes %s: write %s(%s=%s)",
            "logits" if gives_logits else "probabilities",
            "the loss" if kinds is LOSSES else "a metric",
            "probabilities" if gives_logits else "logits",
            type(given).__name__,
            option,
            wanted if gives_logits else not wanted,
        )
    return given


def given_by_keras(value: Any) -> bool:
    """Check for a loss or metric of Keras, not of a user who took the same name."""
    own = value if hasattr(value, "__name__") else type(value)
    return getattr(own, "__module__", "").startswith("keras.")


@keras.saving.register_keras_serializable("nf_zoo")
class Crossentropy(keras.losses.Loss):
    """The cross-entropy of logits that fits the targets, chosen as Keras chooses it."""

    def call(self, y_true, y_pred):
        if y_pred.shape[-1] == 1:
            y_true = keras.ops.reshape(y_true, keras.ops.shape(y_pred))
            return keras.losses.binary_crossentropy(y_true, y_pred, from_logits=True)
        if len(y_true.shape) < len(y_pred.shape) or y_true.shape[-1] == 1:
            return keras.losses.sparse_categorical_crossentropy(y_true, y_pred, from_logits=True)
        return keras.losses.categorical_crossentropy(y_true, y_pred, from_logits=True)


def _for_logits(kind: type) -> tuple[str, Any]:
    """Return the argument with which a loss or metric of Keras takes logits, and its value."""
    arguments = inspect.signature(kind).parameters
    options = {"from_logits": True, "threshold": 0.0, "thresholds": 0.0}
    return next((name, value) for name, value in options.items() if name in arguments)


def _fits(given: Any, gives_logits: bool) -> bool:
    """Check that a loss or metric takes what the classifier gives, as far as can be seen."""
    config = given.get_config()
    option, _ = _for_logits(type(given))
    if option == "from_logits":
        return config[option] == gives_logits
    # Precision and recall compare with 0.5 unless told otherwise.
    thresholds = np.ravel(0.5 if config[option] is None else config[option])
    is_unused = config.get("top_k") is not None
    return not gives_logits or is_unused or not np.any((thresholds > 0) & (thresholds < 1))
