"""Owns the table of a package's rooms: what each owns, and which others it may import."""

from __future__ import annotations

from tests.support.pages.markdown import table
from tests.support.paths import ROOT
from tests.support.rooms import ROOMS, docstring

_GROUND = ("errors", "files", "seeding", "__init__")
"""What nearly everything may import: left out of the table's second column."""


def rendered(package: str) -> str:
    """Return the rooms of a package, those that import others before those that are imported."""
    rows = []
    for room, others in ROOMS[package].items():
        if room == "__init__":
            continue
        name = f"[`{room}/`]({room}/)" if (ROOT / package / room).is_dir() else f"`{room}.py`"
        may = ", ".join(other for other in others.split() if other not in _GROUND)
        rows.append([name, _owns(docstring(room, package)), may or "nothing"])
    return table(["room", "what it owns", "may import"], rows)


def _owns(text: str) -> str:
    """Return the first paragraph of a room's docstring, in one line."""
    return " ".join(text.split("\n\n")[0].split())
