"""Owns one attempt on one node: its ranks from start to the last exit, on the head and on followers alike.

Must not decide what comes after: it ends with a NodeEnd. What differs between head and follower comes in as `tick`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from trainers.control import EXIT_FINISHED, EXIT_SAVED

from ..config import secrets as secret_values
from ..runs.attempts import WORKING
from ..runs.directory import Run
from .failure_attribution import NodeEnd, RankEnd, explains, last_lines, waits_for_others
from .hang_detector import HangLimits, Pulse
from .rank_processes import Ranks

POLL_S = 0.1
STACKS_WAIT_S = 2.0
CLEAR_SETTLE_S = 1.0
"""How long the other ranks may take where one has told why: they wait for it, on GPUs for ever, and have nothing to add."""


class Watch:
    """`settle_s`: how long the ranks may take to end by themselves once one of them has failed."""

    def __init__(
        self, run: Run, node: str, ranks: Ranks, limits: HangLimits, settle_s: float, secrets: Mapping[str, str] | None = None
    ) -> None:
        self.run, self.node, self.ranks = run, node, ranks
        self.pulse = Pulse([], limits, time.monotonic())
        self._limits, self._settle_s, self._secrets = limits, settle_s, secrets or {}
        self._deadline: float | None = None
        self._told: dict[int, str] = {}
        self._steps: dict[int, int] = {}
        self.hung_rank: int | None = None
        self._hung_waits = False
        self._memory_kills = _memory_kills()

    def until_over(self, tick: Callable[[list[dict[str, Any]]], None]) -> NodeEnd:
        """Start the ranks and return when none is left. `tick` gets each round's messages; it may call stop or kill."""
        self.ranks.start()
        self.pulse = Pulse([r.rank for r in self.ranks.ranks], self._limits, time.monotonic())
        try:
            while self.ranks.alive():
                messages = self.ranks.poll(POLL_S)
                self._note(messages)
                tick(messages)
                self._enforce()
            tick([])
        finally:
            self.ranks.kill()
            self.ranks.close()
        return self._end()

    def stop(self, deadline: float) -> None:
        """Ask the ranks to save and end; those still there at the deadline (monotonic) are killed."""
        self._deadline = deadline if self._deadline is None else min(deadline, self._deadline)
        self.ranks.ask_to_stop()

    @property
    def is_stopping(self) -> bool:
        return self._deadline is not None

    def kill_soon(self, *, clear: bool = False) -> None:
        """A rank has failed, here or on another node: give those left a moment to say what they saw, a short one where the cause is
        clear."""
        limit = time.monotonic() + (min(CLEAR_SETTLE_S, self._settle_s) if clear else self._settle_s)
        self._deadline = limit if self._deadline is None else min(limit, self._deadline)

    def _note(self, messages: list[dict[str, Any]]) -> None:
        now = time.monotonic()
        for message in messages:
            self.pulse.note(message, now)
            rank = message["rank"]
            if message.get("kind") == "failure":
                self._told[rank] = secret_values.redact(str(message.get("text", "")), self._secrets)
            step = message.get("count") if message.get("phase") in WORKING else message.get("step")
            if isinstance(step, int):
                self._steps[rank] = max(step, self._steps.get(rank, 0))

    def _enforce(self) -> None:
        now = time.monotonic()
        failed = {r.rank: r.exit_code for r in self.ranks.ranks if r.exit_code not in (None, EXIT_FINISHED, EXIT_SAVED)}
        if failed:  # also while stopping: without it the others cannot save
            self.kill_soon(clear=any(explains(code, self._told.get(rank, "")) for rank, code in failed.items() if code is not None))
        if self._deadline is not None and now >= self._deadline:
            self.ranks.kill()
            return
        alive = [r.rank for r in self.ranks.alive()]
        culprit = self.pulse.hung(alive, now) if self._deadline is None else None
        if culprit is not None:
            stopped = self.ranks.stopped()
            self.ranks.dump_stacks()
            time.sleep(STACKS_WAIT_S)
            self.hung_rank = self._by_stacks(culprit) if stopped is None else stopped
            self.ranks.kill()

    def _by_stacks(self, behind: int) -> int:
        """Return the rank that hangs in its own code while the others wait for it in torch. Heartbeats are too coarse to tell by a step."""
        waits = {r.rank: waits_for_others(_tail(r.log)) for r in self.ranks.alive()}
        apart = [rank for rank, waiting in waits.items() if waiting is False]
        self._hung_waits = not apart and all(waits.values())
        return behind if not apart or behind in apart else min(apart)

    def _end(self) -> NodeEnd:
        for rank in self.ranks.ranks:
            secret_values.mask(rank.log, self._secrets)
        ends = tuple(
            RankEnd(
                rank=r.rank,
                node=self.node,
                code=r.exit_code if r.exit_code is not None else -9,
                at=r.exited_at,
                killed_by_agent=r.killed_by_agent,
                step=self._steps.get(r.rank),
                told=self._told.get(r.rank, ""),
                lines=last_lines(_tail(r.log)),
            )
            for r in self.ranks.ranks
        )
        return NodeEnd(self.node, ends, self.hung_rank, self._hung_waits, max(0, _memory_kills() - self._memory_kills))


def _tail(path: Path, size: int = 16384) -> str:
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - size))
            return file.read().decode("utf-8", errors="replace")
    except OSError:
        return ""


def _memory_kills() -> int:
    """Return how often the kernel has killed for want of memory on this machine (in our control group it cannot be told everywhere)."""
    try:
        for line in Path("/proc/vmstat").read_text().splitlines():
            if line.startswith("oom_kill "):
                return int(line.split()[1])
    except (OSError, ValueError):
        pass
    return 0
