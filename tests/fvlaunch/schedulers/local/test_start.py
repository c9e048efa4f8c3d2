"""A job on this machine is started once or not at all, and with the code that belongs to it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from fvlaunch.agent.main import run_agent
from fvlaunch.errors import FvlaunchError
from fvlaunch.schedulers.base import JobSpec
from fvlaunch.schedulers.local import start
from fvlaunch.schedulers.python_processes import module_command, python_path
from tests.support.paths import ROOT


def children_of_this_process() -> set[int]:
    return {int(pid) for task in Path("/proc/self/task").iterdir() for pid in (task / "children").read_text().split()}


def test_a_start_that_takes_too_long_is_ended_and_starts_no_job_later(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(start, "START_WAIT_S", 0.01)
    job = JobSpec("slow", "t", tmp_path, ROOT, run_agent, str(tmp_path), template=Path)
    before = children_of_this_process()
    with pytest.raises(FvlaunchError, match="did not start in 0 s"):
        start.start(job)
    assert children_of_this_process() <= before
    assert not (tmp_path / "started").exists() and not list(tmp_path.glob("*.pkl"))


def test_a_module_is_never_taken_from_the_working_directory(tmp_path: Path) -> None:
    for folder, word in (("work", "the working directory"), ("code", "the copy")):
        (tmp_path / folder / "known").mkdir(parents=True)
        (tmp_path / folder / "known/__init__.py").touch()
        (tmp_path / folder / "known/program.py").write_text(f"import sys; print({word!r}, *sys.argv[1:])\n")
        (tmp_path / folder / "runpy.py").write_text("raise SystemExit('not the real one')\n" if folder == "work" else "")
    (tmp_path / "code/runpy.py").unlink()
    env = {**os.environ, "PYTHONPATH": python_path(tmp_path / "code")}
    command = module_command(sys.executable, "known.program", "a b", unbuffered=True)
    done = subprocess.run(command, cwd=tmp_path / "work", env=env, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "the copy a b\n", "")
