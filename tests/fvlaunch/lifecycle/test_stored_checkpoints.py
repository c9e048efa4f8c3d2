"""Verifying and pruning is done by a program: where that did not come to its end, nothing is known, and never "no checkpoint"."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from fvlaunch.errors import FvlaunchError
from fvlaunch.lifecycle.stored_checkpoints import program
from fvlaunch.runs.directory import Run

ENDINGS = {
    "killed": ("kill -9 $$", "killed by signal 9"),
    "killed after its first line": ('echo \'{"step": 2, "problems": []}\'; kill -9 $$', "killed by signal 9"),
    "ended well, without a word": ("exit 0", "it ended with 0 and without a word"),
    "ended well, without its last line": ('echo \'{"step": 2, "problems": []}\'', "it ended with 0"),
    "its count is wrong": ("echo '{\"checkpoints\": 1}'", "it ended with 0"),
    "no JSON": ("echo hello; echo why >&2", "why"),
    "an import that fails": ("echo 'ImportError: no module named x' >&2; exit 1", "ImportError: no module named x"),
    "answered, then failed": ("echo '{\"checkpoints\": 0}'; exit 3", "it ended with 3"),
}


@pytest.mark.parametrize("what", ["verify", "prune"])
@pytest.mark.parametrize("ending", ENDINGS)
def test_a_program_that_could_not_run_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str, ending: str) -> None:
    lines, said = ENDINGS[ending]
    interpreter = tmp_path / "python"
    interpreter.write_text(f"#!/bin/sh\n{lines}\n")
    interpreter.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(interpreter))
    with pytest.raises(FvlaunchError, match=said) as raised:
        program(what, Run(tmp_path))
    assert raised.value.exit_code == 1 and raised.value.hint


def test_an_interpreter_that_is_gone_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", str(tmp_path / "gone/python"))
    with pytest.raises(FvlaunchError, match=r"cannot start .*gone/python"):
        program("verify", Run(tmp_path))


def test_a_run_without_checkpoints_has_none_and_a_folder_that_is_none_is_told(tmp_path: Path) -> None:
    assert program("verify", Run(tmp_path)) == []
    (tmp_path / "checkpoints").touch()
    with pytest.raises(FvlaunchError, match="checkpoints: Not a directory"):
        program("verify", Run(tmp_path))
