"""Owns reading a file of prompts for a person's own use, such as samples. Must not skip what cannot be read."""

from __future__ import annotations

from pathlib import Path

from ..errors import UserError
from . import listing
from .entries import Columns


def read(path: Path) -> list[str]:
    """Return the prompts of a file, as preprocessing reads it: a line each, JSON, JSON lines or a table. UserError where one cannot be
    used."""
    if not path.is_file():
        raise UserError(f"cannot read {path}: no such file", "a text file with a prompt a line; or .jsonl, .json, .csv")
    found = listing.entries(path, Columns(needs_video=False))
    for entry in found:
        if entry.problem is not None:
            raise UserError(f"{path}: {entry.name}: {entry.problem}")
    return [entry.caption for entry in found]
