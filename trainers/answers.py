"""Owns how programs that the launcher asks before a submission read the question and print the answer, both JSON. Must not know either."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from .errors import UserError


def answer(look: Callable[[Any], dict[str, Any]], arguments: Sequence[str]) -> int:
    """Print {"error": MESSAGE, "hint": HINT}, or what `look` returns of the question in the file named first; return the exit code, 0."""
    try:
        found = look(json.loads(Path(arguments[0]).read_text(encoding="utf-8")))
    except UserError as error:
        found = {"error": error.message, "hint": error.hint}
    sys.stdout.write(json.dumps(found) + "\n")
    return 0
