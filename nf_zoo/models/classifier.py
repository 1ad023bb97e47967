"""The Keras model of every family: trunk, global pooling, classifier."""

import dataclasses
import re
from collections.abc import Sequence
from typing import Any, Self

import keras

from nf_zoo.layers.composite import parts_of, plain_policy, set_states_of_parts, states_of_parts
from nf_zoo.models import registry
from nf_zoo.models.assembly import GraphOptions, Stage, build_graph, count_classes
from nf_zoo.models.configuration import as_json
from nf_zoo.models.picture_model import PictureModel
from nf_zoo.pictures.class_folders import check_lines
from nf_zoo.pictures.preprocessing import Preprocessing


@keras.saving.register_keras_serializable("nf_zoo")
class ImageClassifier(PictureModel):
    """Image classifier of the zoo: a functional Keras model that knows its architecture.

    The factories (``nf_zoo.NFResNet50()``), :func:`nf_zoo.create_model` and :func:`build_model`
    make it and describe its arguments.

    Input: (N, H, W, C) float images, normalized as ``preprocess`` does, or raw 0..255 pixels with
    ``include_preprocessing=True``. Output: (N, num_classes) logits, or what
    ``classifier_activation`` makes of them; (N, features) pooled features with
    ``num_classes=0``. ``keras.models.clone_model`` gives a plain functional model;
    ``model.from_config(model.get_config())`` makes another of this class, with fresh weights.

    Attributes:
        architecture: name in the registry, ``"nf_resnet50"``.
        config: the architecture record, every field resolved.
        weights_tag: tag of the pretrained weights, ``"./name"`` if they are a file, or None.

    Example:
        >>> import nf_zoo
        >>> model = nf_zoo.NFResNet26(num_classes=3)
        >>> model.head.units
        3
    """

    def __init__(
        self,
        architecture: str,
        config,
        *,
        preprocessing=None,
        labels: Sequence[str] | None = None,
        weights_tag: str | None = None,
        name: str | None = None,
        dtype: str | None = None,
        **options: Any,
    ):
        if isinstance(preprocessing, dict):
            preprocessing = Preprocessing.from_dict(preprocessing)
        otherwise = 0 if options.get("features_only") else 1000
        classes = count_classes(options.get("num_classes"), labels, otherwise)
        options = GraphOptions(**{**options, "num_classes": classes})
        if not isinstance(preprocessing, Preprocessing | None):
            raise TypeError(
                "preprocessing must be a Preprocessing or its dict; include_preprocessing=True "
                f"makes the graph normalize pixels. Received: {preprocessing!r}"
            )
        preprocessing = (preprocessing or Preprocessing()).fitted_to(options.input_shape)
        family = registry.architecture(architecture).record
        inputs, outputs, stages, policy = build_graph(family, config, options, preprocessing, dtype)
        super().__init__(inputs, outputs, name=name or architecture)
        self.dtype_policy = policy
        self.architecture, self.config = architecture, config
        self.num_classes = options.num_classes
        self.classifier_activation = options.classifier_activation
        self.include_preprocessing = options.include_preprocessing
        self.preprocessing, self.labels = preprocessing, labels
        self.weights_tag = weights_tag
        self._stages, self._graph_options = stages, options

    @property
    def preprocessing(self) -> Preprocessing:
        """How to prepare the pictures; a graph that normalizes by itself keeps its mean and std."""
        return self._preprocessing

    @preprocessing.setter
    def preprocessing(self, given: Preprocessing) -> None:
        before = getattr(self, "_preprocessing", given)
        if self.include_preprocessing and (given.mean, given.std) != (before.mean, before.std):
            raise ValueError(
                "The graph of this model normalizes by its own mean and std: make another with "
                "with_classifier(num_classes, preprocessing=...). "
                f"Received: mean={given.mean}, std={given.std}"
            )
        self._preprocessing = given

    @property
    def labels(self) -> tuple[str, ...] | None:
        """Class names, or None."""
        return self._labels

    @labels.setter
    def labels(self, given: Sequence[str] | None) -> None:
        count_classes(self.num_classes, given, 0)
        check_lines(() if given is None else given)
        self._labels = None if given is None else tuple(map(str, given))

    @property
    def stages(self) -> tuple[Stage, ...]:
        """Feature maps of the model: name, channels and stride.

        If the model outputs feature maps, these are its outputs, in order; else they are the maps
        of the trunk, which ``out_indices`` indexes.
        """
        options = self._graph_options
        if options.out_indices is None:
            return self.trunk_stages
        return tuple(self.trunk_stages[index] for index in options.out_indices)

    @property
    def trunk_stages(self) -> tuple[Stage, ...]:
        """Feature maps of the trunk, which ``out_indices`` indexes, whatever the outputs are."""
        return self._stages

    @property
    def blocks(self) -> list:
        """Residual blocks, in depth order."""
        return [layer for layer in self.layers if re.fullmatch(r"stage\d+_block\d+", layer.name)]

    def options(self) -> dict[str, Any]:
        """Return the JSON-able options with which ``build_model`` makes this graph.

        They do not include preprocessing, labels, tag, name and dtype.
        """
        return {**as_json(self._graph_options), **self.config.to_dict()}

    def layer_states(self) -> dict[str, Any]:
        """Return the settings made on the model and its layers by hand, JSON-able.

        ``trainable`` is there if the whole model is frozen. ``parts`` has the settings of layers
        by path, as :func:`~nf_zoo.layers.composite.states_of_parts` records them. The dict is
        empty if nothing was set.
        """
        states = {"trainable": self.trainable, "parts": states_of_parts(self)}
        return {key: value for key, value in states.items() if value not in (True, {})}

    def set_layer_states(self, trainable: bool = True, parts: dict[str, Any] | None = None) -> None:
        """Restore the settings that :meth:`layer_states` recorded.

        Raises:
            ValueError: if ``parts`` names a layer that the model does not have.
        """
        if not trainable:
            self.trainable = False
        set_states_of_parts(self, parts or {})

    def get_config(self):
        return {
            "architecture": self.architecture,
            "preprocessing": self.preprocessing.to_dict(),
            "labels": list(self.labels) if self.labels is not None else None,
            "weights_tag": self.weights_tag,
            "name": self.name,
            "dtype": plain_policy(self.dtype_policy),
            **self.options(),
            **self.layer_states(),
        }

    @classmethod
    def from_config(cls, config, custom_objects=None):
        config = dict(config)
        states = {key: config.pop(key) for key in ("trainable", "parts") if key in config}
        name = config.pop("name")
        model = build_model(config.pop("architecture"), model_name=name, **config)
        model.set_layer_states(**states)
        return model

    def with_classifier(
        self, num_classes: int, labels: Sequence[str] | None = None, **overrides
    ) -> Self:
        """Return a new model with this one's body weights and a fresh classifier.

        Args:
            num_classes: width of the new classifier; 0 for pooled features.
            labels: its class names.
            **overrides: any other argument of ``build_model`` (``preprocessing``,
                ``drop_rate``, ``dtype``, ...) that leaves the body's variables as they are.

        Returns:
            an :class:`ImageClassifier`; this model is untouched.

        Raises:
            ValueError: if an override changes the shape of the body.

        Example:
            >>> import nf_zoo
            >>> nf_zoo.NFResNet26().with_classifier(2, labels=("cat", "dog")).num_classes
            2
        """
        # A network of maps, or without pooling, has no place for a classifier.
        pooling = self._graph_options.pooling or "avg"
        pooled = {"features_only": False, "out_indices": None, "pooling": pooling}
        return self._rebuilt(num_classes=num_classes, labels=labels, **{**pooled, **overrides})

    def with_feature_maps(self, out_indices: Sequence[int] | None = None) -> Self:
        """Return a new model with this one's weights that outputs maps of several strides.

        Args:
            out_indices: indices into :attr:`trunk_stages`; None gives all of them.

        Returns:
            an :class:`ImageClassifier` whose output is a list of (N, H / stride, W / stride,
            channels) maps (Keras unpacks a list of one). They are activated as the network's next
            convolution would see them. In a pre-activation BatchNorm network only the last one is;
            the others are as they leave the stage. This model is untouched.

        Raises:
            ValueError: on indices out of range.

        Example:
            >>> import nf_zoo
            >>> model = nf_zoo.NFResNet26().with_feature_maps((1, 2, 3, 4))
            >>> [stage.stride for stage in model.stages]
            [4, 8, 16, 32]
        """
        return self._rebuilt(num_classes=0, features_only=True, out_indices=out_indices)

    def _rebuilt(self, **changes) -> Self:
        options = {
            "preprocessing": self.preprocessing,
            "dtype": self.dtype_policy,
            "weights_tag": self.weights_tag,
            "model_name": self.name,
            **self.options(),
            **changes,
        }
        model = build_model(self.architecture, **options)
        self._hand_on_states(model)
        mine, theirs = variable_names(self), variable_names(model)
        for name, variable in theirs.items():
            if name.startswith("head/"):
                continue
            if name not in mine or mine[name].shape != variable.shape:
                raise ValueError(
                    f"Overrides must leave the body as it is: {name} has no counterpart of shape "
                    f"{tuple(variable.shape)}. Received: {sorted(changes)}"
                )
            # A copy: under JAX training gives up the arrays of its model.
            variable.assign(keras.ops.copy(mine[name]))
            if variable.trainable != mine[name].trainable:
                variable.trainable = mine[name].trainable
        return model

    def _hand_on_states(self, model: Self) -> None:
        """Give the body of ``model`` this one's layer settings; its head stays trainable."""
        names = [{layer.name for layer in parts_of(one)} - {"head"} for one in (self, model)]
        body = names[0] & names[1]
        for name in body:
            model.get_layer(name).trainable = self.get_layer(name).trainable
        states = states_of_parts(self).items()
        set_states_of_parts(model, {p: s for p, s in states if p.partition("/")[0] in body})

    def multiply_adds(self, height: int, width: int) -> int:
        """Return the multiply-adds of convolutions and classifier for one picture of that size.

        Args:
            height: in pixels.
            width: in pixels.

        Example:
            >>> import nf_zoo
            >>> round(nf_zoo.ResNet50().multiply_adds(224, 224) / 1e9, 1)
            4.1
        """
        shape = (1, height, width, self._graph_options.input_shape[-1])
        total = 0
        for layer in self.layers[1:]:  # a chain, except for activations, which keep the shape
            if hasattr(layer, "multiply_adds"):
                total += layer.multiply_adds(shape)
            shape = tuple(layer.compute_output_shape(shape))
        return total + (self.head.kernel.shape[0] * self.num_classes if self.head else 0)


