"""Owns which samples a micro-batch holds: a pure function of (seed, step, micro-batch). Must not keep or need any state.

Nothing is saved for it in a checkpoint: a run that resumes at a step, at any world size, asks for that step's samples.
"""

from __future__ import annotations

import functools

import numpy as np
import numpy.typing as npt

from ..errors import UserError


class Sampler:
    """The samples of one data-parallel rank. An epoch is a permutation of its own, cut to whole global batches.

    Micro-batch m = round * data_parallel + rank holds positions [m * micro, (m + 1) * micro) of its step's global batch.
    """

    def __init__(self, num_samples: int, global_batch: int, micro: int, rank: int, data_parallel: int, seed: int) -> None:
        assert global_batch % (micro * data_parallel) == 0, (global_batch, micro, data_parallel)
        assert 0 <= rank < data_parallel, (rank, data_parallel)
        if num_samples < global_batch:
            raise UserError(
                f"the data has {num_samples} samples, less than one global batch of {global_batch}",
                f"data.global_batch_size: {num_samples} or less, or more data",
            )
        self.num_samples, self.global_batch, self.micro = num_samples, global_batch, micro
        self.rank, self.data_parallel, self.seed = rank, data_parallel, seed
        self.rounds = global_batch // (micro * data_parallel)
        self.steps_per_epoch = num_samples // global_batch

    def indices(self, step: int, round: int) -> list[tuple[int, int]]:
        """(epoch, index) of each sample in this rank's micro-batch of accumulation round `round` of step `step` (both from 0)."""
        assert 0 <= round < self.rounds, (round, self.rounds)
        epoch, step_of_epoch = divmod(step, self.steps_per_epoch)
        first = step_of_epoch * self.global_batch + (round * self.data_parallel + self.rank) * self.micro
        return [(epoch, int(i)) for i in permutation(self.num_samples, self.seed, epoch)[first : first + self.micro]]


@functools.lru_cache(maxsize=2)
def permutation(num_samples: int, seed: int, epoch: int) -> npt.NDArray[np.int64]:
    """The order of an epoch."""
    words = [(number >> shift) & 0xFFFFFFFF for number in (seed, epoch) for shift in (0, 32)]
    return np.random.RandomState(words).permutation(num_samples)  # the one stream that numpy promises never to change
