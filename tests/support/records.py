"""Owns the record of a run for the launcher's tests, with a value for every field that a test does not care about."""

from __future__ import annotations

from typing import Any

from fvlaunch.runs.directory import Record


def record(name: str = "a", **changes: Any) -> Record:
    """Return the record of a local run of one rank that a submission has just written: no job yet."""
    base = {"name": name, "recipe": "r", "cluster": "c", "executor": "local", "generation": 1, "token": "t", "max_steps": 10}
    return Record(**{**base, "ranks": 1, "nodes": 1, "submitted_at": 1.0, "updated_at": 1.0, **changes})


def finished_record(name: str = "a", **changes: Any) -> Record:
    """Return the record of a run of 100 steps that its job 7 has finished."""
    return record(name, **{"max_steps": 100, "state": "finished", "job_id": "7", "job_ids": ("7",), **changes})