def build_model(
    name: str,
    *,
    variant: str | None = None,
    model_name: str | None = None,
    preprocessing=None,
    labels: Sequence[str] | None = None,
    weights_tag: str | None = None,
    dtype: str | None = None,
    **options: Any,
) -> ImageClassifier:
    """Build a freshly initialized :class:`~nf_zoo.models.classifier.ImageClassifier`.

    Args:
        name: architecture, such as ``"nf_resnet50"``.
        variant: None, or ``"paper"`` for DeepMind's network of that name.
        model_name: Keras name of the model; None gives the architecture's.
        preprocessing: a Preprocessing record or its dict; None for the ImageNet default.
        labels: class names.
        weights_tag: tag of the weights about to be loaded.
        dtype: Keras dtype policy, such as ``"mixed_bfloat16"``; None for the global one.
        **options: any field of :class:`~nf_zoo.models.assembly.GraphOptions` (``num_classes``:
            None gives 1000, or the number of labels) and of the family's record (``depths``,
            ``drop_rate``, ...).

    Raises:
        ValueError: on an unknown architecture or variant, or an illegal value.
        TypeError: on a field that the family does not have.

    Example:
        >>> model = build_model("nf_resnet26", widths=(8, 16, 16, 32), num_classes=5)
        >>> model.output_shape
        (None, 5)
    """
    row = registry.architecture(name)
    graph = {field.name for field in dataclasses.fields(GraphOptions)}
    config = row.configure(variant, **{k: x for k, x in options.items() if k not in graph})
    return ImageClassifier(
        row.name,
        config,
        preprocessing=preprocessing,
        labels=labels,
        weights_tag=weights_tag,
        name=model_name,
        dtype=dtype,
        **{key: value for key, value in options.items() if key in graph},
    )


def variable_names(model: keras.Model) -> dict[str, keras.Variable]:
    """Return the variables by published name, in model order: ``"stage1/block2/conv1/gain"``.

    They are the trainable variables and BN statistics; random states are left out. The names are
    the keys in the zoo's safetensors files.
    """
    return {
        re.sub(r"^(stem|stage\d+)_", r"\1/", name): variable
        for layer in model.layers
        for name, variable in _names_below(layer, f"{layer.name}/").values()
    }


def _names_below(layer, prefix: str) -> dict[int, tuple[str, keras.Variable]]:
    """Return identity -> (name, variable) for all weights of a layer.

    Keras's paths include the scopes in which a model was made; these names do not.
    """
    names = {id(variable): (prefix + variable.name, variable) for variable in layer.weights}
    for part in parts_of(layer):
        names |= _names_below(part, f"{prefix}{part.name}/")
    return names
