"""Owns the figures that are kept: simulated.json for programs, RESULTS.md for people. Must not simulate."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

from tests.gpu import table
from tests.gpu.figures import Figures
from tests.gpu.job import PRESETS

STORED = Path(__file__).with_name("simulated.json")
PAGE = Path(__file__).with_name("RESULTS.md")
_HEAD = """# Simulated: every preset on one rank of its world

What `python -m tests.gpu --keep` measured last, without a GPU; [tests/README.md](../README.md#without-a-gpu) says how and what is not
real in it. Memory is in GB (1e9 bytes) of one rank: *kept* between steps, *peak* what is allocated at once, *reserved* what torch's
allocator took from the device for that. PFLOP are of one rank and one iteration. *Waits* are places where the host waits for the device
and no reason is declared. All figures, by stage, role and operator: [simulated.json](simulated.json).
"""


def stored() -> dict[str, Figures]:
    """Return the kept figures by preset."""
    if not STORED.is_file():
        return {}
    return {preset: Figures.of(content) for preset, content in json.loads(STORED.read_text()).items()}


def keep(new: Iterable[Figures]) -> None:
    """Put figures in the place of those of the same presets."""
    every = {**stored(), **{figures.preset: figures for figures in new}}
    ordered = sorted(every.values(), key=lambda figures: (_place(figures.preset), figures.preset))
    content = {figures.preset: {**figures.plain(), "phases": _without_times(figures)} for figures in ordered}
    STORED.write_text(json.dumps(content, indent=1) + "\n")
    PAGE.write_text(f"{_HEAD}\n{table.of_many(ordered)}\n")


def _place(preset: str) -> int:
    return PRESETS.index(preset) if preset in PRESETS else len(PRESETS)


def _without_times(figures: Figures) -> dict[str, object]:
    """Return the phases without what depends on the machine."""
    return {name: {**phase, "host_s": 0.0} for name, phase in figures.plain()["phases"].items()}
