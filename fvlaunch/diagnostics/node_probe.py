"""Owns the look at a node: a small program run with the profile's python and setup; its answer comes back over the shared folder.

Must not judge (site_checks.py does). Leaves nothing behind, not even the job.
"""

from __future__ import annotations

import json
import secrets
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from ..config.schema import Cluster
from ..errors import FvlaunchError
from ..runs import code_snapshot
from ..schedulers.python_processes import OFF_THE_WORKING_DIRECTORY, python_path
from ..schedulers.setup_lines import guarded
from ..schedulers.slurm import commands as slurm
from ..schedulers.slurm import gpu_counts
from ..schedulers.slurm import site as slurm_site

_KEPT = ("partition", "account", "qos", "constraint", "reservation", "wckey", "export")
_PROGRAM = (
    f"{OFF_THE_WORKING_DIRECTORY}\n"
    + """
import json, os, platform, shutil, socket, sys
found = {"host": socket.gethostname(), "python": platform.python_version(), "scontrol": shutil.which("scontrol") is not None}
found["nccl"] = {k: v for k, v in os.environ.items() if k.startswith(("NCCL_", "TORCH_NCCL_"))}
try:
    import torch
    import fvlaunch, trainers
    found["torch"] = torch.__version__
    found["gpus"] = torch.cuda.device_count()
    found["gpu"] = torch.cuda.get_device_name(0) if found["gpus"] else ""
except BaseException as error:
    found["error"] = f"{type(error).__name__}: {error}"
with open(sys.argv[1] + ".part", "w") as file:
    json.dump(found, file)
os.rename(sys.argv[1] + ".part", sys.argv[1])
"""
)


def look_here(cluster: Cluster) -> dict[str, Any]:
    """Examine this machine with the profile's python and setup."""
    folder = _folder(Path(cluster.runs_dir or "runs"))
    try:
        answer = folder / "answer.json"
        text = f"{_environment(cluster)}\n{guarded(cluster.setup)}\n{_command(cluster, answer)}"
        done = subprocess.run(["bash", "-c", text], capture_output=True, text=True, timeout=180, check=False, stdin=subprocess.DEVNULL)
        return _answer(answer) or {"error": done.stderr.strip() or f"it ended with {done.returncode} and said nothing"}
    except subprocess.TimeoutExpired:
        return {"error": "it took longer than 180 s"}
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def look_at_a_node(cluster: Cluster, wait_s: float) -> dict[str, Any] | None:
    """Examine a node of the cluster by a job; None where the job did not start in time. SchedulerRefused where it was not taken."""
    folder = _folder(Path(cluster.runs_dir or "runs"))
    job_id = None
    try:
        (folder / "job.sh").write_text(_script(cluster, folder))
        job_id = slurm_site.submit_script(folder / "job.sh")
        return _wait(folder, job_id, wait_s)
    finally:
        if job_id is not None:
            _end(job_id)
        shutil.rmtree(folder, ignore_errors=True)


def _wait(folder: Path, job_id: str, wait_s: float) -> dict[str, Any] | None:
    deadline, asked_at, started = time.monotonic() + wait_s, 0.0, False
    while time.monotonic() < deadline:
        if answer := _answer(folder / "answer.json"):
            return answer
        if time.monotonic() - asked_at > 2:
            asked_at, job = time.monotonic(), slurm.job(job_id)
            if job is not None and job.state not in ("PENDING", "CONFIGURING", "RUNNING", "COMPLETING"):
                time.sleep(1)  # the file may be seen here a moment later
                log = (folder / "log").read_text(errors="replace").strip() if (folder / "log").exists() else ""
                return _answer(folder / "answer.json") or {"error": log or f"the job ended as {job.state}, and no answer is seen here"}
            if job is not None and job.state == "RUNNING" and not started:
                deadline, started = time.monotonic() + max(wait_s, 120), True
        time.sleep(0.2)
    return {"error": "the job runs, and no answer of it is seen here: is runs_dir shared by all nodes?"} if started else None


def _end(job_id: str) -> None:
    try:
        slurm.cancel(job_id)
    except FvlaunchError:
        return


def _script(cluster: Cluster, folder: Path) -> str:
    options: dict[str, Any] = {key: cluster.slurm[key] for key in _KEPT if key in cluster.slurm}
    options |= {"job-name": "fvlaunch-doctor", "nodes": 1, "ntasks": 1, "time": 5, "output": str(folder / "log"), "chdir": str(folder)}
    if gpu_counts.num_gpus(cluster.slurm):
        options["gpus-per-node"] = 1
    lines = ["#!/bin/bash", *(f"#SBATCH --{key}={shlex.quote(str(value))}" for key, value in options.items()), "#SBATCH --no-requeue"]
    lines.append("unset SLURM_EXPORT_ENV")  # srun is to hand on what is set here
    run = shlex.join(["srun", "--ntasks=1", *cluster.srun_args])
    return "\n".join([*lines, _environment(cluster), guarded(cluster.setup), f"{run} {_command(cluster, folder / 'answer.json')}", ""])


def _environment(cluster: Cluster) -> str:
    path = f"export PYTHONPATH={shlex.quote(python_path(code_snapshot.source_root()))}"
    return "\n".join([path, *(f"export {name}={shlex.quote(value)}" for name, value in cluster.env.items())])


def _command(cluster: Cluster, answer: Path) -> str:
    return shlex.join([cluster.python or sys.executable, "-c", _PROGRAM, str(answer)])


def _folder(runs_dir: Path) -> Path:
    folder = runs_dir.absolute() / f".doctor-{secrets.token_hex(4)}"
    folder.mkdir(mode=0o700, parents=True)
    return folder


def _answer(path: Path) -> dict[str, Any] | None:
    try:
        list(path.parent.iterdir())  # an NFS client then looks again for what was not there
        value = json.loads(path.read_text())
    except (OSError, ValueError):
        return None
    return value if isinstance(value, dict) else None
