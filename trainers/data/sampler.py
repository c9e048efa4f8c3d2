"""Owns which samples a micro-batch holds: a pure function of (seed, step, micro-batch). Must not keep or need any state.

Nothing is saved for it in a checkpoint: a run that resumes at a step, at any world size, asks for that step's samples.
"""

from __future__ import annotations

import functools

import numpy as np
import numpy.typing as npt

from ..config.counting import counted
from ..errors import UserError

Indices = npt.NDArray[np.int64]


class Sampler:
    """The order of samples of one data-parallel rank. An epoch is a permutation of its own, cut to whole global batches.

    Micro-batch m = round * data_parallel + rank of a step holds positions [m * micro, (m + 1) * micro) of the step's global batch.

    With `block_sizes` (the number of rows of each row group, one after another) the permutation keeps the rows of a block together,
    and micro-batch m of all steps goes through a stretch of it: a rank reads each row group once, whatever the world size, and holds
    as many at a time as it has rounds.
    """

    def __init__(
        self, num_samples: int, global_batch: int, micro: int, rank: int, data_parallel: int, seed: int, block_sizes: Indices | None = None
    ) -> None:
        assert global_batch % (micro * data_parallel) == 0, (global_batch, micro, data_parallel)
        assert 0 <= rank < data_parallel, (rank, data_parallel)
        assert block_sizes is None or block_sizes.sum() == num_samples, (block_sizes, num_samples)
        if num_samples < global_batch:
            raise UserError(
                f"the data has {counted(num_samples, 'sample')}, less than one global batch of {global_batch}",
                f"data.global_batch_size: {num_samples} or less, or more data",
            )
        self.num_samples, self.global_batch, self.micro = num_samples, global_batch, micro
        self.rank, self.data_parallel, self.seed = rank, data_parallel, seed
        self.rounds = global_batch // (micro * data_parallel)
        self.steps_per_epoch = num_samples // global_batch
        self._by_block = block_sizes is not None
        self._order = functools.lru_cache(maxsize=2)(functools.partial(_order, num_samples, block_sizes, seed))

    def indices(self, step: int, round: int) -> list[tuple[int, int]]:
        """Return (epoch, index) of each sample in this rank's micro-batch of accumulation round `round` of step `step` (both from 0)."""
        assert 0 <= round < self.rounds, (round, self.rounds)
        epoch, step_of_epoch = divmod(step, self.steps_per_epoch)
        batch = round * self.data_parallel + self.rank
        if self._by_block:
            first = (batch * self.steps_per_epoch + step_of_epoch) * self.micro
        else:
            first = step_of_epoch * self.global_batch + batch * self.micro
        return [(epoch, int(i)) for i in self._order(epoch)[first : first + self.micro]]


def _order(num_samples: int, block_sizes: Indices | None, seed: int, epoch: int) -> Indices:
    return permutation(num_samples, seed, epoch) if block_sizes is None else block_permutation(block_sizes, seed, epoch)


def permutation(num_samples: int, seed: int, epoch: int) -> Indices:
    """Return the order of an epoch: a permutation of all samples."""
    return _stream(seed, epoch).permutation(num_samples)


def block_permutation(block_sizes: Indices, seed: int, epoch: int) -> Indices:
    """Return the order of an epoch: blocks are shuffled, and the rows inside each, but the rows of a block stay together."""
    stream = _stream(seed, epoch)
    place = stream.permutation(len(block_sizes)).repeat(block_sizes)  # of each row's block
    return np.lexsort((stream.random_sample(len(place)), place))


def _stream(seed: int, epoch: int) -> np.random.RandomState:
    """Return the one random stream that numpy promises never to change."""
    return np.random.RandomState([(number >> shift) & 0xFFFFFFFF for number in (seed, epoch) for shift in (0, 32)])
