"""Owns runs whose job only sleeps, for tests that look at jobs and not at training: a profile whose interpreter is a shell script."""

from __future__ import annotations

import contextlib
import io
import json
import os
import subprocess
from pathlib import Path
from typing import Any
from unittest import mock

from fvlaunch.cli import app
from tests.support.launcher import Workspace

AGENT = """#!/bin/bash
# Stands where python stands: the last argument is the job's folder. Its run's folder says how it behaves, as soon as it says so.
folder="${@: -1}"
until [ -e "$folder/../../behave" ]; do sleep 0.05; done
case "$(cat "$folder/../../behave")" in
    fail) touch "$folder/said.$SLURM_JOB_ID.${SLURM_RESTART_COUNT:-0}"; exit 3 ;;
    stay) trap : TERM; while true; do sleep 0.1; done ;;
esac
exec sleep 600
"""


class Quick(Workspace):
    """The command line in this process: a tenth of the time, for tests that call it often and do not look at processes."""

    def call(self, *arguments: str, check: bool = True, timeout_s: float = 290, **more: Any) -> subprocess.CompletedProcess[str]:
        out, err = io.StringIO(), io.StringIO()
        before = Path.cwd()
        os.chdir(self.folder)
        try:
            with mock.patch.dict(os.environ, self.env, clear=True), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
                code = app.run(list(arguments))
        finally:
            os.chdir(before)
        assert code == 0 or not check, f"fvlaunch {' '.join(arguments)} -> {code}\n{out.getvalue()}\n{err.getvalue()}\n{self.told()}"
        return subprocess.CompletedProcess(arguments, code, out.getvalue(), err.getvalue())


def sleeping_profile(workspace: Workspace, name: str = "asleep", **slurm: Any) -> None:
    """A cluster profile `name` whose jobs sleep; a file `behave` in the run directory holds `fail` or `stay` (through SIGTERM)."""
    agent = workspace.folder / "agent.sh"
    agent.write_text(AGENT)
    agent.chmod(0o755)
    options = {"partition": "low", "cpus-per-task": 1, "mem": "100", "time": "00:10:00", **slurm}
    workspace.slurm_cluster(name, python=str(agent), slurm=options)


def sleeping(workspace: Workspace, name: str, *arguments: str, behave: str = "", cluster: str = "asleep") -> str:
    """Submit a run that sleeps; its job's id."""
    run = workspace.submit(name, "--ranks", "1", "--no-snapshot", *arguments, cluster=cluster)
    (run / ".behave").write_text(behave)
    (run / ".behave").rename(run / "behave")  # whole: the job may be looking
    return job_id(run)


def job_id(run: Path) -> str:
    return str(json.loads((run / "run.json").read_text())["job_id"])
