"""Owns `python -m trainers.sources BLOCK`: what the source of a `preprocess` block holds, as one JSON object on stdout.

BLOCK is a file with the block as JSON. For the launcher, which looks before it submits and must not import this room; nothing is decoded,
and neither torch nor PyAV is loaded.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Sequence
from typing import Any

from pydantic import TypeAdapter

from ..answers import answer
from ..config.programs.preprocess import Config, RewriteConfig
from . import listing

_SHOWN = 5


def main(arguments: Sequence[str]) -> int:
    """Print the answer and return the exit code, as `answer` does."""
    return answer(lambda block: look(TypeAdapter[Any](Config).validate_python(block)), arguments)


def look(block: Any) -> dict[str, Any]:
    """Return what the source holds, where it is a list of clips or prompts.

    entries: their number; usable: of those, the ones that have all they need so far; rejected: reason -> number; problems: the first of
    those as {name, reason, text}; layout: what it was taken for; remarks: lines for a person.
    """
    if isinstance(block, RewriteConfig):
        return {}
    found = listing.read(listing.locate(block.source, block.source_revision), listing.columns(block))
    problems = [(entry.name, entry.problem) for entry in found.entries if entry.problem is not None]
    return {
        "entries": len(found.entries),
        "usable": len(found.entries) - len(problems),
        "rejected": dict(Counter(problem.reason for _, problem in problems).most_common()),
        "problems": [{"name": name, "reason": problem.reason, "text": problem.text} for name, problem in problems[:_SHOWN]],
        "layout": found.layout,
        "remarks": found.remarks,
    }


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
