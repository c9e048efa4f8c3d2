"""Owns what the head agent writes and remembers of a run's attempts: their numbers, their events, and which one is current.

Must not judge an attempt. What is decided by is what happened, so it is remembered here, whether or not it could be written.
"""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Mapping
from typing import Any

from ..config import secrets as secret_values
from ..files import append_line, overwrite_json, publish_json, sealed
from ..runs.attempts import Attempt, attempts_of, read_events, unwritten_events
from ..runs.directory import ATTEMPT_ROOM, Run
from ..runs.run_config import RunConfig, World
from .placement import Placement
from .rank_processes import process_age_s
from .record_writer import RecordWriter

_MOST_UNWRITTEN = ATTEMPT_ROOM - 1200
"""Bytes of events that attempt.json can take beside what stands there anyway."""


class AttemptRecords:
    """The only writer of attempts/NNNN.jsonl and attempt.json."""

    def __init__(self, run: Run, placement: Placement, hidden: Mapping[str, str]) -> None:
        self._run, self._placement, self._secrets = run, placement, hidden
        self.writer = RecordWriter(run.path, lambda told: self.log("unwritten", **told))
        self.number = 0
        """Of the attempt that was begun last by this agent; 0: none yet."""
        self._events: dict[int, list[dict[str, Any]]] = {}
        self._left_over: list[dict[str, Any]] = []
        self._current: dict[str, Any] = {}

    def load(self) -> None:
        """Read what there was before this agent."""
        self._events = read_events(self._run)
        self._left_over = unwritten_events(self._run, self.last) if self._events else []

    @property
    def last(self) -> int:
        """The number of the newest attempt of the run, whoever began it; 0: none."""
        return max(self._events, default=0)

    def attempts(self) -> list[Attempt]:
        return attempts_of(self._run, self._events)

    def begin(self, config: RunConfig, generation: int, world: World) -> None:
        """Put the next attempt on disk: its number, its ranks' configuration and logs, and that it is the current one.

        All of it has to be there before a rank starts: a later attempt is told from this one by it. OSError: nothing has begun, try again.
        """
        number, run = self.last + 1, self._run
        self.writer.settle()
        while self._left_over:
            append_line(run.attempt_log(self.last), self._left_over[0])
            del self._left_over[0]
        publish_json(run.attempts / f"{number:04d}.config.json", config.program)
        run.rank_log(number, 0).parent.mkdir(parents=True, exist_ok=True)
        place = {"job_id": self._placement.job_id, "restart_count": self._placement.restart_count}
        common = {"generation": generation, "attempt": number, **place}
        known = {"nodes": self._placement.hosts, "ranks": world.size, "agent_at": round(time.time() - process_age_s(), 3)}
        started = self._line("started", {**common, **known})
        append_line(run.attempt_log(number), started)
        address = {"host": world.master_address, "port": world.master_port, "nonce": secrets.token_hex(4)}
        self._current = {**common, **address, "outcome": None}
        overwrite_json(run.attempt_file, sealed(self._current), room=ATTEMPT_ROOM)
        self.number, self._events[number] = number, [started]

    def log(self, event: str, **details: Any) -> None:
        """Add an event to the attempt's."""
        if self.number:
            line = self._line(event, details)
            self._events[self.number].append(line)
            self.writer.append(self._run.attempt_log(self.number), line)

    def _line(self, event: str, details: Mapping[str, Any]) -> dict[str, Any]:
        masked = secret_values.redacted(dict(details), self._secrets)
        line: dict[str, Any] = json.loads(json.dumps({"time": time.time(), "event": event, **masked}))
        return line

    def tell_followers(self, outcome: str | None) -> None:
        """Say in attempt.json how the attempt ended. Events that found no room stand there, too: the next life reads them."""
        if self.number:
            unwritten = _fitting(self.writer.waiting(self._run.attempt_log(self.number)))
            self._current = {**self._current, "outcome": outcome}
            self.writer.put(self._run.attempt_file, sealed({**self._current, **({"unwritten": unwritten} if unwritten else {})}))


def _fitting(lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the last of these events, shortened, as many as fit into attempt.json."""
    kept: list[dict[str, Any]] = []
    for line in reversed(lines):
        if len(json.dumps([short := _shortened(line), *kept])) > _MOST_UNWRITTEN:
            break
        kept.insert(0, short)
    return kept


def _shortened(value: Any) -> Any:
    if isinstance(value, str):
        return value[-300:]
    if isinstance(value, list):
        return [_shortened(item) for item in value[-4:]] if value and isinstance(value[0], str) else value
    return {key: _shortened(item) for key, item in value.items()} if isinstance(value, dict) else value
