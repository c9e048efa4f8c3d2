"""Owns starting a run's job on this machine, through submitit's local executor in a detached child.

As `python -m fvlaunch.lifecycle.local_job RUN` it is that child.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path

from ..config.schema import Cluster
from ..errors import FvlaunchError
from ..files import read_json
from ..runs import code_snapshot
from ..runs.directory import Run
from ..runs.run_config import load
from ..schedulers import local_process
from .job_records import record_job

LOCAL_START_WAIT_S = 60.0
LOCAL_LIMIT_MIN = 60 * 24 * 3650
"""submitit's local executor ends a job after two minutes unless told; ours has no limit of its own."""


def start_local(run: Run, folder: Path) -> None:
    """Start a child of its own session, which starts the job: neither a closed terminal nor $(…) may hold or end it."""
    log = folder / "start.log"
    with log.open("ab") as output:
        child = subprocess.Popen(
            [sys.executable, "-m", "fvlaunch.lifecycle.local_job", str(run.path)],
            env={**os.environ, "PYTHONPATH": _python_path(code_snapshot.source_root())},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        code = child.wait(timeout=LOCAL_START_WAIT_S)
    except subprocess.TimeoutExpired:
        raise FvlaunchError(f"the local job did not start in {LOCAL_START_WAIT_S:.0f} s", hint=f"see {log}") from None
    if code != 0 or run.record().job_id is None:
        tail = "\n".join(log.read_text(errors="replace").strip().splitlines()[-5:])
        raise FvlaunchError(f"the local job did not start:\n{tail}")


def _python_path(code: Path) -> str:
    return os.pathsep.join(part for part in (str(code), os.environ.get("PYTHONPATH", "")) if part)


def _local_child(run: Run) -> None:
    """In the detached child: hand the agent to submitit's local executor and record who it is."""
    from submitit import LocalExecutor

    from ..agent.main import run_agent

    config = load(run)
    os.umask(0o077)
    os.environ.update(config.cluster.env)
    os.environ["PYTHONPATH"] = _python_path(code_snapshot.code_folder(run))
    executor = LocalExecutor(folder=run.job / run.record().token, python=_with_setup(config.cluster))
    executor.update_parameters(timeout_min=LOCAL_LIMIT_MIN, gpus_per_node=local_process.num_local_gpus(), stderr_to_stdout=True)
    pid = int(executor.submit(run_agent, str(run.path)).job_id)
    job_id = local_process.local_job_id(pid)
    if job_id is None:
        raise FvlaunchError(f"the job's controller, process {pid}, ended at once")
    run.update(host=local_process.host_identity())
    record_job(run, job_id)


def _with_setup(cluster: Cluster) -> str:
    """The interpreter, after the profile's shell lines. Not submitit's own `setup`: with it the job's id would be that of a shell."""
    python = cluster.python or sys.executable
    setup = cluster.setup.strip()
    return shlex.join(["sh", "-c", f'set -e\n{setup}\nexec "$0" "$@"', python]) if setup else shlex.quote(python)


if __name__ == "__main__":
    _local_child(Run(Path(sys.argv[1])))
    found = read_json(Path(sys.argv[1]) / "run.json")
    sys.stderr.write(f"started {found['job_id'] if found else ''}\n")
