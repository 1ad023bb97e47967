"""Groups of parameters that share a learning rate and a weight decay, and their optimizer.

The published names are the same in all families, so one table of patterns serves all.
"""

import dataclasses
import itertools
import re

import keras
from keras import ops

from nf_zoo.models.classifier import ImageClassifier, variable_names
from nf_zoo.optimizers.update_wrapper import UpdateWrapper
from nf_zoo.optimizers.variables import Mark, describe, find, missing

PLACES = (
    (re.compile(r"stem/"), "stem"),
    (re.compile(r"(stage\d+)/block\d+/"), "block"),
    (re.compile(r"final_|features_"), "final"),
)
"""Pattern of a published name -> part of the network that holds the variable."""

DECAYED = re.compile(r"kernel$")
"""Variables with weight decay; gains, biases, skip gains and BatchNorm's scales have none."""


@dataclasses.dataclass(frozen=True)
class ParameterGroup:
    """Variables that are trained alike.

    Attributes:
        name: for example ``"stage3/block2"``, with ``", not decayed"`` if no weight decay acts.
        depth: 0 for the stem; the head has the largest.
        variables: the trainable variables.
        learning_rate_scale: factor on the learning rate, in (0, 1].
        weight_decay: weight decay of these variables.
    """

    name: str
    depth: int
    variables: tuple[keras.Variable, ...]
    learning_rate_scale: float
    weight_decay: float


def parameter_groups(
    model, *, layer_decay: float = 1.0, weight_decay: float = 0.0, by_stage: bool = False
) -> list[ParameterGroup]:
    """Group the trainable variables of a model by depth and by whether weight decay acts on them.

    Stem, residual blocks and the final convolution lie at increasing depth, and the classifier at
    the largest. The classifier is ``model.head`` itself, under any name. In a model around a
    network of the zoo, the layers before the network lie at depth 0, with its stem, and all
    others, such as a new head, at the depth of the head.

    Args:
        model: an :class:`~nf_zoo.models.classifier.ImageClassifier`, or a Keras model that holds
            one.
        layer_decay: base of the factor ``layer_decay ** (largest depth - depth)`` on the learning
            rate; in (0, 1], where 1 trains all layers alike.
        weight_decay: weight decay of the kernels; at least 0.
        by_stage: whether all blocks of a stage lie at one depth.

    Returns:
        Groups in order of depth. Every trainable variable is in exactly one.

    Raises:
        ValueError: if layer_decay or weight_decay is out of range, or the model does not hold
            exactly one network of the zoo.

    Example:
        >>> import keras, nf_zoo
        >>> model = nf_zoo.NFResNet26(num_classes=10)
        >>> groups = nf_zoo.parameter_groups(model, layer_decay=0.75, weight_decay=0.05)
        >>> groups[-1].name, groups[-1].learning_rate_scale
        ('head, not decayed', 1.0)
        >>> optimizer = nf_zoo.GroupedOptimizer(keras.optimizers.Adam(1e-3), groups)
    """
    if not 0.0 < layer_decay <= 1.0:
        raise ValueError(f"layer_decay must be in (0, 1]. Received: {layer_decay!r}")
    if not weight_decay >= 0.0:
        raise ValueError(f"weight_decay must be at least 0. Received: {weight_decay!r}")
    placed = _placed(model, by_stage)
    # Model order is depth order, and the head comes last. Frozen parts keep their depth.
    places = list(dict.fromkeys(place for place, _ in placed))
    rows = [
        (place, bool(DECAYED.search(variable.path)), variable)
        for place, variable in placed
        if variable.trainable
    ]
    deepest = len(places) - 1
    rows.sort(key=lambda row: (places.index(row[0]), not row[1]))
    return [
        ParameterGroup(
            name=place if decayed else f"{place}, not decayed",
            depth=places.index(place),
            variables=tuple(variable for _, _, variable in members),
            learning_rate_scale=layer_decay ** (deepest - places.index(place)),
            weight_decay=weight_decay if decayed else 0.0,
        )
        for (place, decayed), members in itertools.groupby(rows, key=lambda row: row[:2])
    ]


def _placed(model, by_stage: bool):
    """Return (place, variable) pairs of a network, or of a model around one, in order of depth."""
    network = _network(model)
    head = {id(variable) for variable in (network.head.variables if network.head else ())}
    inside = [
        ("head" if id(variable) in head else _place(name, by_stage), variable)
        for name, variable in variable_names(network).items()
    ]
    seen = {id(variable) for _, variable in inside}
    before = _standing_before(model, network)
    around = {id(v): ("stem", v) for layer in before for v in layer.weights if id(v) not in seen}
    seen |= set(around)
    after = [("head", v) for v in model.weights if id(v) not in seen]
    return [*around.values(), *inside, *after]


def _network(model) -> ImageClassifier:
    """Return the one network of the zoo that a model is or holds."""
    if isinstance(model, keras.Model) and not model.built:
        raise ValueError(
            "A model must have variables to be grouped: call model.build(input_shape) first. "
            f"Received: {model.name!r}, which is not built"
        )
    layers = model._flatten_layers() if isinstance(model, keras.layers.Layer) else ()
    networks = [layer for layer in layers if isinstance(layer, ImageClassifier)]
    if len(networks) != 1:
        raise ValueError(
            "The model must be a network of the zoo, or a Keras model around one; if it holds "
            "several, group each by itself. Received: "
            f"{type(model).__name__} with {len(networks)} networks of the zoo"
        )
    return networks[0]


