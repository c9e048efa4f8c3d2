"""Owns what is known of each attempt of a run, read back from its records. Must not decide anything:
agent/restart_policy.py does.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

from .directory import Run
from .events import whole_events
from .last_words import death


class Cause(str, Enum):
    """What ended an attempt."""

    FINISHED = "finished"
    STOPPED = "stopped"
    CANCELLED = "cancelled"
    TIME_LIMIT = "time_limit"
    PREEMPTION = "preemption"
    REQUEUED = "requeued"
    """By Slurm or an administrator, or on a notice nobody explained."""
    INTERRUPTED = "interrupted"
    """The node, or the agent, ended without a word."""
    CRASH = "crash"
    HANG = "hang"
    OUT_OF_MEMORY = "out_of_memory"
    NO_GPU = "no_gpu"
    """A node lacks a GPU that the job was given, or torch cannot use it there."""
    NO_RESTART = "no_restart"
    """The trainer said that a restart cannot help."""
    RUNNING = "running"

    def __str__(self) -> str:
        return self.value


WORKING = ("warming", "stepping", "preprocessing", "downloading", "evaluating")
"""Phases of a rank whose count is how far the run is."""
OWN_FAILURES = (Cause.CRASH, Cause.HANG, Cause.OUT_OF_MEMORY, Cause.NO_GPU)
INTERRUPTIONS = (Cause.TIME_LIMIT, Cause.PREEMPTION, Cause.REQUEUED, Cause.INTERRUPTED)


@dataclass(frozen=True)
class Failure:
    """The first thing that went wrong in an attempt: on which rank and node, at which step, in its own last words."""

    rank: int
    node: str
    step: int | None
    what: str
    lines: tuple[str, ...] = ()

    def explain(self) -> str:
        at = f" at step {self.step}" if self.step is not None else ""
        text = f"rank {self.rank} on {self.node}{at}: {self.what}"
        return "\n".join([text, *(f"  {line}" for line in self.lines)])


@dataclass(frozen=True)
class Attempt:
    number: int
    generation: int
    job_id: str
    nodes: tuple[str, ...]
    started_at: float
    ended_at: float | None
    cause: Cause
    step_from: int | None
    """Step it went on from; None: from the start, or it did not get that far."""
    step_to: int | None
    """Highest step that it is known to have reached."""
    failure: Failure | None = None
    save_s: float | None = None
    """Seconds that its last checkpoint took to publish."""
    next: str = ""
    """What was decided then: end, restart, requeue, resubmit."""
    ranks: int = 1
    excluded: tuple[str, ...] = ()
    """Nodes that the next attempt stays away from."""
    stall_s: float | None = None
    """Seconds that training stood still for its last checkpoint; None: not measured."""
    resumed_at: float | None = None
    """When its ranks had loaded the checkpoint that it went on from."""


def _of_events(run: Run, events: list[dict[str, Any]], number: int, *, newest: bool) -> Attempt | None:
    start = next((e for e in events if e.get("event") == "started"), None)
    if start is None:
        return None
    last: dict[str, dict[str, Any]] = {e["event"]: e for e in events if "event" in e}
    steps = [e["step"] for e in events if isinstance(e.get("step"), int)]
    end = last.get("ended") or _death(run, start, max(steps, default=None))
    failure = end.get("failure")
    return Attempt(
        number=number,
        generation=start["generation"],
        job_id=start["job_id"],
        nodes=tuple(start.get("nodes", ())),
        started_at=start["time"],
        ended_at=end.get("time"),
        cause=Cause(end["cause"]) if end else Cause.RUNNING if newest else Cause.INTERRUPTED,
        step_from=last.get("resumed", {}).get("step"),
        step_to=max(steps, default=None),
        failure=Failure(**{**failure, "lines": tuple(failure.get("lines", ()))}) if failure else None,
        save_s=last.get("checkpoint", {}).get("save_s"),
        next=last.get("decided", {}).get("next", ""),
        ranks=int(start.get("ranks") or 1),
        excluded=tuple(last.get("decided", {}).get("exclude") or ()),
        stall_s=last.get("checkpoint", {}).get("stall_s"),
        resumed_at=last.get("resumed", {}).get("time"),
    )


def _death(run: Run, start: dict[str, Any], step: int | None) -> dict[str, Any]:
    """Return the end of an attempt whose agents could not write it; empty where nothing is known of one."""
    found = death(run, str(start["job_id"]), int(start.get("restart_count") or 0))
    if found is None:
        return {}
    cause, why = found
    if cause != Cause.OUT_OF_MEMORY:
        return {"cause": Cause.INTERRUPTED}
    node = next(iter(start.get("nodes", ())), "")
    what = "the agent itself, not a rank, was killed for want of memory"
    return {"cause": Cause.OUT_OF_MEMORY, "failure": {"rank": 0, "node": node, "step": step, "what": what, "lines": [why] if why else []}}


def read_events(run: Run) -> dict[int, list[dict[str, Any]]]:
    """Return the events of each attempt by its number: those of its file, and the last ones that found no room there."""
    numbers = run.attempt_numbers()
    events = {number: run.attempt_events(number) for number in numbers}
    if numbers and not any(event.get("event") == "decided" for event in events[numbers[-1]]):
        events[numbers[-1]] += unwritten_events(run, numbers[-1])
    return events


def unwritten_events(run: Run, number: int) -> list[dict[str, Any]]:
    """Return an attempt's last events where the disk was full: attempt.json, which is overwritten in place, still took them."""
    current = run.current_attempt()
    lines = current.get("unwritten") if current.get("attempt") == number else None
    return whole_events(line for line in lines if isinstance(line, dict)) if isinstance(lines, list) else []


def attempts_of(run: Run, events: Mapping[int, list[dict[str, Any]]]) -> list[Attempt]:
    """Return the attempts by their events, in order. One whose first line was never written, or whose lines are damaged, is left out.

    An older one without an end was interrupted, and one whose agents died without a word ended as their job's batch script saw it.
    """
    newest = max(events, default=0)
    found = []
    for number in sorted(events):
        with contextlib.suppress(KeyError, TypeError, ValueError):
            found.append(_of_events(run, events[number], number, newest=number == newest))
    return [attempt for attempt in found if attempt is not None]


def read_attempts(run: Run) -> list[Attempt]:
    return attempts_of(run, read_events(run))
