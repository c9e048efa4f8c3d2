"""Owns reading what an attempt's ends mean: its cause, and the first failure in words. Pure.

Must name the rank that failed, not those that only noticed: one dead rank makes every collective fail on the others.
"""

from __future__ import annotations

import re
import signal
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from trainers.control import EXIT_FINISHED, EXIT_NO_RESTART, EXIT_SAVED, EXIT_WRONG_NODE

from ..runs.attempts import Cause, Failure
from ..runs.record_check import COUNT, Shape, list_of

_ECHO = re.compile(
    r"connection (closed|reset|refused)|closed by peer|broken pipe|gloo|nccl|socket|timed out|timeout|watchdog|store|peer|aborted",
    re.IGNORECASE,
)
_CASCADE = re.compile(
    r"^\[rank\d+\]:\[[EWI]|^\[[EWI]\d* |^frame #\d+:|^terminate called|^  what\(\):|^Fatal Python error: Aborted|resource_tracker"
    r"|ProcessGroup(NCCL|Gloo)|TCPStore|[Ww]atchdog|NCCL (WARN|INFO)|destroy_process_group"
)
"""Lines that every rank writes once any of them is gone, and what C++ adds to them."""
_STACK = re.compile(r"^(Current thread|Thread) 0x[0-9a-f]+")
_MEMORY = re.compile(r"out of memory|OutOfMemoryError|MemoryError|DefaultCPUAllocator: can't allocate", re.IGNORECASE)


@dataclass(frozen=True)
class RankEnd:
    """How one rank ended."""

    rank: int
    node: str
    code: int
    """As subprocess tells it: negative for a signal."""
    at: float
    killed_by_agent: bool = False
    step: int | None = None
    told: str = ""
    """Its own words, from control.report("failure")."""
    lines: tuple[str, ...] = ()
    """The end of its log."""

    @property
    def failed(self) -> bool:
        return self.code not in (EXIT_FINISHED, EXIT_SAVED) and not self.killed_by_agent

    @property
    def explains(self) -> bool:
        """Whether this end alone tells why the attempt failed, so that nobody else needs to be heard."""
        return self.failed and explains(self.code, self.told)

    @property
    def is_echo(self) -> bool:
        """Whether it only failed because another rank was gone. Told by the error's own words: a file may be called store.py."""
        return self.code > 0 and self.code != EXIT_NO_RESTART and _echoes(self.told.splitlines() or self.lines[-3:])


def explains(code: int, told: str) -> bool:
    """Return whether a rank that ended so was the first to fail: a signal killed it, or its own words are of something else than its peers.

    Not SIGABRT, by which torch ends a rank whose peers are gone, nor 76 and 77, whose ranks may still be saving.
    """
    if code < 0:
        return code != -signal.SIGABRT
    return code not in (EXIT_FINISHED, EXIT_SAVED, EXIT_NO_RESTART, EXIT_WRONG_NODE) and bool(told) and not _echoes(told.splitlines())


def _echoes(lines: Sequence[str]) -> bool:
    last = "\n".join(_words(lines))
    return bool(_ECHO.search(last)) and not _MEMORY.search(last)


def _words(lines: Sequence[str]) -> list[str]:
    """Return what a traceback says, without where: its lines that are not indented."""
    return [line for line in lines if line and not line.startswith((" ", "\t", "Traceback"))]


