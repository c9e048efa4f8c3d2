"""Owns turning the words that were typed for RUN into runs or pipelines, and who may do what with them. Must not change any."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ..config.runs_folder import in_force
from ..runs import ownership, registry, run_names
from ..runs.directory import Run
from ..runs.pipeline_directory import Pipeline


def folders(runs_dir: Path | None) -> list[Path]:
    """Return the runs folders that a command looks into first: --runs-dir, else $FVLAUNCH_RUNS, else the profile's, else ./runs."""
    return [in_force(registry.runs_dir_option(runs_dir))]


def find(word: str, runs_dir: Path | None, to: str = "") -> Run:
    """Return the run that a word means; `to` do what is for its owner alone, somebody else's is refused."""
    run = run_names.find(word, folders(runs_dir), newest_here=_is_named(runs_dir))
    if to:
        ownership.check_mine(run, to)
    return run


def find_any(word: str, runs_dir: Path | None, to: str = "") -> Run | Pipeline:
    """Return the run or pipeline that a word means, as `find` does."""
    found = run_names.find_any(word, folders(runs_dir), newest_here=_is_named(runs_dir))
    if to:
        ownership.check_mine(found, to)
    return found


def find_several(words: Sequence[str], runs_dir: Path | None) -> list[Run | Pipeline]:
    """Return what words and globs mean, each once."""
    return run_names.find_several(words, folders(runs_dir), newest_here=_is_named(runs_dir))


def _is_named(runs_dir: Path | None) -> bool:
    return registry.runs_dir_option(runs_dir) is not None
