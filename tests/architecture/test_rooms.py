"""The rooms of both packages keep to their table: one direction of imports, no circle of rooms or files, modules that one can read.

Every import of every file is read, also those inside functions and under TYPE_CHECKING.
"""

from __future__ import annotations

import ast
from collections.abc import Mapping
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

from tests.support.paths import ROOT
from tests.support.rooms import ACROSS, FILES, MODULES, NARROW, ROOMS, crossings, imported, module_of, room_of


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
