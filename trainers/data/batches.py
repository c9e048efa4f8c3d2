"""Owns the stream of a run's batches: the sampler's order, the loader processes, and how many bad rows are tolerated.

Must not read rows itself, nor keep state that a checkpoint would have to hold.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Generator, Iterator
from typing import Any

import torch
from torch import Tensor

from ..config.counting import counted
from ..config.data import DataConfig, Needs
from ..errors import UserError
from .dataset import open_samples
from .loader_processes import load
from .sampler import Sampler
from .samples import BadRow

log = logging.getLogger(__name__)

_TOLERATED = 8
"""Number of bad rows that is tolerated whatever their share: one of the first few rows says little about the rest."""


def batches(
    config: DataConfig,
    seed: int,
    *,
    rank: int,
    data_parallel: int,
    accumulation: int,
    micro: int,
    start_step: int,
    max_steps: int,
    needs: Needs = "latents",
    warn: Callable[[str], None] = log.warning,
) -> Generator[list[dict[str, Tensor]], None, None]:
    """Yield, for each step from `start_step` (the number of steps done) below `max_steps`, the batches of its accumulation rounds for this
    rank.

    prompt [B, text_len, D], prompt_mask [B, text_len], index [B]; as the method `needs`, latents [B, T, C, H, W] normalised, or
    trajectory_latents [B, S, T, C, H, W] as stored and trajectory_timesteps [B, S]. `warn` gets each bad row and what was read
    in its place, once; UserError when there are too many.

    The data are checked and the loader processes started at once, before the first item is taken: call it (in the main thread) before
    slow work, such as loading models. `close()` ends the processes.
    """
    samples = open_samples(config, seed, needs, warn=warn)
    sampler = Sampler(len(samples), accumulation * micro * data_parallel, micro, rank, data_parallel, seed, samples.block_sizes)
    for text in (*samples.remarks, *filter(None, [samples.cost(accumulation)])):
        warn(text)
    keys = (sampler.indices(step, r) for step in range(start_step, max_steps) for r in range(accumulation))
    return _steps(load(samples, keys, workers=config.workers), accumulation, _BadRows(config, warn))


def _steps(
    loaded: Iterator[tuple[dict[str, Any], list[BadRow]]], accumulation: int, bad_rows: _BadRows
) -> Generator[list[dict[str, Tensor]], None, None]:
    rounds: list[dict[str, Tensor]] = []
    for batch, bad in loaded:
        bad_rows.add(len(batch["index"]), bad)
        rounds.append({name: torch.from_numpy(values) for name, values in batch.items()})
        if len(rounds) == accumulation:
            yield rounds
            rounds = []


class _BadRows:
    """Counts the bad rows that this rank met in this attempt: each is warned of once, and too many end the run."""

    def __init__(self, config: DataConfig, warn: Callable[[str], None]) -> None:
        self._share, self._warn = config.max_bad_share, warn
        self._read, self._bad = 0, set[int]()

    def add(self, read: int, bad: list[BadRow]) -> None:
        self._read += read
        for row in bad:
            if row.index not in self._bad:
                self._bad.add(row.index)
                self._warn(
                    f"{row.text.splitlines()[0]}; row {row.used} was read in its place ({counted(len(self._bad), 'bad row')} so far)"
                )
        if bad and (not self._share or len(self._bad) > max(_TOLERATED, self._share * self._read)):
            raise UserError(
                f"{len(self._bad)} of the {counted(self._read, 'row')} read {'is' if len(self._bad) == 1 else 'are'} "
                f"bad, more than data.max_bad_share {self._share:g} allows; the last: "
                f"{bad[-1].text.splitlines()[0]}",
                "write the data again; the warnings above name each bad row",
            )
