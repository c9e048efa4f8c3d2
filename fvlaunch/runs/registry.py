"""Owns the user's index: every run ever submitted from this account, and what lies in runs folders. Must not change a run, nor know what
RUN on a command line means (run_names.py does).
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from filelock import FileLock

from ..errors import FvlaunchError
from ..files import append_line, read_json, read_lines
from .directory import PIPELINE_FILE, Record, Run
from .pipeline_directory import Pipeline
from .record_check import is_number, is_text


def state_folder() -> Path:
    """Return the folder of the index; where nobody has a home, one that does not exist."""
    if base := os.environ.get("XDG_STATE_HOME"):
        return Path(base) / "fvlaunch"
    try:
        return Path.home() / ".local" / "state" / "fvlaunch"
    except RuntimeError:  # HOME is not set, and the account is not known here
        return Path("/nonexistent/fvlaunch")


def remember(path: Path) -> None:
    """Add a run's or a pipeline's folder to the index. An index that can't be written costs a convenience, never a run."""
    if _is_indexed(path):
        return
    try:
        state_folder().mkdir(parents=True, exist_ok=True)
        with FileLock(state_folder() / "runs.lock", timeout=5):
            append_line(state_folder() / "runs.jsonl", {"path": str(path.resolve())})
    except (OSError, TimeoutError, NotImplementedError):
        return


def unremembered(path: Path) -> str:
    """Return what to know of a run or a pipeline that the index could not take; empty where it did."""
    if _is_indexed(path):
        return ""
    return f"warning: it is not in the index ({state_folder()} cannot be written): name it by its path, {path}"


def _is_indexed(path: Path) -> bool:
    """Return whether the index holds a folder, or, of a stage, its pipeline's."""
    known, whole = set(indexed()), path.resolve()
    return str(whole) in known or (str(whole.parent) in known and (whole.parent / PIPELINE_FILE).exists())


def runs_dir_option(given: Path | None) -> Path | None:
    """Return --runs-dir, else $FVLAUNCH_RUNS; None leaves it to the cluster."""
    if given is not None:
        return given
    named = os.environ.get("FVLAUNCH_RUNS")
    return Path(named) if named else None


def known(runs_dirs: Iterable[Path] = ()) -> list[Run]:
    """Return every run whose record is whole, oldest first, the stages of pipelines too."""
    paths = [str(one.path / stage.name) for one in known_pipelines(runs_dirs) for stage in one.record().stages]
    return _runs_in([*_paths(runs_dirs), *paths])


def known_whole(runs_dirs: Iterable[Path] = ()) -> list[Run | Pipeline]:
    """Return every run and pipeline, oldest first, also those whose record is broken; a pipeline stands for its stages.

    Each file is read once: there may be thousands.
    """
    dated: list[tuple[float, Run | Pipeline]] = []
    for path in _paths(runs_dirs):
        record = _record_in(f"{path}/run.json")
        if record is not None:
            dated.append((_submitted_at(record), Run(Path(path), record)))
        elif (record := _record_in(f"{path}/{PIPELINE_FILE}")) is not None:
            dated.append((_submitted_at(record), Pipeline(Path(path))))
    return [one for _, one in sorted(dated, key=lambda item: item[0])]


def _record_in(file: str) -> dict[str, Any] | None:
    """Return the object in a record's file: an empty one where the file is broken, None where there is no file of this person's."""
    record = read_json(file)
    if record is not None:
        return record
    try:
        mine = os.lstat(file).st_uid == os.geteuid()
    except OSError:
        return None
    return {} if mine or os.access(file, os.R_OK) else None  # a colleague's record that cannot be read is not a broken one


def closed(runs_dirs: Iterable[Path]) -> list[str]:
    """Return the folders in runs folders that may not be looked into, such as the runs of a colleague."""
    paths = [path for folder in runs_dirs for path in paths_in(folder)]
    return [path for path in paths if os.path.isdir(path) and not os.access(path, os.R_OK | os.X_OK)]  # noqa: PTH112  as os.scandir has it


def known_pipelines(runs_dirs: Iterable[Path] = ()) -> list[Pipeline]:
    """Return every pipeline whose record is whole, oldest first."""
    dated = []
    for path in _paths(runs_dirs):
        if read_json(f"{path}/{PIPELINE_FILE}") is not None:
            with contextlib.suppress(FvlaunchError):
                dated.append((Pipeline(Path(path)).record().submitted_at, Pipeline(Path(path))))
    return [pipeline for _, pipeline in sorted(dated, key=lambda item: item[0])]


def _paths(runs_dirs: Iterable[Path]) -> list[str]:
    """Return the folders in the index and in the given folders, each once. Colleagues' runs in a shared folder cannot be read."""
    return list(dict.fromkeys([*indexed(), *(path for folder in runs_dirs for path in paths_in(folder))]))


def indexed() -> list[str]:
    """Return the folders of the index, the oldest first."""
    return [line["path"] for line in read_lines(state_folder() / "runs.jsonl") if is_text(line.get("path"))]


def paths_in(folder: Path) -> list[str]:
    """Return what lies in a runs folder, links followed; nothing where it cannot be read."""
    with contextlib.suppress(OSError, RuntimeError, ValueError):
        entries = list(os.scandir(folder.resolve()))
        return [str(Path(entry.path).resolve()) if entry.is_symlink() else entry.path for entry in entries]
    return []


def _runs_in(paths: Iterable[str]) -> list[Run]:
    dated = []
    for path in dict.fromkeys(paths):
        record = read_json(f"{path}/run.json")
        with contextlib.suppress(ValueError):
            if record is not None:
                dated.append((Record.parse(record).submitted_at, Run(Path(path))))
    return [run for _, run in sorted(dated, key=lambda item: item[0])]


def _submitted_at(record: dict[str, Any]) -> float:
    """Return when it was submitted; of a broken record that does not say it, now: the newest are always shown."""
    value = record.get("submitted_at")
    return float(value) if is_number(value) else time.time()  # type: ignore[arg-type]
