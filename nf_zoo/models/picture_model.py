"""The common base of a network of the zoo and its folded form: pictures in, class names out."""

from __future__ import annotations

import logging
import re
from typing import Any

import keras

from nf_zoo.pictures.images import preprocess
from nf_zoo.pictures.predictions import Prediction, decode_predictions

logger = logging.getLogger("nf_zoo")


class PictureModel(keras.Model):
    """A Keras model that knows how its pictures are prepared and what its classes are called.

    A subclass sets ``preprocessing``, ``num_classes``, ``classifier_activation`` and ``labels``.
    """

    @property
    def head(self):
        """The classifier layer, or None with ``num_classes=0``."""
        return self.get_layer("head") if self.num_classes else None

    def preprocess(self, images):
        """Pictures -> the array this model takes; see :func:`nf_zoo.preprocess`."""
        return preprocess(images, self)

    def decode_predictions(self, predictions, top: int = 5) -> list[list[Prediction]]:
        """Name the most probable classes; see :func:`nf_zoo.decode_predictions`.

        Args:
            predictions: array (N, num_classes), logits or probabilities, as ``predict`` gives.
            top: classes for each picture.

        Example:
            >>> import nf_zoo
            >>> model = nf_zoo.NFResNet26(num_classes=2, labels=("cat", "dog"))
            >>> model.decode_predictions([[2.0, 0.0]], top=1)[0][0].name
            'cat'
        """
        return decode_predictions(predictions, top=top, labels=self)

    def compile(self, optimizer="rmsprop", loss=None, **kwargs):
        """Configure the model for training, as ``keras.Model.compile`` does.

        Args:
            optimizer: as in Keras.
            loss: as in Keras. The name of a cross-entropy, such as
                ``"sparse_categorical_crossentropy"``, means the one of logits if the classifier
                gives logits.
            **kwargs: as in Keras.
        """
        gives_logits = bool(self.num_classes) and self.classifier_activation is None
        super().compile(optimizer, loss_of(loss, gives_logits), **kwargs)
        spare_all_reduce(self.optimizer)

    def compile_from_config(self, config):
        """Compile as a saved model was compiled. Keras calls it."""
        self.compile(**keras.saving.deserialize_keras_object(config))
        self.optimizer.build(self.trainable_variables)


CROSSENTROPIES = {
    "binary_crossentropy": keras.losses.BinaryCrossentropy,
    "binary_focal_crossentropy": keras.losses.BinaryFocalCrossentropy,
    "categorical_crossentropy": keras.losses.CategoricalCrossentropy,
    "categorical_focal_crossentropy": keras.losses.CategoricalFocalCrossentropy,
    "sparse_categorical_crossentropy": keras.losses.SparseCategoricalCrossentropy,
}
"""Losses of Keras that take probabilities unless told otherwise."""


def loss_of(loss: Any, gives_logits: bool):
    """The loss to compile with.

    Args:
        loss: what the user gave.
        gives_logits: whether the classifier is linear.

    Returns:
        For the name, function or class of a cross-entropy and a linear classifier, that
        cross-entropy of logits; else ``loss`` as it is. A loss object that takes the other kind
        of output than the classifier gives is kept, with one line in the log.
    """
    if isinstance(loss, list | tuple | dict):
        return keras.tree.map_structure(lambda one: loss_of(one, gives_logits), loss)
    name = getattr(loss, "__name__", loss)
    if isinstance(name, str):
        kind = CROSSENTROPIES.get(re.sub(r"(?<!^)(?=[A-Z])", "_", name).lower())
        return kind(from_logits=True) if kind and gives_logits else loss
    takes_logits = getattr(loss, "get_config", dict)().get("from_logits")
    if type(loss) in CROSSENTROPIES.values() and takes_logits != gives_logits:
        logger.warning(
            "The classifier gives %s, but the loss takes %s: write %s(from_logits=%s)",
            *(("logits", "probabilities") if gives_logits else ("probabilities", "logits")),
            type(loss).__name__,
            gives_logits,
        )
    return loss


def spare_all_reduce(optimizer) -> None:
    """Have an optimizer sum gradients over replicas only where there are several.

    Keras sums them even on one device, through a custom gradient, whose closure TensorFlow keeps
    until the process ends: every ``fit`` would leak the weights of its model.
    """
    if keras.backend.backend() != "tensorflow":
        return
    import tensorflow as tf

    while hasattr(optimizer, "inner_optimizer"):
        optimizer = optimizer.inner_optimizer
    sum_over_replicas = getattr(optimizer, "_all_reduce_sum_gradients", None)
    if sum_over_replicas is None or hasattr(sum_over_replicas, "spares_one_replica"):
        return

    def sum_where_several(grads_and_vars):
        if tf.distribute.get_strategy().num_replicas_in_sync == 1:
            return list(grads_and_vars)
        return sum_over_replicas(grads_and_vars)

    sum_where_several.spares_one_replica = True
    optimizer._all_reduce_sum_gradients = sum_where_several
