"""Layers for the end of a branch: SkipInit gain, stochastic depth, dropout."""

import keras
from keras import ops

from nf_zoo.layers.channels import as_float
from nf_zoo.layers.recorded import RecordedLayer

REPLICA_SEED_STEP = 7919


@keras.saving.register_keras_serializable("nf_zoo")
class SkipInit(RecordedLayer):
    """Learnable scalar that multiplies its input, initialized to 0 by default.

    At the end of every residual branch it replaces normalization: at initialization the block is
    the identity, and the network learns how much of each branch to let in.

    Args:
        initial_gain: value at initialization; 0 or at most 1 / sqrt(number of blocks).

    Input and output: any shape, the same. The variable ``gain`` has shape ().

    Source: De & Smith, NeurIPS 2020, section 4.

    Example:
        >>> import numpy as np
        >>> float(SkipInit(initial_gain=0.5)(np.float32(4.0)))
        2.0
    """

    def __init__(self, initial_gain: float = 0.0, **kwargs):
        super().__init__(**kwargs)
        self.initial_gain = float(initial_gain)

    def build(self, input_shape=None):
        initializer = keras.initializers.Constant(self.initial_gain)
        self.gain = self.add_weight(name="gain", shape=(), initializer=initializer)

    def call(self, x):
        x = as_float(self, x)
        return x * ops.cast(self.gain, x.dtype)


class RandomDrop(RecordedLayer):
    """Base class of layers that ``drop`` a share of ``rate`` in training, with a random state.

    The state is saved with the layer, which Keras does not do; resumed training would otherwise
    draw other masks than uninterrupted training.
    """

    def __init__(self, rate: float, seed: int | None = None, **kwargs):
        super().__init__(**kwargs)
        if not 0.0 <= rate < 1.0:
            raise ValueError(f"rate must be in [0, 1). Received: {rate!r}")
        self.rate, self.seed = float(rate), seed
        self.seed_generator = ReplicaSeedGenerator(seed) if rate else None
        self.built = True

    def call(self, x, training=False):
        return self.drop(x) if training and self.rate else x

    def save_own_variables(self, store):
        super().save_own_variables(store)
        if self.seed_generator is not None:
            store["seed_state"] = ops.convert_to_numpy(self.seed_generator.state)

    def load_own_variables(self, store):
        values = {key: store[key] for key in store.keys()}  # noqa: SIM118  not always a dict
        state = values.pop("seed_state", None)
        super().load_own_variables(values)
        if state is not None and self.seed_generator is not None:
            self.seed_generator.state.assign(state)


@keras.saving.register_keras_serializable("nf_zoo")
class ReplicaSeedGenerator(keras.random.SeedGenerator):
    """SeedGenerator that gives every replica of a tf.distribute strategy its own seeds.

    Under a mirrored strategy every replica holds the same generator state and would draw the
    same numbers; the replica's id is folded into the seed.
    """

    def next(self, ordered=True):
        seed = super().next(ordered)
        if keras.backend.backend() != "tensorflow":
            return seed
        import tensorflow as tf

        replica = tf.distribute.get_replica_context()
        if replica is None or replica.num_replicas_in_sync == 1:
            return seed
        shift = tf.cast(replica.replica_id_in_sync_group * REPLICA_SEED_STEP, seed.dtype)
        return seed + tf.stack([tf.zeros_like(shift), shift])


@keras.saving.register_keras_serializable("nf_zoo")
class StochasticDepth(RandomDrop):
    """Drop whole residual branches during training, independently for each sample.

    Args:
        rate: probability that a sample's branch is dropped, in [0, 1).
        rescale: divide the kept branches by ``1 - rate``, so that the expectation does not change
            (timm does, DeepMind's nfnets do not).
        seed: an int, or None for a random one.

    Input and output: (N, ...), the same shape. Nothing happens at inference or with rate 0.

    Raises:
        ValueError: if the rate is outside [0, 1).

    Source: Huang et al., ECCV 2016; DeepMind nfnets ``base.py`` and timm ``DropPath``.

    Example:
        >>> import numpy as np
        >>> layer = StochasticDepth(0.5, rescale=False, seed=0)
        >>> layer(np.ones((8, 1), "float32"), training=True).shape
        TensorShape([8, 1])
    """

    def __init__(self, rate: float, rescale: bool = True, seed: int | None = None, **kwargs):
        super().__init__(rate, seed, **kwargs)
        self.rescale = bool(rescale)

    def drop(self, x):
        shape = (ops.shape(x)[0],) + (1,) * (len(x.shape) - 1)
        drawn = keras.random.uniform(shape, seed=self.seed_generator, dtype="float32")
        keep = ops.cast(drawn >= self.rate, x.dtype)
        if self.rescale:
            keep = keep / (1.0 - self.rate)
        return x * keep


@keras.saving.register_keras_serializable("nf_zoo")
class Dropout(RandomDrop):
    """Dropout with masks that differ per replica and a random state that is saved.

    Args:
        rate: probability that a value is dropped, in [0, 1); the others are divided by 1 - rate.
        seed: an int, or None for a random one.

    Input and output: any shape, the same. Nothing happens at inference or with rate 0.

    Raises:
        ValueError: if the rate is outside [0, 1).

    Example:
        >>> import numpy as np
        >>> Dropout(0.5, seed=0)(np.ones((2, 4), "float32"), training=True).shape
        TensorShape([2, 4])
    """

    def drop(self, x):
        return keras.random.dropout(x, self.rate, seed=self.seed_generator)
