"""Owns what a line of events.jsonl or attempts/NNNN.jsonl, a heartbeat and a line of metrics hold, as they are read back.

A line that is damaged is left out, and `mistakes_in_lines` says so. Must not decide what an event means.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ..files import numbered_lines, open_to_read, read_json
from .record_check import COUNT, LOSS, NAME, NUMBER, TEXT, TEXTS, TIME, WHOLE, Shape, is_number, or_null

_FAILURE = Shape(
    {"rank": COUNT, "node": TEXT, "step": or_null(WHOLE), "what": TEXT, "lines": TEXTS}, frozenset({"rank", "node", "step", "what"})
)
_EVENT = Shape(
    {
        "event": TEXT,
        "time": TIME,
        "generation": COUNT,
        "attempt": COUNT,
        "job_id": or_null(NAME),
        "restart_count": COUNT,
        "nodes": TEXTS,
        "ranks": COUNT,
        "rank": COUNT,
        "step": or_null(COUNT),
        "save_s": NUMBER,
        "cause": TEXT,
        "failure": or_null((_FAILURE.fits, "a failure")),
        "next": TEXT,
        "state": TEXT,
        "reason": TEXT,
        "words": TEXT,
        "text": TEXT,
        "exclude": TEXTS,
        "node": TEXT,
    },
    frozenset({"event"}),
)
_NEEDED = {
    "started": ("time", "generation", "job_id"),
    "ended": ("cause",),
    "decided": ("next",),
    "checkpoint": ("step",),
    "resumed": ("step",),
}
"""Event -> what nothing can be concluded without."""
_BEAT = Shape(
    {
        "time": TIME,
        "attempt": COUNT,
        "job_id": TEXT,
        "allocation_left_s": or_null(NUMBER),
        "phase": or_null(TEXT),
        "count": COUNT,
        "rank": or_null(COUNT),
        "silent_s": NUMBER,
        "median_step_s": or_null(NUMBER),
        "max_steps": COUNT,
        "waits_for": TEXT,
        "unwritten": (Shape({"since": TIME, "why": TEXT}, frozenset({"since", "why"})).fits, "since when, and why"),
    },
    frozenset(),
)
CURRENT_ATTEMPT = Shape(
    {
        "job_id": TEXT,
        "restart_count": COUNT,
        "generation": COUNT,
        "attempt": COUNT,
        "host": TEXT,
        "port": COUNT,
        "outcome": or_null(TEXT),
    },
    frozenset({"job_id", "restart_count", "generation", "attempt", "host", "port", "outcome"}),
)
"""attempt.json, once an attempt was begun."""
_METRICS = Shape({"step": COUNT, "loss": or_null(LOSS), "step_s": or_null(NUMBER), "attempt": COUNT}, frozenset({"step"}))


def whole_events(lines: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the events that are as they were written, as far as that can be told."""
    return [line for line in lines if not _mistake(line)]


def _mistake(line: Mapping[str, Any]) -> str:
    if mistake := _EVENT.mistake(line):
        return mistake
    missing = [name for name in _NEEDED.get(line["event"], ()) if name not in line]
    return f"lacks {', '.join(missing)}" if missing else ""


def read_heartbeat(path: Path) -> dict[str, Any]:
    """Return what the head agent last said of itself; fields that are damaged are left out."""
    return _BEAT.known(read_json(path) or {})


def whole_metrics(lines: Iterable[dict[str, Any]]) -> Iterable[dict[str, Any]]:
    """Yield the lines of a metrics file that can be used, without losses that are no numbers."""
    for line in lines:
        if _METRICS.fits(line):
            yield {key: value for key, value in line.items() if not key.endswith("_loss") or is_number(value) or isinstance(value, float)}


def mistakes_in_lines(path: Path) -> list[str]:
    """Return which lines of a file of events were left out and why; a last line that its writer could not end is nobody's fault."""
    try:
        with os.fdopen(open_to_read(path), "rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - 1))
            unended = file.read(1) not in (b"", b"\n")
    except FileNotFoundError:
        return []
    except OSError as error:
        return [f"{path.name} cannot be read: {error.strerror}"]
    found = [(number, "is not whole" if line is None else _mistake(line)) for number, line in numbered_lines(path)]
    if unended and found and found[-1][1] == "is not whole":
        del found[-1]
    return [f"line {number} of {path.name} {words}" for number, words in found if words]
