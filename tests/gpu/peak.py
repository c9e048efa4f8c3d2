"""Owns who holds the memory at a step's peak: allocations that are alive there, added up by the Python code that made them."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

_SHOWN, _FRAMES = 24, 4
_MOST_EVENTS = 4_000_000


@contextmanager
def noted(what: str) -> Iterator[None]:
    """Print on stderr who holds the peak of what is allocated inside, beyond what was there before."""
    torch.cuda.memory._record_memory_history(context="alloc", stacks="python", max_entries=_MOST_EVENTS)
    yield
    events = torch.cuda.memory._snapshot()["device_traces"][0]
    torch.cuda.memory._record_memory_history(enabled=None)
    print(table(what, events), file=sys.stderr)


def table(what: str, events: list[dict[str, Any]]) -> str:
    highest, end = _peak(events)
    alive: dict[int, dict[str, Any]] = {}
    for event in events[:end]:
        if event["action"] == "alloc":
            alive[event["addr"]] = event
        elif event["action"] == "free_completed":
            alive.pop(event["addr"], None)
    size, number = Counter[str](), Counter[str]()
    for event in alive.values():
        size[_place(event)] += event["size"]
        number[_place(event)] += 1
    lines = [f"{held / 1e9:9.3f} GB in {number[place]:<5} {place}" for place, held in size.most_common(_SHOWN)]
    return "\n".join([f"{what}: {highest / 1e9:.2f} GB more at the peak than before the step, allocated by", *lines])


def _peak(events: list[dict[str, Any]]) -> tuple[int, int]:
    """Return the most bytes that were alive at once, and how many events there were up to then."""
    sizes: dict[int, int] = {}
    now = highest = end = 0
    for number, event in enumerate(events, 1):
        if event["action"] == "alloc":
            sizes[event["addr"]] = event["size"]
            now += event["size"]
        elif event["action"] == "free_completed":
            now -= sizes.pop(event["addr"], 0)
        if now > highest:
            highest, end = now, number
    return highest, end


def _place(event: dict[str, Any]) -> str:
    frames = [frame for frame in event["frames"] if frame["filename"].endswith(".py")][:_FRAMES]
    return " < ".join(f"{Path(frame['filename']).name}:{frame['line']} {frame['name']}" for frame in frames) or "(no Python frame)"
