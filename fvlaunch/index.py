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

from .errors import FvlaunchError
from .files import append_line, read_json, read_lines
from .runs import Run


def state_folder() -> Path:
    base = os.environ.get("XDG_STATE_HOME")
    return (Path(base) if base else Path.home() / ".local" / "state") / "fvlaunch"


def remember(run: Run) -> None:
    """Add a run to the index. An index that can't be written costs a convenience, never a run."""
    try:
        state_folder().mkdir(parents=True, exist_ok=True)
        with FileLock(state_folder() / "runs.lock", timeout=5):
            append_line(state_folder() / "runs.jsonl", {"path": str(run.path.resolve())})
    except (OSError, TimeoutError, NotImplementedError):
        return


def runs_dir_option(given: Path | None) -> Path | None:
    """--runs-dir, else $FVLAUNCH_RUNS; None leaves it to the cluster."""
    if given is not None:
        return given
    named = os.environ.get("FVLAUNCH_RUNS")
    return Path(named) if named else None


def known(runs_dirs: Iterable[Path] = ()) -> list[Run]:
    """Every run of the index and of the given folders that can be read, oldest first. Colleagues' runs in a shared folder can't."""
    paths = [Path(line["path"]) for line in read_lines(state_folder() / "runs.jsonl") if isinstance(line.get("path"), str)]
    for folder in runs_dirs:
        with contextlib.suppress(OSError):
            paths += [entry.resolve() for entry in folder.iterdir()]
    records = {path: read_json(path / "run.json") for path in dict.fromkeys(paths)}
    return [Run(path) for path, record in sorted(records.items(), key=lambda item: _submitted_at(item[1])) if record is not None]


def find(word: str, runs_dirs: Iterable[Path] = ()) -> Run:
    """The run that a person means by a path, a name, a unique prefix of one, a job id, or `last`."""
    if "/" in word or word == ".":
        if (Path(word) / "run.json").is_file():
            return Run(Path(word).resolve())
        raise FvlaunchError(f"{word} is not a run directory", hint="fvlaunch list runs")
    runs = known(runs_dirs)
    if not runs:
        raise FvlaunchError("there are no runs yet", hint="fvlaunch submit shapes-finetune")
    if word == "last":
        return runs[-1]
    for matches in (
        [r for r in runs if r.name == word],
        [r for r in runs if r.name.startswith(word)],
        [r for r in runs if word in ((read_json(r.record_file) or {}).get("job_ids") or ())],
    ):
        if len(matches) == 1:
            return matches[0]
        if matches:
            places = "\n".join(f"  {r.path}" for r in matches[-10:])
            raise FvlaunchError(f"{word!r} means {len(matches)} runs:\n{places}", hint="give more of the name, or the path")
    raise FvlaunchError(f"no run is called {word!r}", hint="fvlaunch list runs")


def _submitted_at(record: dict[str, Any] | None) -> float:
    return float((record or {}).get("submitted_at") or 0)
