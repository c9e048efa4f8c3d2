"""Owns the names in the folder that a preprocessing writes, and how much it says to hold. Must not import torch, or open parquet files."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

from .data_folder import PREPROCESS_MARKER
from .stored_json import is_count, read_object

HIDDEN = PREPROCESS_MARKER
"""The folder below the output that holds settings.json and the records."""
SETTINGS = "settings.json"
"""The file in HIDDEN of what all samples have in common."""
RECORDS = "records"
"""The folder in HIDDEN of records, each of which says what became of a range of entries."""
REPORT = "report.json"
"""Says how many entries there are, how many could be used, and what was wrong with the others."""


def settings(output: Path) -> dict[str, Any] | None:
    """Return what the samples of an output have in common; None where none were begun there, or nobody can read it."""
    try:
        return read_object(output / HIDDEN / SETTINGS)
    except (OSError, ValueError):
        return None


def num_written(output: Path) -> int:
    """Return how many samples the records of an output count; 0 where there are none, or none that can be read."""
    count = 0
    for path in (output / HIDDEN / RECORDS).glob("*.json"):
        with contextlib.suppress(OSError, ValueError):
            written = read_object(path).get("written")
            count += written if is_count(written) else 0  # type: ignore[operator]
    return count


def is_unfinished(output: Path) -> bool:
    """Return whether a preprocessing was begun in a folder and has not come to its end there."""
    return (output / HIDDEN / SETTINGS).is_file() and not (output / REPORT).is_file()
