"""Owns what RUN on a command line means: a path, a name, a unique prefix, a glob, a job id, PIPELINE/STAGE, or `last`.

A run in the runs folders in force comes before those that the index knows of other folders. Must not change a run.
"""

from __future__ import annotations

import difflib
import glob
import os
from collections.abc import Callable, Iterable, Sequence
from fnmatch import fnmatchcase
from pathlib import Path

from ..errors import FvlaunchError, NotFound
from . import ownership, registry
from .directory import PIPELINE_FILE, Run
from .pipeline_directory import Pipeline

Found = Run | Pipeline


def find(word: str, folders: Iterable[Path] = (), *, newest_here: bool = False) -> Run:
    """Return the run that a person means; a pipeline is refused with the names of its stages."""
    chosen = find_any(word, folders, newest_here=newest_here)
    if isinstance(chosen, Pipeline):
        raise pipeline_refused(chosen)
    return chosen


def pipeline_refused(pipeline: Pipeline) -> FvlaunchError:
    """Return why a pipeline cannot stand where a single run belongs."""
    stages = ", ".join(run.name for run in pipeline.stages)
    return FvlaunchError(f"{pipeline.name} is a pipeline, and this is about a single run", hint=f"name a stage of it: {stages}")


def find_any(word: str, folders: Iterable[Path] = (), *, newest_here: bool = False) -> Found:
    """Return the run or the pipeline that a person means by one word. `newest_here`: `last` is the newest of the folders in force."""
    found = _meant(word, list(folders), newest_here)
    if len(found) == 1:
        return found[0]
    places = "\n".join(f"  {one.path}" for one in found[-10:])
    same = len({one.name for one in found}) == 1
    hint = "give the path, or --runs-dir" if same else "give more of the name, or the path"
    raise FvlaunchError(f"{word!r} means {len(found)} runs:\n{places}", hint=hint)


def find_several(words: Sequence[str], folders: Iterable[Path] = (), *, newest_here: bool = False) -> list[Found]:
    """Return what several words name, each once; a glob names all that it matches, and it is an error where that is none."""
    folders, found = list(folders), dict[Path, Found]()
    for word in words:
        several = _meant(word, folders, newest_here) if is_glob(word) else [find_any(word, folders, newest_here=newest_here)]
        found |= {one.path: one for one in several}
    return list(found.values())


def is_glob(word: str) -> bool:
    return any(mark in word for mark in "*?[") and not os.path.lexists(word)


def _meant(word: str, folders: Sequence[Path], newest_here: bool) -> list[Found]:
    """Return what a word may mean, by the first way of reading it that finds something; NotFound where none does."""
    if "\0" in word or not word:
        raise NotFound(f"{word!r} cannot name a run", hint="fvlaunch list runs")
    if is_glob(word):
        return _globbed(word, folders)
    places = [Path(word)] if "/" in word or word == "." else []
    for place in [*places, *(folder / word for folder in folders if word not in (".", "..", "last") and not word.startswith("/"))]:
        if (run := at(place)) is not None:
            return [run]
    if "/" in word or word == ".":
        return [_stage(word, folders)]
    runs = registry.known_whole(folders)
    if not runs:
        raise NotFound("there are no runs yet", hint="fvlaunch submit shapes-finetune")
    here, elsewhere = _by_folder(runs, folders)
    if word == "last":
        mine = [one for one in (newest_here and here) or runs if ownership.is_mine(one.path)]
        return mine[-1:] or [runs[-1]]
    for matches in _readings(word, here, elsewhere, folders):
        if matches:
            return matches
    raise _unknown(word, runs, folders)


def _readings(word: str, here: list[Found], elsewhere: list[Found], folders: Sequence[Path]) -> Iterable[list[Found]]:
    """Yield what has the name elsewhere, then what begins with it, here and elsewhere, then the runs that had a job of that number."""
    yield [one for one in elsewhere if one.name == word]
    yield [one for one in here if one.name.startswith(word)]
    yield [one for one in elsewhere if one.name.startswith(word)]
    with_job: list[Found] = [run for run in registry.known(folders) if word in _jobs_of(run)]
    yield from _by_folder(with_job, folders)


def _jobs_of(run: Run) -> tuple[str, ...]:
    try:
        return run.first_record().job_ids
    except FvlaunchError:  # gone, or damaged, since it was listed
        return ()


def _by_folder(runs: Sequence[Found], folders: Sequence[Path]) -> tuple[list[Found], list[Found]]:
    """Return those of the folders in force, a pipeline's stages with it, and the others."""
    paths = {path for folder in folders for path in registry.paths_in(folder)}
    is_here = [str(one.path) in paths or str(one.path.parent) in paths for one in runs]
    here = [one for one, near in zip(runs, is_here, strict=True) if near]
    return here, [one for one, near in zip(runs, is_here, strict=True) if not near]


