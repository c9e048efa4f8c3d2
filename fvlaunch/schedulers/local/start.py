"""Owns starting a job on this machine, through submitit's local executor in a detached child.

As `python -m fvlaunch.schedulers.local.start` it is that child: what to start comes as JSON on its stdin.
"""

from __future__ import annotations

import importlib
import json
import os
import shlex
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

from ...errors import FvlaunchError
from ...files import in_words, publish_text, why_not_writable
from ..base import JobSpec
from ..local_process import local_job_id, num_local_gpus
from ..python_processes import after_setup, module_command, python_path

START_WAIT_S = 60.0
LIMIT_MIN = 60 * 24 * 3650
"""submitit's local executor ends a job after two minutes unless told; ours has no limit of its own."""
_OUR_CODE = Path(__file__).resolve().parents[3]


def start(job: JobSpec) -> str:
    """Start a child of its own session, which starts the job: neither a closed terminal nor $(…) may hold or end it. The job's id."""
    log, answer = job.folder / "start.log", job.folder / "started"
    answer.unlink(missing_ok=True)
    with log.open("ab") as output:
        child = subprocess.Popen(
            module_command(sys.executable, "fvlaunch.schedulers.local.start"),
            env={**os.environ, "PYTHONPATH": python_path(_OUR_CODE)},
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    _tell(child, job)
    try:
        code = child.wait(timeout=START_WAIT_S)
    except subprocess.TimeoutExpired:
        _end(child)
        raise FvlaunchError(f"the local job did not start in {START_WAIT_S:.0f} s", hint=f"see {log}") from None
    if code != 0 or not answer.is_file():
        tail = "\n".join(log.read_text(errors="replace").strip().splitlines()[-5:])
        if (error := why_not_writable(job.folder)) is not None:  # nor could it say so
            raise FvlaunchError(f"the local job did not start: {in_words(error)}", hint=f"df {job.folder.parent.parent}; make room there")
        raise FvlaunchError(f"the local job did not start:\n{tail or f'it ended with code {code}'}")
    return answer.read_text().strip()


def _tell(child: subprocess.Popen[bytes], job: JobSpec) -> None:
    function = f"{job.function.__module__}:{job.function.__qualname__}"
    message: dict[str, Any] = {"folder": str(job.folder), "code": str(job.code), "function": function, "argument": job.argument}
    message |= {"python": job.python or sys.executable, "setup": job.setup, "environment": dict(job.environment or {})}
    message["given_up"] = str(job.given_up) if job.given_up is not None else None
    assert child.stdin is not None
    with suppress(BrokenPipeError), child.stdin:  # it ended at once: its log says why
        child.stdin.write(json.dumps(message).encode())


def _end(child: subprocess.Popen[bytes]) -> None:
    """Kill it and whatever it has started: all are of its session, and nobody would know of a job that starts later."""
    with suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)
    child.wait()


def _child(message: dict[str, Any]) -> None:
    """In the detached child: hand the function to submitit's local executor and write down who runs it."""
    os.environ.update(message["environment"])
    os.environ["TRAINER_UMASK"] = f"{os.umask(0o077):04o}"  # for what the job makes to be given away
    os.environ["PYTHONPATH"] = python_path(Path(message["code"]))
    module, _, name = message["function"].partition(":")
    folder, given_up = Path(message["folder"]), message["given_up"]
    end = Path(given_up) if given_up is not None else None
    command = job_command(message["python"], message["setup"], folder, Path.cwd(), end, Path(message["code"]))
    executor = _executor(command, folder)
    os.chdir(folder)  # submitit starts its controller with -m, which looks for modules in the working directory first
    executor.update_parameters(timeout_min=LIMIT_MIN, gpus_per_node=num_local_gpus(), stderr_to_stdout=True)
    pid = int(executor.submit(getattr(importlib.import_module(module), name), message["argument"]).job_id)
    job_id = local_job_id(pid)
    if job_id is None:
        raise FvlaunchError(f"the job's controller, process {pid}, ended at once")
    try:
        publish_text(Path(message["folder"]) / "started", f"{job_id}\n")
    except OSError:
        os.kill(pid, signal.SIGKILL)  # nobody would know of this job; its agent ends with it
        raise
    sys.stderr.write(f"started {job_id}\n")


def _executor(command: list[str], folder: Path) -> Any:
    from submitit import LocalExecutor

    class Executor(LocalExecutor):  # type: ignore[misc]
        @property
        def _submitit_command_str(self) -> str:
            return shlex.join(command)

    return Executor(folder=folder)


def job_command(python: str, setup: str, folder: Path, cwd: Path, given_up: Path | None = None, code: Path | None = None) -> list[str]:
    """Return the job's process, after the profile's shell lines, which are run in `cwd`; one that fails is written to `given_up`.

    Not submitit's own `setup`: with it the job's id would be that of a shell.
    """
    command = module_command(python, "submitit.core._submit", str(folder), unbuffered=True)
    return after_setup(setup, command, given_up=given_up, cwd=cwd, code=code)


if __name__ == "__main__":
    _child(json.load(sys.stdin))
