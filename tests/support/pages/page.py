"""Owns the generated parts of a page: the markers around each, what should stand between them, and whether it does.

A page is a file and, for each generated part by name, the function that renders it. In the file a part stands between
`<!-- NAME: begin -->` and `<!-- NAME: end -->`; what is outside of the markers is written by people and never changed.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from tests.support.paths import ROOT

REFRESH = "python -m tests.support.pages"
_LAYOUT = re.compile(r"<!-- laid out by (.+) -->")


@dataclass(frozen=True)
class Page:
    """A Markdown file below the repository's root, and the functions that render its generated parts, by the parts' names."""

    name: str
    parts: Mapping[str, Callable[[], str]] = field(default_factory=dict)

    @property
    def path(self) -> Path:
        return ROOT / self.name

    def rendered(self, part: str) -> str:
        """Return what should stand in the file for a part, its markers included."""
        begin, end = _markers(part)
        return "\n\n".join([begin, f"<!-- Written by `{REFRESH}`; do not edit by hand -->", self.parts[part]().strip("\n"), end])

    def current(self, part: str) -> str:
        """Return what stands in the file for a part, its markers included; ValueError where the file lacks one of the markers."""
        begin, end = _markers(part)
        _, found_begin, rest = self.path.read_text().partition(begin)
        inside, found_end, _ = rest.partition(end)
        if not (found_begin and found_end):
            raise ValueError(f"{self.name} has no generated part {part!r}: write the lines {begin} and {end} where it belongs")
        return begin + inside + end

    def refresh(self) -> bool:
        """Write every part anew and return whether the file has changed."""
        before = after = self.path.read_text()
        for part in self.parts:
            after = after.replace(self.current(part), self.rendered(part))
        if after != before:
            self.path.write_text(after)
        return after != before


def laid_out_by(text: str) -> str | None:
    """Return the library whose version decides a part's line breaks, such as "typer 0.29"; None for a part that says none."""
    found = _LAYOUT.search(text)
    return found[1] if found else None


def _markers(part: str) -> tuple[str, str]:
    return f"<!-- {part}: begin -->", f"<!-- {part}: end -->"
