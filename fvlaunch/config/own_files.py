"""Owns which values of a train block name a class in a user's own Python file (./file.py:ClassName), and what its copy in a run is called.

What such a file imports from beside it belongs to it. Must not import such a file, nor copy one.
"""

from __future__ import annotations

import ast
import contextlib
import itertools
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from trainers.config import own_imports
from trainers.config.own_imports import FOLDER as FOLDER
from trainers.config.own_imports import IMPORTS as IMPORTS
from trainers.config.own_imports import files_of as files_of

from ..errors import FvlaunchError
from .strict_yaml import KeyPath

_IN_RUN = f"code/{FOLDER}"


def references(train: Mapping[str, Any]) -> Iterator[tuple[KeyPath, Path, str]]:
    """Yield (key below `train`, file, class name) of each value that names such a class, in the order of the block."""
    models = train.get("models") or {}
    keys: list[KeyPath] = [("method", "kind"), *(("models", role, "family") for role in models), ("data", "source")]
    for path in keys:
        value: Any = train
        for key in path:
            value = value.get(key) if isinstance(value, Mapping) else None
        if isinstance(value, str) and ":" in value:
            file, _, name = value.rpartition(":")
            yield path, Path(file), name


def copies(train: Mapping[str, Any]) -> dict[Path, str]:
    """By file the name of its copy: its own name, numbered where another file has that already."""
    found: dict[Path, str] = {}
    for _, file, _ in references(train):
        numbered = (f"{file.stem}-{number}{file.suffix}" for number in itertools.count(2))
        if file not in found:
            found[file] = next(name for name in itertools.chain([file.name], numbered) if name not in found.values())
    return found


def all_copies(train: Mapping[str, Any], kept: Mapping[Path, Path]) -> dict[str, Path]:
    """By path below the folder of the copies what is copied there: own files, and what they import from beside them.

    `kept`: the copy to take instead of an own file, as `kept_by` says.

    FvlaunchError where two own files mean different modules by one name.
    """
    found = {name: kept.get(file, file) for file, name in copies(train).items()}
    for file in [file for file in found.values() if file.is_file()]:
        for name, place in own_imports.imports_of(file).modules.items():
            other = found.setdefault(f"{IMPORTS}/{place.name}", place)
            if other != place and own_imports.digest(other) != own_imports.digest(place):
                message = f"own files import two different modules called {name}: {other} and {place}"
                raise FvlaunchError(message, hint="rename one: in a process a name has one module")
    return found


def digests(copied: Mapping[str, Path]) -> dict[str, str]:
    """Return the digest of each of `all_copies` that is there and can be read."""
    found = {}
    for name, place in copied.items():
        with contextlib.suppress(OSError):
            found[name] = own_imports.digest(place)
    return found


def kept_by(run: Path, train: Mapping[str, Any]) -> dict[Path, Path]:
    """By own file, as the train block of a run.yaml names it, the copy that its run has: repeated, the run is repeated with that."""
    copied = {file: run / _IN_RUN / name for file, name in copies(train).items()}
    return {file: copy for file, copy in copied.items() if copy.is_file()}


def passed_over(files: Iterable[Path]) -> list[str]:
    """Return a sentence for each import of these files for which something lies beside them that is not taken."""
    return [line for file in files if file.is_file() for line in own_imports.imports_of(file).passed_over.values()]


def by_copies(train: dict[str, Any], run: Path) -> dict[str, Any]:
    """Return the block with each file replaced by its copy, where the directory of the run holds one, as a path below that directory."""
    names = copies(train)
    for path, file, name in list(references(train)):
        if (run / _IN_RUN / names[file]).is_file():
            train = _with(train, path, f"{_IN_RUN}/{names[file]}:{name}")
    return train


def _with(block: dict[str, Any], path: KeyPath, value: str) -> dict[str, Any]:
    first, *rest = path
    key = str(first)
    return {**block, key: _with(block[key], tuple(rest), value) if rest else value}


def problem(file: Path, name: str) -> tuple[str, str] | None:
    """(what is wrong, a hint) where the file is missing, is not Python or defines no such class. Only reads it."""
    if file.suffix != ".py":
        return f"{file} is not named as a Python file is", "its name ends with .py: ./file.py:ClassName"
    try:
        tree = ast.parse(file.read_bytes(), str(file))
    except OSError:
        return f"there is no Python file {file}", "written as ./file.py:ClassName, below the working directory"
    except (SyntaxError, ValueError) as error:
        return f"{file}:{getattr(error, 'lineno', None) or 1} is not Python: {getattr(error, 'msg', error)}", ""
    imports = own_imports.imports_of(file)
    if imports.problems:
        return imports.problems[0]
    if why := own_imports.not_to_be_copied(imports.modules.values()):
        return why, "keep data out of the package, or install it: pip install -e"
    known = set(_names(tree))
    if name in known or "*" in known:
        return None
    classes = [node.name for node in tree.body if isinstance(node, ast.ClassDef)]
    return f"{file} has no class {name}", f"its classes: {', '.join(classes) or 'none'}"


def _names(tree: ast.Module) -> Iterator[str]:
    """Return all that the file may define at its top level, however deep in its conditions."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef):
            yield node.name
        elif isinstance(node, (ast.Import, ast.ImportFrom)):
            yield from (alias.asname or alias.name for alias in node.names)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id
