"""The rooms of both packages: which may import which, read from every import in every file, also inside functions and TYPE_CHECKING.

A room is a folder of fvlaunch/ or trainers/; a file beside them is a room of its own. The table says what each may import; what it
does not list is refused, and so is a circle of rooms or of files.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

from tests.support.paths import ROOT

ROOMS: dict[str, dict[str, str]] = {
    "fvlaunch": {
        "__init__": "",
        "__main__": "cli",
        "errors": "",
        "files": "",
        "cli": "commands config runs errors __init__",
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
        "control": "",
        "command_line": "errors",
        "own_code": "config errors",
        "__main__": "inference own_code config control errors",
        "forkserver": "__main__ methods models config control",
        "export": "inference checkpointing command_line",
        "sample": "inference distributed command_line errors",
        "training": (
            "inference methods preprocessing checkpointing optim models data diffusion distributed config seeding control errors files"
        ),
        "methods": "optim models data diffusion distributed own_code config seeding errors",
        "inference": "checkpointing models data diffusion distributed own_code config seeding control errors files",
        "preprocessing": "models data distributed config control errors files",
        "optim": "distributed config",
        "models": "diffusion distributed own_code config seeding errors files",
        "checkpointing": "distributed own_code config control errors files",
        "data": "own_code config control errors files",
        "distributed": "config control errors",
        "diffusion": "errors",
        "config": "",
    },
}
"""room -> the rooms of the same package that it may import"""

ACROSS = {
    ("fvlaunch/config", "trainers.config"),
    ("fvlaunch/planning", "trainers.config"),
    ("fvlaunch/agent", "trainers.control"),
}
"""What the launcher may know of the trainers, and where: their configuration, and the exit codes of a rank."""

NARROW = {
    ("lifecycle", "agent"): {"fvlaunch.agent.main.run_agent"},
    ("cli", "runs"): {"fvlaunch.runs.registry"},
    ("config", "schedulers"): {"fvlaunch.schedulers.registry"},
    ("runs", "schedulers"): {"fvlaunch.schedulers.local_process"},
}
"""Where one room may import only a little of another: what the job runs; what shell completion lists; which schedulers there are; who a
process is."""

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


@pytest.mark.parametrize("package", ROOMS)
def test_every_room_is_in_the_table(package: str) -> None:
    rooms = {room_of(module_of(path)) for path in FILES[package]}
    assert rooms == set(ROOMS[package])


@pytest.mark.parametrize("package", ROOMS)
def test_a_room_imports_only_what_the_table_allows(package: str) -> None:
    wrong = [
        f"{place}: {room} may not import {other} ({name})"
        for place, room, other, name in crossings(package)
        if other not in ROOMS[package][room].split()
    ]
    assert wrong == []


@pytest.mark.parametrize("package", ROOMS)
def test_the_table_allows_nothing_that_is_not_used(package: str) -> None:
    used = {(room, other) for _, room, other, _ in crossings(package)}
    unused = [f"{room} -> {other}" for room, others in ROOMS[package].items() for other in others.split() if (room, other) not in used]
    assert unused == []


def test_what_is_allowed_only_in_part_is_imported_only_in_part() -> None:
    wrong = [
        f"{place}: {name}"
        for place, room, other, name in crossings("fvlaunch")
        if (room, other) in NARROW and not any(name == one or name.startswith(f"{one}.") for one in NARROW[room, other])
    ]
    assert wrong == []


def test_the_launcher_knows_of_the_trainers_only_what_is_listed() -> None:
    wrong = []
    for path in FILES["fvlaunch"]:
        for module, name, line in imported(path):
            room = "/".join(path.relative_to(ROOT).parts[:2])
            if module.startswith("trainers.") and not any(
                room == allowed and (module == there or module.startswith(f"{there}.")) for allowed, there in ACROSS
            ):
                wrong.append(f"{path.relative_to(ROOT)}:{line}: {name}")
    assert wrong == []


@pytest.mark.parametrize("package", ROOMS)
def test_rooms_form_no_circle(package: str) -> None:
    _check_no_circle({room: set(others.split()) for room, others in ROOMS[package].items()})


def test_files_form_no_circle() -> None:
    graph: dict[str, set[str]] = {}
    for module, path in MODULES.items():
        graph[module] = {other for other, _, _ in imported(path)} - {module}
    _check_no_circle(graph)


def _check_no_circle(graph: Mapping[str, set[str]]) -> None:
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(f"a circle of imports: {' -> '.join(error.args[1])}", pytrace=False)


def test_a_circle_would_be_seen() -> None:
    with pytest.raises(pytest.fail.Exception, match=r"a -> b -> a|b -> a -> b"):
        _check_no_circle({"a": {"b"}, "b": {"a"}})


@pytest.mark.parametrize(
    "folder", sorted({path.parent for paths in FILES.values() for path in paths}), ids=lambda p: str(p.relative_to(ROOT))
)
def test_every_folder_says_what_it_owns_and_what_it_must_not_know(folder: Path) -> None:
    text = ast.get_docstring(ast.parse((folder / "__init__.py").read_text()))
    assert text and len(text.splitlines()[0]) > 20
    if folder.parent.parent == ROOT:  # a room
        assert "May import" in text and "Must not" in text


@pytest.mark.parametrize("path", [path for paths in FILES.values() for path in paths], ids=lambda p: str(p.relative_to(ROOT)))
def test_a_module_says_what_it_owns(path: Path) -> None:
    assert ast.get_docstring(ast.parse(path.read_text())), "its first lines say what it owns and what it must not do"
