"""Owns which of several ways to compute attention this process takes: the first that may be used here and that gave right results. Must
not know kernels or networks.

Ranks agree: one whose card or package differs would otherwise train with other numbers than the rest.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ...config.counting import counted
from ...distributed.mesh import ParallelContext
from ...errors import UserError

log = logging.getLogger(__name__)

ABSENT = ""
"""Why something is not used that is simply not installed: nothing to tell, unless it was requested by name."""


@dataclass(frozen=True)
class Candidate:
    """One way to compute attention."""

    name: str
    title: str
    """What it is in a sentence, in the plural."""
    case: tuple[object, ...]
    """What it is examined for: once in a process for each name and case."""
    examine: Callable[[], str | None]
    """Returns why it must not be used: None where it may; ABSENT, or words."""


_verdicts: dict[tuple[str, tuple[object, ...]], str | None] = {}


def first(candidates: Sequence[Candidate], otherwise: str, parallel: ParallelContext | None = None) -> str:
    """Return the name of the first candidate that may be used, else `otherwise`; what is skipped, and not just absent, is told. With
    `parallel` the ranks agree. Collective."""
    names = [*(candidate.name for candidate in candidates), otherwise]
    for number, candidate in enumerate(candidates, 1):
        known = (candidate.name, candidate.case) in _verdicts
        why = verdict(candidate, parallel)
        if why is None:
            return candidate.name
        if why != ABSENT and not known:
            text = f"attention: {candidate.title} are not used: {why}; next is {names[number]!r}, which may be slower"
            log.warning(text, extra={"reported": True})
    return otherwise


def required(candidate: Candidate, key: str, absent: str, hint: str, parallel: ParallelContext | None = None) -> None:
    """Raise UserError where a candidate that was requested by the configuration key must not be used. With `parallel` the ranks agree.
    Collective."""
    why = verdict(candidate, parallel)
    if why is not None:
        raise UserError(f"{key}: {candidate.name} was chosen by name, and {why or absent}", hint)


def verdict(candidate: Candidate, parallel: ParallelContext | None) -> str | None:
    """Return why it must not be used, or None. Remembered: later calls need not be collective."""
    key = candidate.name, candidate.case
    if key not in _verdicts:
        mine = candidate.examine()
        _verdicts[key] = mine if parallel is None else _agreed(mine, parallel)
    return _verdicts[key]


def forget() -> None:
    """Forget all verdicts, for tests."""
    _verdicts.clear()


def _agreed(mine: str | None, parallel: ParallelContext) -> str | None:
    """Return None where that is every rank's verdict, else the first rank's that has words. Collective."""
    if not parallel.any_rank(mine is not None)[0]:
        return None
    everyone = parallel.gather(mine)
    against = [(rank, why) for rank, why in enumerate(everyone) if why]
    if not against and None not in everyone:
        return ABSENT
    if not against:
        missing = [rank for rank, why in enumerate(everyone) if why is not None]
        return f"{counted(len(missing), 'rank')} (the first is {missing[0]}) lack what others have"
    rank, why = against[0]
    return why if len(against) == len(everyone) else f"{why} (on {counted(len(against), 'rank')} of {len(everyone)}, the first is {rank})"
