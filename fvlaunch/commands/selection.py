"""Owns turning the words that were typed for RUN into runs or pipelines, and who may do what with them. Must not change any."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from ..config.runs_folder import in_force
from ..errors import UsageError
from ..runs import ownership, registry, run_names
from ..runs.directory import Run
from ..runs.pipeline_directory import Pipeline


def folders(runs_dir: Path | None) -> list[Path]:
    """Return the runs folders that a command looks into first: --runs-dir, else $FVLAUNCH_RUNS, else the profile's, else ./runs."""
    folder = in_force(registry.runs_dir_option(runs_dir))
    if os.path.lexists(folder) and not os.path.isdir(folder):  # noqa: PTH112  it says no where pathlib raises
        raise UsageError(
            f"the runs folder {folder} is not a folder, or a link that leads nowhere", hint="--runs-dir DIR, or $FVLAUNCH_RUNS"
        )
    if runs_dir is not None and not os.path.lexists(folder):
        raise UsageError(f"the runs folder {folder} does not exist", hint="mend --runs-dir, or leave it out: fvlaunch list runs")
    ownership.check_readable(folder)
    return [folder]


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
