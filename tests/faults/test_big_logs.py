"""A log of gigabytes: whatever reads it takes seconds and little memory, and shows what stands at its beginning and at its end."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from fvlaunch.runs.directory import Run, create
from fvlaunch.schedulers.local_process import host_identity
from tests.support.launcher import Workspace
from tests.support.records import record
from tests.support.rows import Figures, fault

MEMORY_MB = 200
IN_CHILD = """
import resource, subprocess, sys
child = subprocess.Popen(sys.argv[1:], stdout=subprocess.PIPE)
without = subprocess.Popen(["tr", "-d", "\\\\000"], stdin=child.stdout)
child.stdout.close()
child.wait()
print("", resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss, file=sys.stderr, sep="\\n")
without.wait()
"""
COMMANDS = {
    "logs": ("logs", "big"),
    "logs --grep": ("logs", "big", "--grep", "the (first|last)"),
    "logs --follow": ("logs", "big", "--follow", "--grep", "the (first|last)"),
    "logs --agent": ("logs", "big", "--agent", "--grep", "the (first|last)"),
    "status": ("status", "big", "--attempts"),
}


def lost_run(workspace: Workspace, size: int) -> Run:
    """A run that was never heard of again, whose rank and job have printed so much: a hole in their files, which reads as zeros."""
    workspace.runs.mkdir()
    run = create(workspace.runs / "big", record("big", state="submitted", job_id="local-4194304-1", host=host_identity()))
    run.attempt_log(1).write_text('{"time": 1.0, "event": "started", "generation": 1, "job_id": "local-4194304-1", "nodes": ["a"]}\n')
    for path in (run.rank_log(1, 0), run.job / "t" / "7_0_log.out"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("2026-11-28 06:00:00,000 the first line\n")
        os.truncate(path, size)
        with path.open("a") as file:
            file.write("\n2026-11-28 07:00:00,000 the last line\n")
    return run


def measured(workspace: Workspace, *words: str) -> tuple[float, float, str, str]:
    """(seconds, megabytes at most, what was printed but zeros, messages) of a command."""
    argv = [sys.executable, "-c", IN_CHILD, sys.executable, "-m", "fvlaunch", *words]
    began = time.monotonic()
    done = subprocess.run(argv, cwd=workspace.folder, env=workspace.env, capture_output=True, text=True, timeout=500, check=True)
    told, _, memory_kb = done.stderr.rstrip().rpartition("\n")
    return time.monotonic() - began, int(memory_kb) / 1024, done.stdout, told


@fault("38", "a log of a rank and a log of a job, each with gigabytes in one line")
@pytest.mark.parametrize(
    ("gigabytes", "limit_s"), [pytest.param(0.2, 30, id="200 MB"), pytest.param(10, 180, id="10 GB", marks=pytest.mark.long)]
)
def test_a_log_of_gigabytes_is_read_in_little_memory(tmp_path: Path, figure: Figures, gigabytes: float, limit_s: float) -> None:
    workspace = Workspace(tmp_path)
    lost_run(workspace, int(gigabytes * 2**30))
    for name, words in COMMANDS.items():
        took, memory_mb, shown, told = measured(workspace, *words)
        assert "Traceback" not in told, told
        if name == "status":
            assert "lost" in shown and "the last line" not in told, shown
        else:
            assert "the first line" in shown and "the last line" in shown, (name, shown[-500:], told)
        figure.most(f"{name}:", took, limit_s if "logs" in name else 20, "s")
        figure.most("memory", memory_mb, MEMORY_MB, "MB")