def _standing_before(model, network) -> list[keras.layers.Layer]:
    """Return the layers of a Sequential or functional model that lead to the network."""
    if model is network or not isinstance(model, keras.Model):
        return []
    holder = next(layer for layer in model._layers if network in layer._flatten_layers())
    before = []
    if isinstance(model, keras.Sequential):
        before = itertools.takewhile(lambda layer: layer is not holder, model.layers)
    elif hasattr(model, "operations"):  # a functional model
        before = _upstream(model.operations, holder)
    return [*before, *_standing_before(holder, network)]


def _upstream(operations, layer) -> list[keras.layers.Layer]:
    """Return the operations of a graph that make the input of a layer."""
    todo, found = [layer], []
    while todo:
        nodes = [parent for node in todo.pop()._inbound_nodes for parent in node.parent_nodes]
        # A layer may have been called in other graphs too.
        made = {node.operation for node in nodes}.intersection(operations).difference(found)
        todo += made
        found += made
    return [
        operation
        for operation in operations
        if operation in found and hasattr(operation, "weights")
    ]


def _place(name: str, by_stage: bool) -> str:
    """Return the part of the network: ``"stem"``, ``"stage1/block2"``, ..., ``"final"``."""
    for pattern, place in PLACES:
        match = pattern.match(name)
        if match and place == "block":
            return match[1] if by_stage else match[0].rstrip("/")
        if match:
            return place
    raise ValueError(f"The variable must belong to a network of the zoo. Received: {name!r}")


@keras.saving.register_keras_serializable("nf_zoo")
class GroupedOptimizer(UpdateWrapper):
    """Optimizer that gives each group of parameters its own learning rate and weight decay.

    Decoupled decay is ``weights <- weights - rate * decay * weights`` before the update, with the
    group's own rate. Coupled decay adds ``decay * weights`` to the gradient, so it goes through
    the momentum. The wrapped optimizer must therefore have no weight decay of its own.

    Args:
        optimizer: the Keras optimizer that does the updates, without weight decay of its own:
            ``weight_decay=None``, or 0.0 for AdamW.
        groups: groups from :func:`~nf_zoo.parameter_groups`, with every trainable variable in one.
            A model that is saved and loaded, or cloned, keeps them.
        coupled: add the decay to the gradient, as in the published recipes with SGD (DeepMind
            nfnets ``optim.py``, PyTorch's ``SGD``).
        name: name of the optimizer.

    Raises:
        ValueError: if the wrapped optimizer decays weights itself, or is built with a variable
            that is in none of the groups.

    Example:
        >>> import keras, nf_zoo
        >>> model = nf_zoo.NFResNet26(num_classes=10)
        >>> groups = nf_zoo.parameter_groups(model, layer_decay=0.75, weight_decay=0.05)
        >>> optimizer = nf_zoo.GroupedOptimizer(keras.optimizers.SGD(0.01), groups)
        >>> loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        >>> model.compile(optimizer, loss)
    """

    def __init__(self, optimizer, groups, coupled: bool = False, name: str = "grouped_optimizer"):
        super().__init__(optimizer, name=name)
        while hasattr(optimizer, "inner_optimizer"):
            optimizer = optimizer.inner_optimizer
        own = {key: x for key, x in vars(optimizer).items() if key[0] != "_" and x}
        own = {key: x for key, x in own.items() if key.endswith("weight_decay")}
        if own:
            raise ValueError(
                "The wrapped optimizer must not decay weights, because the groups do: give it "
                "weight_decay=None, or 0.0 for AdamW, and adam_weight_decay=0.0 for Muon. "
                f"Received: {', '.join(f'{key}={x!r}' for key, x in own.items())}"
            )
        self.coupled = bool(coupled)
        self._rows = tuple(_row(group) for group in groups)
        self._settings: tuple[tuple[float, float], ...] = ()

    def prepare(self, variables):
        marks, settings = self._marked()
        known = dict(zip(find(marks, variables), settings, strict=True))
        unknown = [v.path for index, v in enumerate(variables) if index not in known]
        if unknown:
            lost = missing(marks, variables)
            raise ValueError(
                "Every trainable variable must be in a group: pass the groups of "
                f"nf_zoo.parameter_groups(model). Received none with: {unknown[:5]}"
                + (f". Received groups with: {lost}" if lost else "")
            )
        self._settings = tuple(known[index] for index in range(len(variables)))

    def _marked(self) -> tuple[list[Mark], list[tuple[float, float]]]:
        """Return all variables of the groups, and the rate scale and decay of each."""
        marks = [mark for row in self._rows for mark in row[0]]
        return marks, [row[1:] for row in self._rows for _ in row[0]]

    def adjust(self, index, gradient, variable, learning_rate):
        scale, decay = self._settings[index]
        rate = learning_rate * scale
        if decay:
            weights = ops.convert_to_tensor(variable)
            if self.coupled:
                gradient = ops.add(gradient, decay * weights)
            else:
                shrinkage = ops.cast(rate * decay, weights.dtype)
                self.inner_optimizer.assign_sub(variable, weights * shrinkage)
        return gradient, variable, rate

    def get_config(self):
        rows = iter(describe(self._marked()[0], self.trained_variables()))
        groups = [
            {
                "variables": [next(rows) for _ in marks],
                "learning_rate_scale": scale,
                "weight_decay": decay,
            }
            for marks, scale, decay in self._rows
        ]
        return {**super().get_config(), "groups": groups, "coupled": self.coupled}


def _row(group: ParameterGroup | dict) -> tuple[tuple[Mark, ...], float, float]:
    """Return the marks of a group's variables, its rate scale and its decay."""
    if isinstance(group, dict):  # loaded from a file; files of version 0.1.0 have "paths"
        known = group["variables"] if "variables" in group else group["paths"]
        scale, decay = group["learning_rate_scale"], group["weight_decay"]
    else:
        known, scale, decay = group.variables, group.learning_rate_scale, group.weight_decay
    return tuple(Mark.make(one) for one in known), scale, decay
