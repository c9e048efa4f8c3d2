"""Owns turning the word that was typed for RUN (a name, a prefix, a path, a job id, `last`) into a run or a pipeline.

Must not change either.
"""

from __future__ import annotations

from pathlib import Path

from ..runs import registry
from ..runs.directory import Run
from ..runs.pipeline_directory import Pipeline


def find(word: str, runs_dir: Path | None) -> Run:
    return registry.find(word, [registry.runs_dir_option(runs_dir) or Path("runs")])


def find_any(word: str, runs_dir: Path | None) -> Run | Pipeline:
    return registry.find_any(word, [registry.runs_dir_option(runs_dir) or Path("runs")])
