"""The contract between a rank and its launcher, as far as it needs no run."""

from __future__ import annotations

import ast
from collections.abc import Iterator

import pytest

from fvlaunch.runs.attempts import WORKING
from tests.support.paths import ROOT
from trainers.control import PHASES, Control


def test_a_heartbeat_says_one_of_the_known_phases() -> None:
    for phase in PHASES:
        Control({}).progress(phase, 1)
    with pytest.raises(ValueError, match=r"one of starting, .*, not 'dreaming'"):
        Control({}).progress("dreaming", 1)  # type: ignore[arg-type]


def test_every_known_phase_is_one_that_some_rank_says() -> None:
    assert set(PHASES) == {phase for phase in _literals() if phase in PHASES}
    assert set(_first_arguments()) <= set(PHASES)


def test_the_launcher_counts_only_known_phases_as_work() -> None:
    assert set(WORKING) <= set(PHASES)


def _calls() -> Iterator[ast.AST]:
    """Calls of progress(...), and assignments: where a phase is chosen before it is said."""
    for path in (ROOT / "trainers").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "progress":
                yield node
            if isinstance(node, ast.AnnAssign) and isinstance(node.annotation, ast.Name) and node.annotation.id == "Phase":
                yield node


def _literals() -> Iterator[object]:
    return (node.value for call in _calls() for node in ast.walk(call) if isinstance(node, ast.Constant))


def _first_arguments() -> Iterator[object]:
    return (c.args[0].value for c in _calls() if isinstance(c, ast.Call) and c.args and isinstance(c.args[0], ast.Constant))
