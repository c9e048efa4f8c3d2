"""Owns the loop over a task's entries: each is written or rejected, and a stop ends it between two. Must not know any task."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Protocol

from ..control import StopRequested
from ..data.parquet_schema import Storable
from ..sources.entries import Rejected
from .output_shards import Shards


@dataclass(frozen=True)
class Outcome:
    """The outcome of an entry; `kept` is the share of its picture that is left."""

    result: Storable | Rejected
    holdout: bool = False
    kept: float = 1.0


class Task(Protocol):
    """Turns entries into rows."""

    @property
    def names(self) -> Sequence[str]:
        """Return the names of the entries, for a person: entry i is names[i]."""

    def outcomes(self, indices: Sequence[int], waiting: Callable[[], None]) -> Generator[Outcome, None, None]:
        """Yield an outcome for each entry, in order. `waiting` is called now and then while one takes long; it may raise."""


def work(
    task: Task,
    shards: Shards,
    indices: Sequence[int],
    *,
    done: Callable[[int], None],
    stop: Callable[[], bool] = lambda: False,
    warn_crop: float = 1.0,
) -> bool:
    """Work through the entries and return whether the end was reached; what was done is published either way.

    `done` gets the number of entries done.
    """

    def waiting() -> None:
        if stop():
            raise StopRequested

    finished = True
    try:
        try:
            with closing(task.outcomes(indices, waiting)) as outcomes:
                for number, (index, outcome) in enumerate(zip(indices, outcomes, strict=True), 1):
                    _settle(shards, index, task.names[index], outcome, warn_crop)
                    done(number)
                    waiting()
        except StopRequested:
            finished = False
        shards.publish()
    except BaseException:
        shards.abandon()
        raise
    return finished


def _settle(shards: Shards, index: int, name: str, outcome: Outcome, warn_crop: float) -> None:
    if isinstance(outcome.result, Rejected):
        shards.reject(index, name, outcome.result)
        return
    shards.write(index, outcome.result, holdout=outcome.holdout)
    if outcome.kept < 1 - warn_crop:
        shards.note_crop(index, name, outcome.kept)
