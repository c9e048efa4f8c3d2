"""Owns the decision that follows an attempt: end the run, restart in place, or requeue; budgets by cause, apart.

Pure: it is given what happened and answers. Guards against runs that burn GPUs in a loop, and against runs that give up
because the site preempted them.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from itertools import takewhile
from typing import Protocol

from ..errors import counted
from ..runs.attempts import INTERRUPTIONS, OWN_FAILURES, Attempt, Cause


class Action(str, Enum):
    END = "end"
    RESTART = "restart"
    """In place: same job, same node, new attempt."""
    REQUEUE = "requeue"


class Limits(Protocol):
    """The cluster's `limits` block, as far as the ledger reads it."""

    @property
    def crashes(self) -> int: ...
    @property
    def hangs(self) -> int: ...
    @property
    def out_of_memory(self) -> int: ...
    @property
    def starts_without_progress(self) -> int: ...
    @property
    def interrupted_starts(self) -> int: ...


@dataclass(frozen=True)
class Decision:
    action: Action
    state: str = ""
    """With END: the run's final state."""
    reason: str = ""
    exclude: tuple[str, ...] = ()
    """With REQUEUE: nodes to stay away from."""


_ENDS = {Cause.FINISHED: "finished", Cause.STOPPED: "stopped", Cause.CANCELLED: "cancelled", Cause.NO_RESTART: "failed"}
_IN_WORDS = {Cause.CRASH: "crashed", Cause.HANG: "hung", Cause.OUT_OF_MEMORY: "ran out of memory"}


def decide(attempts: Sequence[Attempt], limits: Limits, *, in_place: bool, can_requeue: bool) -> Decision:
    """Return what follows the last of `attempts` (all of the run; only those of the last one's generation count).

    `in_place`: all ranks are on one node, nobody told the job to end, and enough of the allocation is left.
    `can_requeue`: a scheduler holds the job.
    """
    last = attempts[-1]
    mine = [a for a in attempts if a.generation == last.generation]
    if last.cause in _ENDS:
        return Decision(Action.END, _ENDS[last.cause], _why(last))
    over = _over_budget(mine, limits) or _lacks_gpus(mine)
    if over:
        return Decision(Action.END, "failed", f"{over}\n{_why(last)}".strip())
    if last.cause is Cause.NO_GPU:
        return _away_from(last, can_requeue=can_requeue)
    bad = bad_nodes(mine)
    leave = can_requeue and bool(set(bad_nodes([a for a in mine if _suspect(a)])) & set(last.nodes))
    if in_place and not leave:
        return Decision(Action.RESTART)
    if can_requeue:
        return Decision(Action.REQUEUE, exclude=bad)
    return Decision(Action.END, "stopped", "the machine told the job to end; fvlaunch resume goes on from the last checkpoint")


def may_start(attempts: Sequence[Attempt], limits: Limits, generation: int) -> Decision | None:
    """Return a reason not to start another attempt: the earlier ones of this generation used up a budget. None: go on."""
    mine = [a for a in attempts if a.generation == generation]
    over = _over_budget(mine, limits) if mine else ""
    return Decision(Action.END, "failed", f"{over}\n{_why(mine[-1])}".strip()) if over else None


def _lacks_gpus(attempts: Sequence[Attempt]) -> str:
    """Return why another start would find no GPU either: it was the same on another node, or there is no other node for the job."""
    without = [_node(a) for a in takewhile(lambda a: a.cause is Cause.NO_GPU, reversed(attempts))]
    if len(without) < 2:
        return ""
    others = sorted(set(without[1:]) - {without[0]})
    return f"it was the same on {', '.join(others)}" if others else "no other node was found for the job"


def _away_from(last: Attempt, *, can_requeue: bool) -> Decision:
    """Go on at once on other nodes: a node without its GPUs needs no second strike."""
    if can_requeue:
        return Decision(Action.REQUEUE, exclude=(_node(last),))
    return Decision(Action.END, "failed", _why(last))


def bad_nodes(attempts: Sequence[Attempt]) -> tuple[str, ...]:
    """Nodes with two strikes: two attempts whose first failure was there. What fails alike on two nodes is no node's fault."""
    blamed = [a for a in attempts if a.failure and a.cause in (*OWN_FAILURES, Cause.INTERRUPTED)]
    where: dict[str, set[str]] = {}
    for attempt in blamed:
        where.setdefault(_kind(attempt), set()).add(_node(attempt))
    strikes = Counter(_node(attempt) for attempt in blamed if len(where[_kind(attempt)]) == 1)
    return tuple(sorted(node for node, count in strikes.items() if count >= 2))


_HARDWARE = re.compile(r"killed by|CUDA error|cuDNN|NVLink|Xid|ECC|Bus error|Input/output error|uncorrectable|hardware", re.IGNORECASE)


def _suspect(attempt: Attempt) -> bool:
    """Return whether the failure speaks of the node rather than of the program: a run on one node goes elsewhere for such only."""
    what = attempt.failure.what if attempt.failure else ""
    return attempt.cause in (Cause.INTERRUPTED, Cause.HANG) or bool(_HARDWARE.search(what))


def _kind(attempt: Attempt) -> str:
    """Return a failure without its numbers: a bug fails at another step or address each time. What may be the node's fault stays apart."""
    if _suspect(attempt):
        return f"{attempt.cause} {_node(attempt)}"
    return re.sub(r"0x[0-9a-f]+|\d+", "#", attempt.failure.what if attempt.failure else "")


def _node(attempt: Attempt) -> str:
    return attempt.failure.node if attempt.failure else ""


def _over_budget(attempts: Sequence[Attempt], limits: Limits) -> str:
    failed = _fruitless(attempts, OWN_FAILURES)
    if failed >= limits.starts_without_progress:
        return (
            f"{counted(failed, 'start')} in a row failed without a new step "
            f"(limits.starts_without_progress: {limits.starts_without_progress})"
        )
    interrupted = _fruitless(attempts, INTERRUPTIONS)
    if interrupted >= limits.interrupted_starts:
        return (
            f"{counted(interrupted, 'start')} in a row {'was' if interrupted == 1 else 'were'} interrupted "
            f"without a new step (limits.interrupted_starts: {limits.interrupted_starts})"
        )
    for cause, limit in ((Cause.CRASH, limits.crashes), (Cause.HANG, limits.hangs), (Cause.OUT_OF_MEMORY, limits.out_of_memory)):
        count = sum(1 for a in attempts if a.cause is cause)
        if count > limit:
            key = {Cause.CRASH: "crashes", Cause.HANG: "hangs", Cause.OUT_OF_MEMORY: "out_of_memory"}[cause]
            return f"{_IN_WORDS[cause]} {counted(count, 'time')} (limits.{key}: {limit})"
    return ""


def _fruitless(attempts: Sequence[Attempt], causes: Sequence[Cause]) -> int:
    """Return how many attempts ended by `causes` since one last reached a step that none before it had reached."""
    best, count = 0, 0
    for attempt in attempts:
        reached = attempt.step_to or 0
        if reached > best:
            best, count = reached, 0
        elif attempt.cause in causes:
            count += 1
    return count


def _why(attempt: Attempt) -> str:
    return attempt.failure.explain() if attempt.failure else ""
