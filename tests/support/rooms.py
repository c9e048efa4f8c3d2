"""Owns the rooms of both packages: which may import which, and what every file really imports.

A room is a folder of fvlaunch/ or trainers/; a file beside them is a room of its own. tests/architecture/test_rooms.py holds the code
to the table, and the pages show it.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

from tests.support.paths import ROOT

ROOMS: dict[str, dict[str, str]] = {
    "fvlaunch": {
        "__init__": "",
        "__main__": "cli",
        "errors": "",
        "files": "",
        "cli": "commands config runs schedulers errors __init__",
        "commands": "lifecycle diagnostics planning status runs schedulers config errors files",
        "lifecycle": "agent planning status runs schedulers config errors files",
        "planning": "runs schedulers config errors",
        "diagnostics": "runs schedulers config errors",
        "status": "runs schedulers errors files",
        "agent": "runs schedulers config errors files",
        "runs": "schedulers config errors files",
        "schedulers": "errors files",
        "config": "schedulers errors",
    },
    "trainers": {
        "__init__": "",
        "errors": "",
        "files": "",
        "seeding": "",
        "processes": "control output",
        "control": "",
        "output": "",
        "temporary_folders": "",
        "allocator": "",
        "answers": "errors",
        "command_line": "config errors",
        "own_code": "config processes errors",
        "__main__": "inference own_code config control output allocator temporary_folders errors",
        "forkserver": "__main__ methods models config processes control allocator",
        "export": "inference checkpointing config command_line",
        "sample": "inference sources distributed config command_line errors files",
        "training": (
            "inference methods preprocessing checkpointing optim models data diffusion distributed config seeding control errors files"
        ),
        "methods": "optim models data diffusion distributed own_code config seeding errors",
        "inference": "checkpointing models data diffusion distributed own_code config processes seeding control errors files",
        "preprocessing": "answers models data distributed sources config processes control errors files",
        "sources": "answers config errors",
        "optim": "distributed config",
        "models": "diffusion distributed own_code config seeding errors files",
        "checkpointing": "distributed own_code config control errors files",
        "data": "answers own_code config processes control errors files",
        "distributed": "config control allocator temporary_folders errors",
        "diffusion": "errors",
        "config": "",
    },
}
"""room -> the rooms of the same package that it may import"""

ACROSS = {
    ("fvlaunch/cli", "trainers.config"),
    ("fvlaunch/runs", "trainers.config"),
    ("fvlaunch/config", "trainers.config"),
    ("fvlaunch/planning", "trainers.config"),
    ("fvlaunch/agent", "trainers.control"),
}
"""What the launcher may know of the trainers, and where: their configuration (with what a refusal of the
operating system means), and the exit codes of a rank."""

NARROW = {
    ("lifecycle", "agent"): {"fvlaunch.agent.main.run_agent"},
    ("cli", "runs"): {"fvlaunch.runs.registry"},
    ("cli", "schedulers"): {"fvlaunch.schedulers.patience", "fvlaunch.schedulers.python_processes"},
    ("config", "schedulers"): {"fvlaunch.schedulers.registry", "fvlaunch.schedulers.slurm.gpu_counts"},
    ("runs", "schedulers"): {"fvlaunch.schedulers.local_process"},
}
"""Where one room may import only a little of another: what the job runs; what shell completion lists; what the environment says to
Python, and how waiting is told; which schedulers there are and how sbatch's options count GPUs; who a process is."""

FILES = {package: sorted((ROOT / package).rglob("*.py")) for package in ROOMS}


def module_of(path: Path) -> str:
    """The dotted name of a file: fvlaunch/cli/app.py is fvlaunch.cli.app, a folder's __init__.py is the folder."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 2 else parts)


MODULES = {module_of(path): path for paths in FILES.values() for path in paths}


def imported(path: Path) -> Iterator[tuple[str, str, int]]:
    """(module of ours, full name of what is imported, line) of every import in a file, relative ones resolved."""
    here = path.relative_to(ROOT).parent.parts
    for node in ast.walk(ast.parse(path.read_text(), str(path))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = [*here[: len(here) - node.level + 1]] if node.level else []
            stem = ".".join([*base, *([node.module] if node.module else [])])
            names = [f"{stem}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            module = _longest_module(name)
            if module is not None:
                yield module, name, node.lineno


def _longest_module(name: str) -> str | None:
    if name.split(".")[0] not in ROOMS:
        return None
    parts = name.split(".")
    for end in range(len(parts), 0, -1):
        if (candidate := ".".join(parts[:end])) in MODULES:
            return candidate
    return f"{parts[0]}.__init__"


def room_of(module: str) -> str:
    return module.split(".")[1]


def crossings(package: str) -> Iterator[tuple[str, str, str, str]]:
    """(file:line, room, other room, full name) of every import between rooms of one package."""
    for path in FILES[package]:
        room = room_of(module_of(path))
        for module, name, line in imported(path):
            if module.split(".")[0] == package and room_of(module) != room:
                yield f"{path.relative_to(ROOT)}:{line}", room, room_of(module), name


def docstring(room: str, package: str) -> str:
    """Return the docstring of a room's folder or file."""
    path = ROOT / package / room
    file = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    return ast.get_docstring(ast.parse(file.read_text())) or ""
