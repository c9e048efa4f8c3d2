"""Owns the check of a record that was read from a file: which fields are missing or of another type, and why a file is no record.

Must not know what a field means, and must be quick: a listing checks thousands of records.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import MISSING, Field, fields
from pathlib import Path
from typing import Any

from ..files import read_bytes

_KINDS: dict[str, tuple[tuple[type, ...], str]] = {
    "str": ((str,), "a text"),
    "int": ((int,), "a whole number"),
    "float": ((int, float), "a number"),
    "str | None": ((str, type(None)), "a text or null"),
    "tuple[str, ...]": ((list, tuple), "a list"),
    "tuple[StageRecord, ...]": ((list, tuple), "a list"),
    "Literal": ((str,), "a text"),
}
"""Annotation of a field, of a literal type its first word -> (what JSON may hold there, in words)."""


class FieldChecks:
    """What the fields of one dataclass have to be, worked out once."""

    def __init__(self, record_type: Any) -> None:
        own: tuple[Field[Any], ...] = fields(record_type)
        self._required = frozenset(f.name for f in own if f.default is MISSING and f.default_factory is MISSING)
        self._types = {f.name: _KINDS[str(f.type).partition("['")[0]] for f in own}

    def mistake(self, value: Mapping[str, Any]) -> str:
        """Return what is wrong with a record's fields, in words; empty where nothing is."""
        if missing := self._required - value.keys():
            return f"lacks {', '.join(name for name in self._types if name in missing)}"
        for name, (types, words) in self._types.items():
            if name in value and not isinstance(value[name], types):
                return f"is wrong: {name} is {str(value[name])[:40]!r}, not {words}"
        return ""


def why_unreadable(path: Path) -> str:
    """Return, in words, why a file holds no JSON object."""
    try:
        value = json.loads(read_bytes(path))
    except FileNotFoundError:
        return "is missing"
    except OSError as error:
        return f"cannot be read: {error.strerror}"
    except ValueError:
        return "is not JSON"
    return "holds no JSON object" if not isinstance(value, dict) else "could not be read a moment ago"
