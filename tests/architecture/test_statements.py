"""What the launcher's sources say of the project is so: documents that are cited exist, numbers of a contract are written once."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from tests.support.paths import ROOT

SOURCES = sorted((ROOT / "fvlaunch").rglob("*.py"))
SLURM_COMMANDS = {"sbatch", "squeue", "sacct", "scancel", "scontrol", "sinfo"}


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("path", SOURCES, ids=name)
def test_documents_that_are_cited_exist(path: Path) -> None:
    cited = set(re.findall(r"\b[A-Z]{3,}\.md\b", path.read_text()))
    assert [document for document in cited if not list(ROOT.glob(document)) and not list(ROOT.glob(f"*/{document}"))] == []


@pytest.mark.parametrize("path", SOURCES, ids=name)
def test_a_ranks_exit_codes_are_written_in_trainers_control_alone(path: Path) -> None:
    numbers = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Constant) and node.value in (75, 76)]
    assert [node.lineno for node in numbers if type(node.value) is int] == []


def test_slurms_commands_are_run_where_the_slurm_room_says() -> None:
    users = set()
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text())):
            first = node.elts[0] if isinstance(node, ast.List) and node.elts else None
            if isinstance(first, ast.Constant) and first.value in SLURM_COMMANDS and "schedulers/slurm" not in name(path):
                users.add(name(path))
    assert users == set()


ROOMS_IN_SENTENCES = ("cli", "commands", "planning", "diagnostics", "runs", "config")


@pytest.mark.parametrize("path", [p for p in SOURCES if p.parent.name in ROOMS_IN_SENTENCES], ids=name)
def test_a_docstring_is_understood_without_the_one_above_it(path: Path) -> None:
    nodes = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.FunctionDef | ast.ClassDef | ast.Module)]
    texts = [ast.get_docstring(node) or "" for node in nodes]
    assert [text.splitlines()[0] for text in texts if re.match(r"(Of|As|The same|Likewise|Ditto)\b", text)] == []


@pytest.mark.parametrize("path", SOURCES, ids=name)
def test_modules_that_are_cited_exist(path: Path) -> None:
    cited = set(re.findall(r"(?<![./])\b(?:\w+/)*[a-z_]+\.py\b(?!:)", path.read_text()))
    sources = [source.as_posix() for package in ("fvlaunch", "trainers") for source in (ROOT / package).rglob("*.py")]
    assert [module for module in cited if not any(source.endswith(f"/{module}") for source in sources)] == []
