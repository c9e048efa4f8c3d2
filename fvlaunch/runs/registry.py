"""Owns finding runs: the user's index (every run ever submitted from this account) and what RUN on a command line means.

Must not change a run.
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


def state_folder() -> Path:
    base = os.environ.get("XDG_STATE_HOME")
    return (Path(base) if base else Path.home() / ".local" / "state") / "fvlaunch"


def remember(path: Path) -> None:
    """Add a run's or a pipeline's folder to the index. An index that can't be written costs a convenience, never a run."""
    try:
        state_folder().mkdir(parents=True, exist_ok=True)
        with FileLock(state_folder() / "runs.lock", timeout=5):
            append_line(state_folder() / "runs.jsonl", {"path": str(path.resolve())})
    except (OSError, TimeoutError, NotImplementedError):
        return


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
    paths = [line["path"] for line in read_lines(state_folder() / "runs.jsonl") if isinstance(line.get("path"), str)]
    for folder in runs_dirs:
        with contextlib.suppress(OSError):
            entries = os.scandir(folder.resolve())
            paths += [str(Path(entry.path).resolve()) if entry.is_symlink() else entry.path for entry in entries]
    return list(dict.fromkeys(paths))


def _runs_in(paths: Iterable[str]) -> list[Run]:
    dated = []
    for path in dict.fromkeys(paths):
        record = read_json(f"{path}/run.json")
        with contextlib.suppress(ValueError):
            if record is not None:
                dated.append((Record.parse(record).submitted_at, Run(Path(path))))
    return [run for _, run in sorted(dated, key=lambda item: item[0])]


def find(word: str, runs_dirs: Iterable[Path] = ()) -> Run:
    """Return the run that a person means by a path, a name, a unique prefix of one, a job id, PIPELINE/STAGE, or `last`."""
    chosen = find_any(word, runs_dirs)
    if isinstance(chosen, Pipeline):
        stages = ", ".join(run.name for run in chosen.stages)
        raise FvlaunchError(f"{chosen.name} is a pipeline, and this is about a single run", hint=f"name a stage of it: {stages}")
    return chosen


def find_any(word: str, runs_dirs: Iterable[Path] = ()) -> Run | Pipeline:
    """Return the run or the pipeline that a person means by the same words."""
    if "/" in word or word == ".":
        return _by_path(word) or _stage(word, runs_dirs)
    runs = known_whole(runs_dirs)
    if not runs:
        raise FvlaunchError("there are no runs yet", hint="fvlaunch submit shapes-finetune")
    if word == "last":
        return runs[-1]
    for matches in (
        [one for one in runs if one.name == word],
        [one for one in runs if one.name.startswith(word)],
        [run for run in known(runs_dirs) if word in ((read_json(run.record_file) or {}).get("job_ids") or ())],
    ):
        if len(matches) == 1:
            return matches[0]
        if matches:
            places = "\n".join(f"  {one.path}" for one in matches[-10:])
            raise FvlaunchError(f"{word!r} means {len(matches)} runs:\n{places}", hint="give more of the name, or the path")
    raise FvlaunchError(f"no run is called {word!r}", hint="fvlaunch list runs")


def _by_path(word: str) -> Run | Pipeline | None:
    path = Path(word)
    if (path / "run.json").is_file():
        return Run(path.resolve())
    return Pipeline(path.resolve()) if (path / PIPELINE_FILE).is_file() else None


def _stage(word: str, runs_dirs: Iterable[Path]) -> Run:
    """Return the run of PIPELINE/STAGE, the pipeline by its name, a unique prefix, or `last`."""
    name, _, stage = word.partition("/")
    pipelines = known_pipelines(runs_dirs)
    exact = [one for one in pipelines if one.name == name] or [one for one in pipelines if name and one.name.startswith(name)]
    chosen = pipelines[-1:] if name == "last" else exact
    runs = [run for one in chosen for run in one.stages if run.path.name == stage]
    if len(runs) == 1:
        return runs[0]
    if len(chosen) == 1:
        raise FvlaunchError(f"{chosen[0].name} has no stage {stage!r}", hint=", ".join(run.name for run in chosen[0].stages))
    raise FvlaunchError(f"{word} is not a run directory", hint="fvlaunch list runs")


def _submitted_at(record: dict[str, Any]) -> float:
    """Return when it was submitted; of a broken record that does not say it, now: the newest are always shown."""
    value = record.get("submitted_at")
    return float(value) if isinstance(value, int | float) else time.time()
