"""Order of the pictures, the same for any number of hosts, replicas and interruptions."""

import dataclasses
import functools

import numpy as np


@dataclasses.dataclass(frozen=True)
class Share:
    """One host's share of every batch."""

    host: int = 0  # index of this host
    hosts: int = 1  # number of hosts
    replicas: int = 1  # replicas of this host
    replica_batch: int = 1  # pictures of one replica in a step

    def first(self, replica: int) -> int:
        """Return the position in the whole batch where a local replica's pictures begin."""
        return (self.host * self.replicas + replica) * self.replica_batch

    @property
    def host_batch(self) -> int:
        """Pictures of this host in a step."""
        return self.replicas * self.replica_batch


class Order:
    """Endless sequence of pictures: all of them, in a new random order each round.

    A batch may hold the end of one round and the beginning of the next, so that no picture is
    ever left out and no batch is smaller.
    """

    def __init__(self, seed: int, size: int, batch_size: int):
        self.seed, self.size, self.batch_size = seed, size, batch_size
        # Successive steps ask for the same one or two rounds.
        self._round = functools.lru_cache(maxsize=2)(self._shuffled)

    def indices(self, step: int, first: int = 0, count: int | None = None) -> np.ndarray:
        """Return the pictures ``first`` to ``first + count`` of one step; all by default."""
        count = self.batch_size - first if count is None else count
        serials = step * self.batch_size + first + np.arange(count)
        rounds, places = np.divmod(serials, self.size)
        indices = np.empty(count, "int64")
        for number in np.unique(rounds):
            chosen = rounds == number
            indices[chosen] = self._round(int(number))[places[chosen]]
        return indices

    def _shuffled(self, number: int) -> np.ndarray:
        return np.random.default_rng((self.seed, number)).permutation(self.size)


def evaluation_rows(size: int, share: Share, batch: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return ``(indices, weights)`` of each batch that this host evaluates.

    All replicas have the same number of batches of the same size; rows that fill up a batch have
    weight 0.
    """
    per_host = -(-size // share.hosts)
    batches = -(-per_host // (batch * share.replicas)) * share.replicas
    serials = share.host * per_host + np.arange(batches * batch)
    real = (np.arange(batches * batch) < per_host) & (serials < size)
    indices = np.where(real, serials, 0)
    weights = real.astype("float32")
    return [
        (indices[start : start + batch], weights[start : start + batch])
        for start in range(0, batches * batch, batch)
    ]
