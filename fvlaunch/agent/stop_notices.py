"""Owns what the agent is told from outside: signals (taken over from submitit), the allocation's end, the person's intent.

Must not act on ranks. A handler only counts: everything else happens in the agent's loop.
"""

from __future__ import annotations

import signal
import time
from dataclasses import dataclass
from types import FrameType

from ..errors import FvlaunchError
from ..runs.attempts import Cause
from ..runs.directory import Intent
from ..schedulers.base import NoticeCause, SignalReason
from .placement import Placement

FIRST_LEAD_S = 120.0
"""Before a save was measured."""


@dataclass(frozen=True)
class Notice:
    """Why this attempt has to end, and by when the ranks must be back (monotonic clock)."""

    cause: Cause
    deadline: float
    words: str
    requeued: bool = False
    """Not ours to do: the scheduler has put the job back already, or knows better than we whether it comes back."""


class Signals:
    """SIGTERM and SIGUSR2, seen at once: the agent is never inside a collective."""

    def __init__(self) -> None:
        self._pending: list[int] = []

    def install(self) -> None:
        for signum in (signal.SIGTERM, signal.SIGUSR2):
            signal.signal(signum, self._on_signal)
        for signum in (signal.SIGCONT, signal.SIGINT):
            signal.signal(signum, signal.SIG_IGN if signum == signal.SIGINT else signal.SIG_DFL)

    def _on_signal(self, signum: int, _frame: FrameType | None) -> None:
        self._pending.append(signum)

    @property
    def pending(self) -> bool:
        return bool(self._pending)

    def take(self) -> list[int]:
        pending, self._pending = self._pending, []
        return pending


class Clock:
    """When the allocation ends, and how long before that the ranks must be told."""

    def __init__(self, placement: Placement, lead_s: float | None) -> None:
        self._placement, self._fixed_lead = placement, lead_s
        self._save_s: float | None = None
        self._end: float | None = None
        self._length_s = 0.0
        self._ask_again = 0.0
        end, length_s = placement.allocation.end_time, placement.allocation.length_s
        left = _asked_left_s(placement) if end is None else end - time.time()
        if left is not None and length_s is not None:
            left = min(left, length_s)  # this machine's clock is behind
        self._set_left(left)
        self._length_s = length_s or left or 0.0

    def _set_left(self, left_s: float | None) -> None:
        self._end = None if left_s is None else time.monotonic() + left_s

    def saved(self, save_s: float) -> None:
        """A checkpoint took so long to publish; the longest counts."""
        self._save_s = max(save_s, self._save_s or 0.0)

    def lead_s(self) -> float:
        """Time needed to save: the configured one, else from the measured saves; never most of a short allocation."""
        if self._fixed_lead is not None:
            return self._fixed_lead
        lead = FIRST_LEAD_S if self._save_s is None else 2 * self._save_s + 30
        return min(lead, max(self._length_s / 3, 10.0)) if self._length_s else lead

    def left_s(self) -> float | None:
        """Return seconds left of the allocation; None: no end is known."""
        return None if self._end is None else self._end - time.monotonic()

    def due(self) -> bool:
        """Return whether the time to save has come. Asks the scheduler once more first: limits get extended, and
        this machine's clock may be ahead."""
        left = self.left_s()
        if left is None or left > self.lead_s() or time.monotonic() < self._ask_again:
            return False
        asked = _asked_left_s(self._placement)
        if asked is not None:
            self._set_left(asked)
            self._length_s = max(self._length_s, asked)
        left = self.left_s()
        self._ask_again = time.monotonic() + 5
        return left is not None and left <= self.lead_s()


def _asked_left_s(placement: Placement) -> float | None:
    try:
        return placement.scheduler.left_s(placement.job_id)
    except FvlaunchError:
        return None


def understand(signums: list[int], placement: Placement, intent: Intent, clock: Clock, grace_s: float) -> Notice | None:
    """Return what a signal means: the intent first, then the scheduler's own word, then our clock. None: go on."""
    now = time.monotonic()
    soon, until_saved = now + grace_s, now + max(clock.lead_s(), grace_s)
    if intent.want == "cancel":
        return Notice(Cause.CANCELLED, now, "fvlaunch cancel")
    if intent.want == "stop":
        return Notice(Cause.STOPPED, until_saved, "fvlaunch stop")
    if not placement.scheduler.can_requeue:
        return Notice(Cause.STOPPED, until_saved, "the agent was told to end by a signal")
    reason = placement.scheduler.why_signalled(placement.allocation)
    if reason.cause is NoticeCause.NOTICE and signal.SIGTERM not in signums:
        return None  # the scheduler's early reminder (it may come a minute too soon, and our clock knows better), or a person's
    return _explained(reason, now, soon) or _unexplained(signums, clock, now, grace_s)


def _explained(reason: SignalReason, now: float, soon: float) -> Notice | None:
    """Return what the scheduler's own word asks for; None where that word does not settle it."""
    if reason.cause is NoticeCause.CANCELLED:
        return Notice(Cause.CANCELLED, now, "scancel")
    if reason.cause is NoticeCause.PREEMPTION:  # the job's end has been moved to that of the grace time
        return Notice(Cause.PREEMPTION, soon if reason.left_s is None else now + max(reason.left_s - 1, 1), "preempted")
    if reason.cause is NoticeCause.REQUEUED:
        return Notice(Cause.REQUEUED, soon, "requeued by Slurm or an administrator", requeued=True)
    return Notice(Cause.TIME_LIMIT, soon, "time limit") if reason.cause is NoticeCause.TIME_LIMIT else None


def _unexplained(signums: list[int], clock: Clock, now: float, grace_s: float) -> Notice | None:
    """The scheduler could not say. Our own clock decides; a cancelled job must not come back by our doing."""
    left = clock.left_s()
    if left is not None and left <= clock.lead_s():
        return Notice(Cause.TIME_LIMIT, now + max(left - 5, grace_s), "time limit, by our own clock")
    if signal.SIGTERM in signums:
        return Notice(Cause.INTERRUPTED, now + grace_s, "SIGTERM, and the scheduler could not say why", requeued=True)
    return None
