"""Owns a Slurm job of one process that somebody waits for: its script, sbatch --wait, and showing what it prints as it comes."""

from __future__ import annotations

import codecs
import os
import re
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
from .. import patience
from ..base import ToolSpec
from ..setup_lines import guarded
from . import commands as slurm
from . import gpu_counts
from .parsing import complaint
from .site import check_answers
from .states import has_ended
from .submission import wait_s

_OF_THE_RUN = ("exclusive", "nodes", "ntasks", "ntasks-per-node", "dependency", "begin", "array", "hold", "requeue", "comment")
"""sbatch options of a profile that a job of one process does not take over."""
_GIVEN = '[ "${SLURM_GPUS_ON_NODE:-0}" = 0 ] || export TRAINER_GPUS="${TRAINER_GPUS:-1}"'
"""The one process must find a GPU where Slurm gave one, asked for or not."""
_POLL_S = 0.5
_ASK_S = 10.0
_NOT_TWICE = "if its job was queued all the same, it ends as it starts, for nobody waits for it: the same command can be typed again"


def run_tool(tool: ToolSpec) -> int:
    """Submit it, wait, show what it printed; its exit code."""
    if not slurm.available():
        raise FvlaunchError(
            f"cluster {tool.cluster} is a Slurm cluster, but sbatch is not on PATH", hint="try a login node, or leave out --cluster"
        )
    check_answers("nothing was submitted")
    log = Path.cwd() / f".fvlaunch-{tool.name}-{secrets.token_hex(4)}.log"
    _ticket(log).touch(0o600)
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
        sbatch: subprocess.Popen[str] | None = started
        try:
            job_id = _submitted(started, batch_script(tool, log))
        except BaseException as error:
            started.kill()
            if (running := _given_up(log)) is None or not isinstance(error, SchedulerUnreachable):
                raise
            job_id, sbatch = running, None
        sys.stderr.write(f"job {job_id} on {tool.cluster}; waiting for it\n")
        try:
            return _followed(sbatch, job_id, {log: sys.stdout, _errors(log): sys.stderr}, _said(log))
        except KeyboardInterrupt:
            started.kill()  # it only waits; the job goes on
            raise Interrupted(f"job {job_id} goes on", hint=f"it prints to {log}; scancel {job_id} ends it") from None


def _given_up(log: Path) -> str | None:
    """Have a job whose submission was not answered end as it starts; return its id where it has started before that."""
    try:
        _ticket(log).unlink()
    except FileNotFoundError:
        with suppress(OSError):
            return _taken(log).read_text().strip()
    return None


def _followed(sbatch: subprocess.Popen[str] | None, job_id: str, streams: Mapping[Path, TextIO], said: Path) -> int:
    """Show what the job prints as it comes; its exit code."""
    logs = [GrowingLog(path, stream) for path, stream in streams.items()]
    over: int | None = None
    while over is None:
        over = _over(sbatch, said, job_id)
        for log in logs:
            log.show()
    for path in (*streams, said, _ticket(said), _taken(said)):
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


def _over(sbatch: subprocess.Popen[str] | None, said: Path, job_id: str) -> int | None:
    """Return the job's exit code: what it has said itself; else sbatch's, which asks seldom, but also of a job that was cancelled.

    Of a job that no sbatch waits for, Slurm is asked as seldom.
    """
    if sbatch is None:
        time.sleep(_POLL_S)
    else:
        with suppress(subprocess.TimeoutExpired):
            return sbatch.wait(_POLL_S)
    with suppress(OSError, ValueError):
        code = int(said.read_text())
        if sbatch is not None:
            sbatch.kill()
        return code
    if sbatch is None and time.monotonic() % _ASK_S < _POLL_S:
        with suppress(FvlaunchError):
            details = slurm.job(job_id)
            return 1 if details is None or has_ended(details.state, details.end_at) else None
    return None


def _errors(log: Path) -> Path:
    return log.with_suffix(".err")


def _said(log: Path) -> Path:
    """Return where the job leaves its exit code."""
    return log.with_suffix(".code")


def _ticket(log: Path) -> Path:
    """Return the file that says that somebody waits for this job, or knows of it: one that is taken without an answer does nothing."""
    return log.with_suffix(".job")


def _taken(log: Path) -> Path:
    """Return what a job makes of its ticket as it starts, with its id in it: its next life, should it be requeued, finds that."""
    return log.with_suffix(".run")


def _submitted(started: subprocess.Popen[str], script: str) -> str:
    """Return the job's id, which sbatch tells at once."""
    assert started.stdin is not None and started.stdout is not None and started.stderr is not None
    with suppress(BrokenPipeError), started.stdin:  # it may end before it has read anything, and then says why
        started.stdin.write(script)
    up_to_s = wait_s()
    deadline = time.monotonic() + up_to_s
    with patience.waiting("Slurm has not answered sbatch", up_to_s):
        job_id = _read(started, started.stdout, deadline, "\n").strip().partition(";")[0]
        if job_id.isdigit():
            return job_id
        said = complaint(_read(started, started.stderr, deadline))
    if not said or re.search(slurm.NO_ANSWER, said):
        raise SchedulerUnreachable(f"sbatch: {said or 'it ended without a word'}; {_NOT_TWICE}", hint=slurm.hint_of_silence(said))
    raise SchedulerRefused(f"sbatch refused the job: {said}")


def _read(started: subprocess.Popen[str], stream: IO[str], deadline: float, end: str | None = None) -> str:
    """Return what sbatch says up to `end`, or until it closes the stream; where it takes too long it is killed, and
    with it what wraps it."""
    text = b""
    while end is None or end.encode() not in text:
        if not select.select([stream], [], [], max(deadline - time.monotonic(), 0))[0]:
            os.killpg(started.pid, signal.SIGKILL)
            raise SchedulerUnreachable(f"sbatch gave no answer in {wait_s():.0f} s; {_NOT_TWICE}", hint=slurm.PING_HINT)
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
    unwanted = shlex.join(["rm", "-f", str(log), str(_errors(log))])
    ticket, taken = shlex.quote(str(_ticket(log))), shlex.quote(str(_taken(log)))
    lines = [f"mv {ticket} {taken} 2>/dev/null || [ -e {taken} ] || {{ {unwanted}; exit 0; }}  # nobody knows of this job"]
    lines += [f"echo $SLURM_JOB_ID >{taken}"]
    lines += ["unset SLURM_EXPORT_ENV"]  # srun is to hand on what is set here, however little of the shell --export gave this job
    lines += [f"export {name}={shlex.quote(value)}" for name, value in (tool.environment or {}).items()]
    lines += [_secret_line(name, file) for name, file in (tool.secret_files or {}).items()]
    lines.append(_GIVEN)
    command = shlex.join(["srun", "--ntasks=1", *tool.launcher_options, *tool.argv])
    said = shlex.quote(str(_said(log)))
    ending = ["code=$?", f"echo $code >{said}.tmp && mv {said}.tmp {said}", f"rm -f {taken}", "exit $code"]
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
