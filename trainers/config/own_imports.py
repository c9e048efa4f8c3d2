"""Owns what a user's own Python file imports from beside it: which modules these are, where they lie, what is wrong with them.

Only reads the files, as text. What Python, this project or an installed package calls by the same name is never taken from beside the
file, so that nothing that merely lies in somebody's working directory is run. Must not import torch, nor anything of the user's.
"""

from __future__ import annotations

import ast
import hashlib
import os
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from importlib.machinery import PathFinder
from pathlib import Path

FOLDER = "own_code"
"""Folder of the copies of own files, in a run's copy of the code."""
IMPORTS = "imports"
"""Folder below it: what these files import from beside them, and nothing else."""
MAX_BYTES = 20_000_000
MAX_FILES = 2000
"""Most that is copied into a run of what own files import."""
_LEFT_OUT = ("__pycache__",)
_COMPILED = (".so", ".pyd")


@dataclass
class OwnImports:
    """What an own file imports from beside it, directly or through each other."""

    modules: dict[str, Path] = field(default_factory=dict)
    """By name a .py file (or compiled module), or the folder of a package: all of this folder belongs to it, data files too."""
    passed_over: dict[str, str] = field(default_factory=dict)
    """By name of what lies beside the file but is not meant, since it is the name of something installed: a sentence for the user."""
    problems: list[tuple[str, str]] = field(default_factory=list)
    """(what is wrong, a hint): files that are not Python, and imports that cannot be meant."""


def imports_of(file: Path) -> OwnImports:
    """Return what `file` imports from beside it. Of a copy in a run that is what was copied with it, whatever else is installed there."""
    copied = file.parent / IMPORTS
    in_run = file.parent.name == FOLDER and copied.is_dir()
    folders = [copied] if in_run else list(dict.fromkeys([file.resolve().parent, file.absolute().parent]))
    found, waiting = OwnImports(), [(file, False)]
    while waiting:
        source, in_package = waiting.pop()
        for dotted, line in _imported(source, found, in_package):
            name, place = dotted.partition(".")[0], _beside(dotted, folders)
            if place is None or name in found.modules or _is_running(name, place):
                continue
            if not in_run and (what := _known_elsewhere(name, folders)):
                found.passed_over.setdefault(name, f"{source}:{line} imports {name}: {what} is meant, not {place}")
                continue
            found.modules[name] = place
            waiting += [(path, place.is_dir()) for path in files_of(place) if path.suffix == ".py"]
    return found


def files_of(place: Path) -> list[Path]:
    """Return the file itself, or every file of a package's folder in a fixed order, without hidden ones and what Python compiles.

    Symlinks are followed, each folder once. Stops after the first file that is too many.
    """
    if not place.is_dir():
        return [place]
    found: list[Path] = []
    seen: set[str] = set()
    for folder, folders, names in os.walk(place, followlinks=True):
        real = os.path.realpath(folder)
        folders[:] = [] if real in seen else sorted(name for name in folders if name not in _LEFT_OUT and not name.startswith("."))
        found += [Path(folder, name) for name in sorted(names) if real not in seen and not name.startswith(".") and name[-4:] != ".pyc"]
        seen.add(real)
        if len(found) > MAX_FILES:
            break
    return [path for path in found if path.is_file()]


def digest(place: Path) -> str:
    """Return the digest of a file's content, or of a package's files by place and content."""
    if not place.is_dir():
        return hashlib.sha256(place.read_bytes()).hexdigest()
    found = hashlib.sha256()
    for path in sorted(files_of(place)):
        found.update(f"{path.relative_to(place)}\n".encode() + hashlib.sha256(path.read_bytes()).digest())
    return found.hexdigest()


def not_to_be_copied(places: Iterable[Path]) -> str | None:
    """Return why these cannot be copied into a run, or are too much; None where they can."""
    count = size = 0
    for place in places:
        files = files_of(place)
        if unreadable := [path for path in files if not os.access(path, os.R_OK)]:
            return f"cannot read {unreadable[0]}"
        count, size = count + len(files), size + sum(path.stat().st_size for path in files)
        if count > MAX_FILES or size > MAX_BYTES:
            return f"{place} is too large: what own files import is copied into the run, up to {MAX_FILES} files of {MAX_BYTES // 10**6} MB"
    return None


def _imported(source: Path, found: OwnImports, in_package: bool) -> Iterator[tuple[str, int]]:
    """Yield (dotted name, line) of all that a file may import, wherever in it; note in `found` what is wrong."""
    try:
        tree = ast.parse(source.read_bytes(), str(source))
    except OSError as error:
        found.problems.append((f"cannot read {source}: {error.strerror}", ""))
        return
    except (SyntaxError, ValueError) as error:
        found.problems.append((f"{source}:{getattr(error, 'lineno', None) or 1} is not Python: {getattr(error, 'msg', error)}", ""))
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            yield from ((f"{node.module}.{alias.name}", node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node in tree.body and not in_package:  # elsewhere it may be meant to fail
            hint = f"what lies beside a file is imported by its name alone: from {node.module or 'helper'} import ..."
            found.problems.append((f"{source}:{node.lineno} has a relative import, and is in no package", hint))
        elif isinstance(node, ast.Call) and getattr(node.func, "attr", getattr(node.func, "id", "")) in ("import_module", "__import__"):
            yield from ((str(value.value), node.lineno) for value in node.args[:1] if isinstance(value, ast.Constant))


def _beside(dotted: str, folders: Iterable[Path]) -> Path | None:
    """Return the package, module or folder of modules that a dotted name begins with, as Python would choose among them."""
    name, _, rest = dotted.partition(".")
    inner = rest.partition(".")[0]
    for folder in folders if name.isidentifier() else ():
        if (folder / name / "__init__.py").is_file():
            return folder / name
        compiled = sorted(path for path in folder.glob(f"{name}.*") if path.suffix in _COMPILED)
        if compiled or (folder / f"{name}.py").is_file():
            return compiled[0] if compiled else folder / f"{name}.py"
        if inner.isidentifier() and ((folder / name / f"{inner}.py").is_file() or (folder / name / inner / "__init__.py").is_file()):
            return folder / name
    return None


def _is_running(name: str, place: Path) -> bool:
    """Return whether this is a package of the process that reads here, as in a checkout in which somebody works."""
    file = getattr(sys.modules.get(name), "__file__", None)
    return file is not None and Path(file).resolve().parent == place.resolve()


def _known_elsewhere(name: str, folders: Iterable[Path]) -> str | None:
    """Return what else has this name: Python, or something installed (this project, too; PYTHONPATH counts); None where nothing has."""
    if name in sys.stdlib_module_names:
        return "Python's own module"
    real = {folder.resolve() for folder in folders}
    spec = PathFinder.find_spec(name, [part for part in sys.path if part and Path(part).resolve() not in real])
    return f"the installed {spec.origin}" if spec is not None and spec.origin else None