def at(path: Path) -> Found | None:
    """Return the run or pipeline whose folder a path is; None: neither. FvlaunchError where it may not be read, or a link dangles."""
    try:
        names = set(os.listdir(path))  # noqa: PTH208  only the names
    except PermissionError:
        ownership.check_readable(path)
        return None
    except (OSError, ValueError):
        if os.path.islink(path) and not os.path.lexists(os.path.realpath(path)):  # noqa: PTH114
            raise NotFound(f"{path} is a link to {path.readlink()}, which does not exist", hint="mend the link, or remove it") from None
        return None
    if "run.json" in names:
        ownership.check_readable(path)
        return Run(path.resolve())
    return Pipeline(path.resolve()) if PIPELINE_FILE in names else None


def _globbed(word: str, folders: Sequence[Path]) -> list[Found]:
    """Return what a pattern matches in the folders in force, else of what the index knows; a colleague's only where nothing else does."""
    if "/" in word:
        paths = [path for pattern in (word, *(os.path.join(folder, word) for folder in folders)) for path in sorted(glob.glob(pattern))]  # noqa: PTH118, PTH207
        found = {one.path: one for path in paths if (one := at(Path(path))) is not None}
        ways: list[list[Found]] = [list(found.values()), [run for run in registry.known(folders) if fnmatchcase(run.name, word)]]
    else:
        ways = [[one for one in runs if fnmatchcase(one.name, word)] for runs in _by_folder(registry.known_whole(folders), folders)]
    for matches in ways:
        if matches:
            return [one for one in matches if ownership.is_mine(one.path)] or matches
    raise NotFound(f"no run matches {word!r}", hint="fvlaunch list runs")


def _stage(word: str, folders: Sequence[Path]) -> Run:
    """Return the run of PIPELINE/STAGE, the pipeline by its name, a unique prefix, or `last`."""
    name, _, stage = word.partition("/")
    pipelines = registry.known_pipelines(folders)
    chosen = pipelines[-1:] if name == "last" else _pipelines_called(name, pipelines, folders)
    runs = [run for one in chosen for run in one.stages if run.path.name == stage]
    if len(runs) == 1:
        return runs[0]
    if len(chosen) == 1:
        raise FvlaunchError(f"{chosen[0].name} has no stage {stage!r}", hint=", ".join(run.name for run in chosen[0].stages))
    if len(runs) > 1:
        places = "\n".join(f"  {run.path}" for run in runs)
        raise FvlaunchError(f"{word!r} means {len(runs)} runs:\n{places}", hint="give more of the name, or the path")
    raise NotFound(f"{word} is not a run directory", hint="fvlaunch list runs")


def _pipelines_called(name: str, pipelines: Sequence[Pipeline], folders: Sequence[Path]) -> list[Pipeline]:
    here, elsewhere = _by_folder(pipelines, folders)
    called: Callable[[Found], bool] = lambda one: one.name == name  # noqa: E731
    begins: Callable[[Found], bool] = lambda one: bool(name) and one.name.startswith(name)  # noqa: E731
    for runs, fits in ((here, called), (elsewhere, called), (here, begins), (elsewhere, begins)):
        if matches := [one for one in runs if isinstance(one, Pipeline) and fits(one)]:
            return matches
    return []


def _unknown(word: str, runs: Sequence[Found], folders: Sequence[Path]) -> NotFound:
    names = list(dict.fromkeys(one.name for one in reversed(runs)))
    stages = [run.name for run in registry.known(folders) if "/" in run.name]
    plain = {name.lower(): name for name in reversed([*names, *stages])}
    near = [plain[name] for name in _near(word.lower(), list(plain))]
    hint = f"did you mean {' or '.join(near)}? " if near else ""
    return NotFound(f"no run is called {word!r}", hint=f"{hint}fvlaunch list runs")


def _near(word: str, names: Sequence[str]) -> list[str]:
    """Return up to three names that may be meant: whole ones, else those that begin like the word. Of two letters one may be wrong."""
    cutoff = 0.5 if len(word) <= 3 else 0.6
    swapped = [name for name in names if len(word) <= 3 and sorted(name) == sorted(word)]
    beginnings = {name[: len(word)]: name for name in reversed(names)}
    ways = (
        [*swapped, *difflib.get_close_matches(word, names, n=3, cutoff=cutoff)],
        [beginnings[name] for name in difflib.get_close_matches(word, beginnings, n=3, cutoff=cutoff)],
    )
    return next((list(dict.fromkeys(found))[:3] for found in ways if found), [])
