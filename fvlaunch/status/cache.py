"""Owns a cache of what was said of runs that are over, in the user's state folder: with thousands of them nothing is read twice.

Only a cache: it may be deleted at any time, and what it holds of a run counts only while run.json and the checkpoints' folder are
as they were.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from dataclasses import fields
from pathlib import Path
from typing import Any

from ..files import parse_json, publish_text, read_bytes
from ..runs.directory import Record, Run
from ..runs.registry import state_folder
from .types import RunStatus

MANY = 50
"""Fewer are read afresh each time: that is as fast as reading the cache."""
_FIELDS = [f.name for f in fields(RunStatus)]
_JOB_IDS = _FIELDS.index("job_ids")
_VERSION = " ".join(_FIELDS)


class StatusCache:
    def __init__(self) -> None:
        self._file = state_folder() / "over.json"
        self._runs: dict[str, list[Any]] = _stored(self._file)
        self._new = 0

    def get(self, run: Run, record: Record) -> RunStatus | None:
        found = self._runs.get(str(run.path))
        if found is None or found[0] != _state_of(run, record):
            return None
        values = found[1]
        values[_JOB_IDS] = tuple(values[_JOB_IDS])
        return RunStatus(*values)

    def put(self, run: Run, record: Record, status: RunStatus) -> None:
        self._runs[str(run.path)] = [_state_of(run, record), [getattr(status, name) for name in _FIELDS]]
        self._new += 1

    def save(self) -> None:
        """Write the cache if it is worth it. One that cannot be written costs time, nothing else."""
        if self._new < MANY:
            return
        with contextlib.suppress(OSError):
            self._file.parent.mkdir(parents=True, exist_ok=True)
            text = json.dumps({"fields": _VERSION, "runs": self._runs})
            publish_text(self._file, f"{_checksum(text.encode())}\n{text}")


def _stored(file: Path) -> dict[str, list[Any]]:
    """Return what the file holds; nothing where another version wrote it, or it is not as it was written."""
    try:
        checksum, _, text = read_bytes(file).partition(b"\n")
        value = parse_json(text) if checksum.decode() == _checksum(text) else {}
    except (OSError, ValueError):
        return {}
    return value["runs"] if isinstance(value, dict) and value.get("fields") == _VERSION else {}


def _checksum(text: bytes) -> str:
    return hashlib.blake2b(text, digest_size=8).hexdigest()


def _state_of(run: Run, record: Record) -> list[Any]:
    """Return values that change with whatever may change a run that is over."""
    try:
        checkpoints = os.stat(f"{run.path}/checkpoints").st_mtime_ns  # noqa: PTH116 (thousands)
    except OSError:
        checkpoints = 0
    return [record.updated_at, record.state, checkpoints]
