"""Owns finding runs: the user's index (every run ever submitted from this account) and what RUN on a command line means.

Must not change a run.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from filelock import FileLock

from ..errors import FvlaunchError
from ..files import append_line, read_json, read_lines
from .directory import PIPELINE_FILE, Run
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
    """--runs-dir, else $FVLAUNCH_RUNS; None leaves it to the cluster."""
    if given is not None:
        return given
    named = os.environ.get("FVLAUNCH_RUNS")
    return Path(named) if named else None


def known(runs_dirs: Iterable[Path] = ()) -> list[Run]:
    """Every run that can be read, oldest first, the stages of pipelines too."""
    paths = [str(one.path / stage.name) for one in known_pipelines(runs_dirs) for stage in one.record().stages]
    return _runs_in([*_paths(runs_dirs), *paths])


def known_whole(runs_dirs: Iterable[Path] = ()) -> list[Run | Pipeline]:
    """As `known`, but a pipeline in place of its stages. Each file is read once: there may be thousands."""
    found: list[tuple[float, Run | Pipeline]] = []
    for path in _paths(runs_dirs):
        record = read_json(f"{path}/run.json")
        if record is not None:
            found.append((_submitted_at(record), Run(Path(path), record)))
        elif (folder := read_json(f"{path}/{PIPELINE_FILE}")) is not None:
            found.append((_submitted_at(folder), Pipeline(Path(path))))
    return [one for _, one in sorted(found, key=lambda item: item[0])]


def known_pipelines(runs_dirs: Iterable[Path] = ()) -> list[Pipeline]:
    """Every pipeline that can be read, oldest first."""
    found = [Pipeline(Path(path)) for path in _paths(runs_dirs) if read_json(f"{path}/{PIPELINE_FILE}") is not None]
    return sorted(found, key=lambda one: one.record().submitted_at)


def _paths(runs_dirs: Iterable[Path]) -> list[str]:
    """Folders of the index and in the given ones, each once. Colleagues' runs in a shared folder cannot be read."""
    paths = [line["path"] for line in read_lines(state_folder() / "runs.jsonl") if isinstance(line.get("path"), str)]
    for folder in runs_dirs:
        with contextlib.suppress(OSError):
            entries = os.scandir(folder.resolve())
            paths += [str(Path(entry.path).resolve()) if entry.is_symlink() else entry.path for entry in entries]
    return list(dict.fromkeys(paths))


def _runs_in(paths: Iterable[str]) -> list[Run]:
    records = {path: read_json(f"{path}/run.json") for path in dict.fromkeys(paths)}
    return [Run(Path(path)) for path, record in sorted(records.items(), key=lambda item: _submitted_at(item[1])) if record is not None]


def find(word: str, runs_dirs: Iterable[Path] = ()) -> Run:
    """The run that a person means by a path, a name, a unique prefix of one, a job id, PIPELINE/STAGE, or `last`."""
    found = find_any(word, runs_dirs)
    if isinstance(found, Pipeline):
        stages = ", ".join(run.name for run in found.stages)
        raise FvlaunchError(f"{found.name} is a pipeline, and this is about a single run", hint=f"name a stage of it: {stages}")
    return found


def find_any(word: str, runs_dirs: Iterable[Path] = ()) -> Run | Pipeline:
    """The run or the pipeline that a person means."""
    if "/" in word or word == ".":
        return _by_path(word) or _stage(word, runs_dirs)
    found = known_whole(runs_dirs)
    if not found:
        raise FvlaunchError("there are no runs yet", hint="fvlaunch submit shapes-finetune")
    if word == "last":
        return found[-1]
    for matches in (
        [one for one in found if one.name == word],
        [one for one in found if one.name.startswith(word)],
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
    """PIPELINE/STAGE, the pipeline by its name, a unique prefix, or `last`."""
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


def _submitted_at(record: dict[str, Any] | None) -> float:
    return float((record or {}).get("submitted_at") or 0)
