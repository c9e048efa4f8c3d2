"""Owns the check of what was read from a run's files: which fields are missing or of another type, and why a file is no record.

Must be quick: a listing checks thousands of records. What is wrong is left out or refused here, so that whoever uses a record can trust it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import MISSING, Field, fields
from pathlib import Path
from typing import Any

from ..files import DIGEST, parse_json, read_bytes, was_changed

_MOST = 2**53
"""Beyond it a number of JSON is no longer exact, and no count, size or time is."""
_PLAIN = re.compile(r"(?![.-])[\w.+,=@:\[\]-]{1,200}", re.ASCII)


def is_text(value: object) -> bool:
    """Return whether it is a text that may be a path, a word of a command, or printed: no NUL and no half of a letter."""
    if not isinstance(value, str) or "\0" in value:
        return False
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError:
            return False
    return True


def is_whole(value: object) -> bool:
    return type(value) is int and -_MOST < value < _MOST


def is_number(value: object) -> bool:
    return is_whole(value) or (type(value) is float and math.isfinite(value) and abs(value) < _MOST)


def is_name(value: object) -> bool:
    """Return whether it is a word that can be a folder's name or an argument, and nothing more."""
    return isinstance(value, str) and _PLAIN.fullmatch(value) is not None


def _or_null(check: Callable[[object], bool]) -> Callable[[object], bool]:
    return lambda value: value is None or check(value)


def _list_of(check: Callable[[object], bool]) -> Callable[[object], bool]:
    return lambda value: isinstance(value, list | tuple) and all(map(check, value))


Check = tuple[Callable[[object], bool], str]
"""Whether a value may stand there, and what has to, in words."""
TEXT: Check = (is_text, "a text")
WHOLE: Check = (is_whole, "a whole number")
NUMBER: Check = (is_number, "a number")
LOSS: Check = (lambda value: is_number(value) or type(value) is float, "a number")
"""It may be infinite, or none at all: that is what is to be seen."""
NAME: Check = (is_name, "a name")
COUNT: Check = (lambda value: is_whole(value) and value >= 0, "a whole number from 0 on")  # type: ignore[operator]
TIME: Check = (lambda value: is_number(value) and 0 <= value < 1e11, "a number")  # type: ignore[operator]
TEXTS: Check = (_list_of(is_text), "a list of texts")
TRUTH: Check = (lambda value: isinstance(value, bool), "true or false")
ANY: Check = (lambda _value: True, "anything")


def one_of(words: tuple[str, ...]) -> Check:
    return (lambda value: isinstance(value, str) and value in words), f"one of {', '.join(words)}"


def or_null(check: Check) -> Check:
    return _or_null(check[0]), f"{check[1]} or null"


def list_of(check: Check) -> Check:
    return _list_of(check[0]), f"a list, each {check[1]}"


_KINDS: dict[str, Check] = {
    "str": TEXT,
    "int": WHOLE,
    "float": NUMBER,
    "bool": TRUTH,
    "int | None": or_null(WHOLE),
    "str | None": or_null(TEXT),
    "tuple[str, ...]": TEXTS,
}
"""Annotation of a field -> what JSON may hold there, where a record says nothing else of it."""


class Shape:
    """What an object has to hold: fields by name, and which of them may not be missing. Fields that nobody knows are left out."""

    def __init__(self, checks: Mapping[str, Check], required: frozenset[str]) -> None:
        self._checks, self._required = checks, required

    @classmethod
    def of(cls, record_type: Any, *, required: tuple[str, ...] = (), **checks: Check) -> Shape:
        """Return the shape of a dataclass: its fields without a default are required, and those named besides."""
        own: tuple[Field[Any], ...] = fields(record_type)
        needed = {f.name for f in own if f.default is MISSING and f.default_factory is MISSING}
        return cls({f.name: checks.get(f.name) or _KINDS[str(f.type)] for f in own}, frozenset(needed | set(required)))

    def mistake(self, value: Mapping[str, Any]) -> str:
        """Return what is wrong with an object's fields, in words; empty where nothing is."""
        if missing := self._required - value.keys():
            return f"lacks {', '.join(name for name in self._checks if name in missing)}"
        for name, (fits, words) in self._checks.items():
            if name in value and not fits(value[name]):
                return f"is wrong: {name} is {str(value[name])[:40]!r}, not {words}"
        return ""

    def known(self, value: Mapping[str, Any]) -> dict[str, Any]:
        """Return the fields that are known and as they have to be."""
        return {name: value[name] for name, (fits, _) in self._checks.items() if name in value and fits(value[name])}

    def fits(self, value: object) -> bool:
        return isinstance(value, Mapping) and not self.mistake(value)


def why_unreadable(path: Path) -> str:
    """Return, in words, why a file holds no JSON object, or not the one that was written."""
    try:
        text = read_bytes(path)
        value = parse_json(text)
    except FileNotFoundError:
        return "is missing"
    except OSError as error:
        return f"cannot be read: {error.strerror}"
    except ValueError:
        return "is not JSON"
    if not isinstance(value, dict):
        return "holds no JSON object"
    if was_changed(value, text):
        return f"was changed after it was written: its {DIGEST} does not fit (who means a change of his own takes that line out)"
    return "could not be read a moment ago"