@dataclass(frozen=True)
class NodeEnd:
    """How the ranks of one node ended, as its agent saw it; a follower sends it to the head as JSON."""

    node: str
    ends: tuple[RankEnd, ...] = ()
    hung_rank: int | None = None
    hung_waits: bool = False
    """That rank only waited for others, on other nodes, as did all here: by their stacks."""
    memory_kills: int = 0
    """Processes that the kernel killed on this node for want of memory during the attempt."""

    @property
    def explains(self) -> bool:
        """Whether one of its ranks tells why the attempt failed."""
        return any(end.explains for end in self.ends)

    def dump(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def parse(cls, value: dict[str, Any]) -> NodeEnd | None:
        """Return a node's end as its agent wrote it; None where it is damaged, as if it had not come."""
        if not _NODE_END.fits(value):
            return None
        ends = tuple(RankEnd(**{**_RANK_END.known(end), "lines": tuple(end["lines"])}) for end in value["ends"])
        return cls(**{**_NODE_END.known(value), "ends": ends})


_RANK_END = Shape.of(RankEnd, required=("lines",), rank=COUNT)
_NODE_END = Shape.of(NodeEnd, required=("ends",), ends=list_of((_RANK_END.fits, "a rank's end")))


def judge(
    nodes: Sequence[NodeEnd], notice: Cause | None, silent: Sequence[tuple[str, int]] = (), lost: Failure | None = None
) -> tuple[Cause, Failure | None]:
    """Return what ended the attempt, given every node's ends that are known and the notice that was given, if any.

    `silent`: nodes that sent no word, with their first rank: where the others only saw connections break, such a node is lost.
    `lost`: the head gave up on a node.
    """
    ends = [end for node in nodes for end in node.ends]
    if any(end.rank == 0 and end.code == EXIT_FINISHED for end in ends):  # it ends so only after the last checkpoint of all
        return Cause.FINISHED, None
    final = [end for end in ends if end.code == EXIT_NO_RESTART]
    if final:
        return Cause.NO_RESTART, _failure(min(final, key=lambda e: e.at), nodes)
    if notice is not None:
        return notice, None if notice is Cause.CANCELLED else _unsaved(ends, nodes)
    if lost is not None:
        return Cause.INTERRUPTED, lost
    if wrong := [end for end in ends if end.code == EXIT_WRONG_NODE]:
        everywhere = len({end.node for end in wrong}) > 1
        return (Cause.NO_RESTART if everywhere else Cause.NO_GPU), _failure(min(wrong, key=lambda e: e.at), nodes)
    if hung := _hung(nodes):
        return Cause.HANG, hung
    failed = [end for end in ends if end.failed]
    if not failed:
        return Cause.REQUEUED, None  # saved and ended, though nobody here was told to
    first = min(failed, key=lambda e: (e.is_echo, e.at))
    if silent and first.is_echo:
        name, rank = silent[0]
        return Cause.INTERRUPTED, Failure(rank, name, first.step, "this node, or its agent, ended without a word")
    return (Cause.OUT_OF_MEMORY if _out_of_memory(first, nodes) else Cause.CRASH), _failure(first, nodes)


def _unsaved(ends: Sequence[RankEnd], nodes: Sequence[NodeEnd]) -> Failure | None:
    """Return, in one line, how the first rank failed that was to save and end; None: all did, or were killed when their time was over."""
    failed = [end for end in ends if end.failed]
    return replace(_failure(min(failed, key=lambda e: (e.is_echo, e.at)), nodes), lines=()) if failed else None


def times(nodes: Sequence[NodeEnd]) -> dict[str, float]:
    """Return when the first and the last rank ended, by their nodes' clocks: what it took to end the others once one was gone."""
    ended = [round(end.at, 3) for node in nodes for end in node.ends if end.at]
    return {"first_end_at": min(ended), "last_end_at": max(ended)} if ended else {}


def _hung(nodes: Sequence[NodeEnd]) -> Failure | None:
    """Return the rank that held the others up: of those that the nodes' agents name, one that did not wait, else the one least far on."""
    found = [(node, end) for node in nodes for end in node.ends if end.rank == node.hung_rank]
    if not found:
        return None
    node, end = min(found, key=lambda pair: (pair[0].hung_waits, -1 if pair[1].step is None else pair[1].step))
    what = "no progress within the limit; the stacks of all its threads are in its log"
    return Failure(end.rank, node.node, end.step, what, end.lines)


def _out_of_memory(end: RankEnd, nodes: Sequence[NodeEnd]) -> bool:
    if end.code == -signal.SIGKILL:
        return any(node.memory_kills for node in nodes if node.node == end.node)
    return bool(_MEMORY.search(end.told or " ".join(end.lines[-3:])))


def _failure(end: RankEnd, nodes: Sequence[NodeEnd]) -> Failure:
    """Return a rank's end in words: the signal, else its own words, else its exit code; its lines are the end of its log."""
    lines = end.told.strip().splitlines()
    if end.code < 0:
        name = signal.Signals(-end.code).name if -end.code in set(signal.Signals) else str(-end.code)
        killed = " (the kernel, for want of memory)" if _out_of_memory(end, nodes) else ""
        return Failure(end.rank, end.node, end.step, f"killed by {name}{killed}", end.lines)
    if lines and end.code == EXIT_NO_RESTART:  # a sentence for a person, and what helps; no traceback
        return Failure(end.rank, end.node, end.step, lines[0], tuple(lines[1:]) or end.lines)
    return Failure(end.rank, end.node, end.step, lines[-1] if lines else f"ended with code {end.code}", end.lines)


def last_lines(log: str, count: int = 12) -> tuple[str, ...]:
    """Return the end of a rank's log, without blank lines and without what other ranks' failures made it say.

    Of a log that ends with the stacks of its threads: the innermost calls of the thread that was at work.
    """
    kept = [line.rstrip()[:400] for line in log.splitlines() if line.strip()]
    own = [line for line in kept if not _CASCADE.search(line)] or kept
    at_work = max((n for n, line in enumerate(own) if line.startswith("Current thread 0x")), default=None)
    if at_work is not None and all(line.startswith("  File ") or _STACK.match(line) for line in own[at_work:]):
        return tuple(own[at_work : at_work + count])
    return tuple(own[-count:])


def waits_for_others(log: str) -> bool | None:
    """Return whether the stacks at the end of a rank's log show it inside torch: in a collective, or in a step
    that holds one. None: no stacks."""
    block = log.rpartition("Current thread 0x")[2] if "Current thread 0x" in log else ""
    innermost = re.search(r'^  File "([^"]+)"', block, re.MULTILINE)
    return "/torch/" in innermost[1] if innermost else None
