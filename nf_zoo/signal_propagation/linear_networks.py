"""The linear residual networks on which the 2020 paper works out its theory."""

from __future__ import annotations

import keras


def linear_residual_network(
    depth: int, width: int, *, batch_norm: bool = False, seed: int = 0
) -> keras.Model:
    """Fully connected residual network without activations: x + W x, or x + W BN(x), repeated.

    The weights are N(0, 1 / width), so that each W preserves the variance of what it gets.

    Args:
        depth: residual blocks.
        width: features of the input and of every block.
        batch_norm: BatchNorm begins every branch.
        seed: of the weights.

    Returns:
        A functional Keras model from vectors (N, width) to vectors (N, width).

    Raises:
        ValueError: if depth or width is no positive integer.

    Source: De & Smith, NeurIPS 2020, section 2.

    Example:
        >>> linear_residual_network(3, 16).output_shape
        (None, 16)
    """
    for name, value in (("depth", depth), ("width", width)):
        if not isinstance(value, int) or value < 1:
            raise ValueError(f"{name} must be a positive integer. Received: {value!r}")
    # A generator of seeds: the same integer for all layers would give them the same weights.
    seeds = keras.random.SeedGenerator(seed)
    x = inputs = keras.Input((width,))
    for block in range(1, depth + 1):
        branch = x
        if batch_norm:
            branch = keras.layers.BatchNormalization(name=f"block{block}_norm")(branch)
        branch = keras.layers.Dense(
            width,
            use_bias=False,
            kernel_initializer=keras.initializers.VarianceScaling(
                1.0, "fan_in", "untruncated_normal", seed=seeds
            ),
            name=f"block{block}_dense",
        )(branch)
        x = keras.layers.Add(name=f"block{block}")([x, branch])
    kind = "batch_norm" if batch_norm else "unnormalized"
    return keras.Model(inputs, x, name=f"linear_{kind}_{depth}x{width}")
