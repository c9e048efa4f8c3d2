"""A job on this machine is started once or not at all, and with the code that belongs to it."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from fvlaunch.agent.main import run_agent
from fvlaunch.errors import FvlaunchError
from fvlaunch.schedulers.base import JobSpec
from fvlaunch.schedulers.local import start
from fvlaunch.schedulers.python_processes import module_command, python_path
from tests.support.paths import ROOT


def in_session(leader: int) -> list[int]:
    """The processes of a session that still compute."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            state, _parent, _group, session = stat.read_text().rpartition(")")[2].split()[:4]
            found += [int(stat.parent.name)] if int(session) == leader and state not in "ZX" else []
    return found


def test_a_start_that_takes_too_long_is_ended_and_starts_no_job_later(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(start, "START_WAIT_S", 0.01)
    job = JobSpec("slow", "t", tmp_path, ROOT, run_agent, str(tmp_path), template=Path)
    begun = list[subprocess.Popen[bytes]]()

    class Noted(subprocess.Popen):  # type: ignore[type-arg]
        def __init__(self, *words: Any, **options: Any) -> None:
            super().__init__(*words, **options)
            begun.append(self)

    monkeypatch.setattr(start.subprocess, "Popen", Noted)
    with pytest.raises(FvlaunchError, match="did not start in 0 s"):
        start.start(job)
    [child] = begun
    assert child.returncode == -signal.SIGKILL and not in_session(child.pid)
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
