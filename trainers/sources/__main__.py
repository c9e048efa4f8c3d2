"""Owns `python -m trainers.sources BLOCK`: what the source of a `preprocess` block holds, as one JSON object on stdout.

BLOCK is a file with the block as JSON. For the launcher, which looks before it submits and must not import this room; nothing is decoded,
and neither torch nor PyAV is loaded.
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from ..config.programs.preprocess import Config, RewriteConfig
from ..errors import UserError
from . import listing

_SHOWN = 5


def main(arguments: list[str]) -> int:
    """Print {"error": MESSAGE, "hint": HINT}, or what `look` returns. The exit code is 0 either way."""
    block = TypeAdapter[Any](Config).validate_python(json.loads(Path(arguments[0]).read_text(encoding="utf-8")))
    try:
        found = look(block)
    except UserError as error:
        found = {"error": error.message, "hint": error.hint}
    sys.stdout.write(json.dumps(found) + "\n")
    return 0


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
