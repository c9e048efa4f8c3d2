"""Owns a Slurm job of one process that somebody waits for: its script, sbatch --wait, and showing what it prints as it comes."""

from __future__ import annotations

import codecs
import os
import secrets
import select
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import IO, Any, TextIO

from ...errors import FvlaunchError, Interrupted, SchedulerRefused, SchedulerUnreachable
from ..base import ToolSpec
from ..setup_lines import guarded
from . import commands as slurm
from . import gpu_counts

_OF_THE_RUN = ("exclusive", "nodes", "ntasks", "ntasks-per-node", "dependency", "begin", "array", "hold", "requeue", "comment")
"""sbatch options of a profile that a job of one process does not take over."""
_GIVEN = '[ "${SLURM_GPUS_ON_NODE:-0}" = 0 ] || export TRAINER_GPUS="${TRAINER_GPUS:-1}"'
"""The one process must find a GPU where Slurm gave one, asked for or not."""
_POLL_S = 0.5
SBATCH_WAIT_S = 60.0


def run_tool(tool: ToolSpec) -> int:
    """Submit it, wait, show what it printed; its exit code."""
    if not slurm.available():
        raise FvlaunchError(
            f"cluster {tool.cluster} is a Slurm cluster, but sbatch is not on PATH", hint="try a login node, or leave out --cluster"
        )
    log = Path.cwd() / f".fvlaunch-{tool.name}-{secrets.token_hex(4)}.log"
    started = subprocess.Popen(
        ["sbatch", "--wait", "--parsable"],
        env=slurm.environment(os.environ),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,  # Ctrl-C must not cut it off half-way
    )
    with started:
        job_id = _submitted(started, batch_script(tool, log))
        sys.stderr.write(f"job {job_id} on {tool.cluster}; waiting for it\n")
        try:
            return _followed(started, {log: sys.stdout, _errors(log): sys.stderr}, _said(log))
        except KeyboardInterrupt:
            started.kill()  # it only waits; the job goes on
            raise Interrupted(f"job {job_id} goes on", hint=f"it prints to {log}; scancel {job_id} ends it") from None


def _followed(started: subprocess.Popen[str], streams: Mapping[Path, TextIO], said: Path) -> int:
    """Show what the job prints as it comes; its exit code."""
    logs = [GrowingLog(path, stream) for path, stream in streams.items()]
    over: int | None = None
    while over is None:
        over = _over(started, said)
        for log in logs:
            log.show()
    for path in (*streams, said):
        path.unlink(missing_ok=True)
    return over


class GrowingLog:
    """A file that a job writes, shown as it grows: what was shown is not read again."""

    def __init__(self, path: Path, stream: TextIO) -> None:
        self._path, self._stream, self._offset = path, stream, 0
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")  # a character may come in two parts

    def show(self) -> None:
        """Write what has come since the last call to the stream."""
        try:
            with self._path.open("rb") as file:
                file.seek(self._offset)
                while part := file.read(1 << 20):
                    self._offset += len(part)
                    self._stream.write(self._decoder.decode(part))
        except FileNotFoundError:
            return
        self._stream.flush()


def _over(started: subprocess.Popen[str], said: Path) -> int | None:
    """Return the job's exit code: what it has said itself; else sbatch's, which asks seldom, but also of a job that was cancelled."""
    with suppress(subprocess.TimeoutExpired):
        return started.wait(_POLL_S)
    with suppress(OSError, ValueError):
        code = int(said.read_text())
        started.kill()
        return code
    return None


def _errors(log: Path) -> Path:
    return log.with_suffix(".err")


def _said(log: Path) -> Path:
    """Return where the job leaves its exit code."""
    return log.with_suffix(".code")


def _submitted(started: subprocess.Popen[str], script: str) -> str:
    """Return the job's id, which sbatch tells at once."""
    assert started.stdin is not None and started.stdout is not None and started.stderr is not None
    started.stdin.write(script)
    started.stdin.close()
    deadline = time.monotonic() + SBATCH_WAIT_S
    job_id = _read(started, started.stdout, deadline, "\n").strip().partition(";")[0]
    if job_id.isdigit():
        return job_id
    said = _read(started, started.stderr, deadline).strip().removeprefix("sbatch: error: ")
    kind = SchedulerUnreachable if "contact" in said.lower() else SchedulerRefused
    raise kind(f"sbatch refused the job: {said or 'without a word'}")


def _read(started: subprocess.Popen[str], stream: IO[str], deadline: float, end: str | None = None) -> str:
    """Return what sbatch says up to `end`, or until it closes the stream; where it takes too long it is killed, and
    with it what wraps it."""
    text = b""
    while end is None or end.encode() not in text:
        if not select.select([stream], [], [], max(deadline - time.monotonic(), 0))[0]:
            os.killpg(started.pid, signal.SIGKILL)
            hint = "the job may be there all the same: squeue --me"
            raise SchedulerUnreachable(f"sbatch gave no answer in {SBATCH_WAIT_S:.0f} s", hint=hint)
        part = os.read(stream.fileno(), 65536)
        if not part:
            break
        text += part
    return text.decode(errors="replace")


def batch_script(tool: ToolSpec, log: Path) -> str:
    """Return a job of one process, with one GPU where the profile has any. Pure but for the folder it is called in."""
    options = _with_one_gpu({name: value for name, value in (tool.options or {}).items() if name not in _OF_THE_RUN})
    options |= {"job-name": f"fvlaunch-{tool.name}", "nodes": 1, "ntasks": 1}
    options |= {"output": str(log), "error": str(_errors(log)), "chdir": str(Path.cwd())}
    lines = ["unset SLURM_EXPORT_ENV"]  # srun is to hand on what is set here, however little of the shell --export gave this job
    lines += [f"export {name}={shlex.quote(value)}" for name, value in (tool.environment or {}).items()]
    lines += [_secret_line(name, file) for name, file in (tool.secret_files or {}).items()]
    lines.append(_GIVEN)
    command = shlex.join(["srun", "--ntasks=1", *tool.launcher_options, *tool.argv])
    said = shlex.quote(str(_said(log)))
    ending = ["code=$?", f"echo $code >{said}.tmp && mv {said}.tmp {said}", "exit $code"]
    return "\n".join(["#!/bin/bash", *_sbatch_lines(options), *lines, guarded(tool.setup), command, *ending, ""])


def _secret_line(name: str, path: Path) -> str:
    """Return a shell line that takes a secret's value from its file on the node, unless the environment has it; the script never does."""
    file = shlex.quote(str(path))
    return f'[ -n "${{{name}:-}}" ] || [ ! -r {file} ] || export {name}="$(cat {file})"'


def _with_one_gpu(options: Mapping[str, Any]) -> dict[str, Any]:
    """gres: gpu:h100:8 -> gres: gpu:h100:1; where several types are named, what the profile says."""
    try:
        return gpu_counts.asking_for(options, 1)
    except gpu_counts.GpuError:
        return dict(options)


def _sbatch_lines(options: dict[str, Any]) -> list[str]:
    """#SBATCH lines; True is an option without a value, None and False are left out."""
    given = {name: value for name, value in options.items() if value is not None and value is not False}
    return [f"#SBATCH --{name}" if value is True else f"#SBATCH --{name}={shlex.quote(str(value))}" for name, value in given.items()]
