"""The common base of a network of the zoo and its folded form: pictures in, class names out."""

from __future__ import annotations

import keras

from nf_zoo.models.compilation import loss_of, spare_all_reduce
from nf_zoo.pictures.images import preprocess
from nf_zoo.pictures.predictions import Prediction, decode_predictions


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
