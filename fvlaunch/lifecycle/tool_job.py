"""Owns starting one of the trainers' programs (export, sample) here or as a Slurm job of one process that is waited for.

Must not import torch: the programs check what they are asked for and say what is wrong.
"""

from __future__ import annotations

import os
import re
import secrets
import shlex
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, TextIO

from ..config import secrets as secret_values
from ..config.compose import compose
from ..config.schema import Cluster
from ..errors import FvlaunchError, Interrupted, SchedulerRefused, SchedulerUnreachable
from ..runs import code_snapshot, job_folder
from ..runs.directory import Run
from ..schedulers.slurm import commands as slurm

Value = str | int | float | bool | Path | list[str] | None

_ANY_RECIPE = "shapes-finetune"
"""A profile is only ever resolved together with a recipe; which one does not matter here."""
_OF_THE_RUN = ("exclusive", "nodes", "ntasks", "ntasks-per-node", "dependency", "begin", "array", "hold", "requeue", "comment")
"""sbatch options of a profile that a job of one process does not take over."""
_POLL_S = 0.5


def arguments(options: Mapping[str, Value]) -> list[str]:
    """Options by name as an argument list: None and False are left out, a list is an option for each item."""
    argv: list[str] = []
    for name, value in options.items():
        flag = f"--{name.replace('_', '-')}"
        if value is True:
            argv.append(flag)
        elif isinstance(value, list):
            argv += [f"{flag}={item}" for item in value]
        elif value is not None and value is not False:
            argv.append(f"{flag}={value}")  # with =, a value may begin with a dash
    return argv


def make(program: str, source: Path, options: Mapping[str, Value], cluster_name: str | None) -> int:
    rest = ["-m", f"trainers.{program}", str(source), *arguments(options)]
    if cluster_name is None:
        profile = _profile_of(source)
        return _start([_python_here(profile), *rest], secret_values.values(profile.secrets) if profile is not None else {})
    cluster = compose(_ANY_RECIPE, cluster_name).cluster
    argv = [cluster.python or sys.executable, *rest]
    if cluster.executor == "slurm":
        return _job(cluster_name, cluster, program, argv)
    setup = cluster.setup.strip()
    return _start(
        ["sh", "-c", f'set -e\n{setup}\nexec "$0" "$@"', *argv] if setup else argv, {**cluster.env, **secret_values.values(cluster.secrets)}
    )


def _profile_of(source: Path) -> Cluster | None:
    """Return the cluster profile of a run; None for a folder that is no run's."""
    config = Run(source).config_file
    return compose(str(config)).cluster if config.is_file() else None


def _python_here(profile: Cluster | None) -> str:
    """Return the interpreter that the run was trained with, where this machine has it."""
    named = profile.python if profile is not None else None
    return named if named is not None and shutil.which(named) else sys.executable


def _start(argv: Sequence[str], env: Mapping[str, str]) -> int:
    try:
        return subprocess.run(argv, env={**os.environ, **env, "PYTHONPATH": _python_path()}, check=False).returncode
    except OSError as error:
        raise FvlaunchError(
            f"cannot start {argv[0]}: {error.strerror}", hint="`python` of the cluster profile names the interpreter"
        ) from None


def _python_path() -> str:
    return os.pathsep.join(filter(None, [str(code_snapshot.source_root()), os.environ.get("PYTHONPATH")]))


# --- as a job


def _job(name: str, cluster: Cluster, program: str, argv: Sequence[str]) -> int:
    """Submit it, wait, show what it printed; its exit code."""
    if not slurm.available():
        raise FvlaunchError(
            f"cluster {name} is a Slurm cluster, but sbatch is not on PATH", hint="try a login node, or leave out --cluster"
        )
    secret_values.values(cluster.secrets)  # one that others could read is refused here, not on the node
    log = Path.cwd() / f".fvlaunch-{program}-{secrets.token_hex(4)}.log"
    job_folder.check_job_path(log)
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
        job_id = _submitted(started, batch_script(cluster, program, argv, log))
        sys.stderr.write(f"job {job_id} on {name}; waiting for it\n")
        try:
            return _followed(started, {log: sys.stdout, _errors(log): sys.stderr}, _said(log))
        except KeyboardInterrupt:
            started.kill()  # it only waits; the job goes on
            raise Interrupted(f"job {job_id} goes on", hint=f"it prints to {log}; scancel {job_id} ends it") from None


def _followed(started: subprocess.Popen[str], streams: Mapping[Path, TextIO], said: Path) -> int:
    """Show what the job prints as it comes; its exit code."""
    shown = dict.fromkeys(streams, 0)
    over: int | None = None
    while over is None:
        over = _over(started, said)
        for path, stream in streams.items():
            text = path.read_bytes()[shown[path] :] if path.is_file() else b""
            shown[path] += len(text)
            stream.write(text.decode(errors="replace"))
            stream.flush()
    for path in (*streams, said):
        path.unlink(missing_ok=True)
    return over


def _over(started: subprocess.Popen[str], said: Path) -> int | None:
    """The job's exit code: what it has said itself; else sbatch's, which asks seldom, but also of a job that was cancelled."""
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
    """Where the job leaves its exit code."""
    return log.with_suffix(".code")


def _submitted(started: subprocess.Popen[str], script: str) -> str:
    """The job's id, which sbatch tells at once."""
    assert started.stdin is not None and started.stdout is not None and started.stderr is not None
    started.stdin.write(script)
    started.stdin.close()
    job_id = started.stdout.readline().strip().partition(";")[0]
    if job_id.isdigit():
        return job_id
    said = started.stderr.read().strip().removeprefix("sbatch: error: ")
    kind = SchedulerUnreachable if "contact" in said.lower() else SchedulerRefused
    raise kind(f"sbatch refused the job: {said or 'without a word'}")


def batch_script(cluster: Cluster, program: str, argv: Sequence[str], log: Path) -> str:
    """A job of one process, with one GPU where the profile has any. Pure but for the folder and path it is called with."""
    options = {name: _one_gpu(name, value) for name, value in cluster.slurm.items() if name not in _OF_THE_RUN}
    options |= {"job-name": f"fvlaunch-{program}", "nodes": 1, "ntasks": 1}
    options |= {"output": str(log), "error": str(_errors(log)), "chdir": str(Path.cwd())}
    exports = {"PYTHONPATH": _python_path(), **cluster.env}
    lines = [f"export {name}={shlex.quote(value)}" for name, value in exports.items()]
    lines += [_secret_line(name) for name in cluster.secrets]
    command = shlex.join(["srun", "--ntasks=1", *cluster.srun_args, *argv])
    said = shlex.quote(str(_said(log)))
    ending = ["code=$?", f"echo $code >{said}.tmp && mv {said}.tmp {said}", "exit $code"]
    return "\n".join(["#!/bin/bash", *_sbatch_lines(options), *lines, cluster.setup.strip(), command, *ending, ""])


def _secret_line(name: str) -> str:
    """Return a shell line that takes a secret's value from its file on the node, unless the environment has it; the script never does."""
    file = shlex.quote(str(secret_values.file(name)))
    return f'[ -n "${{{name}:-}}" ] || [ ! -r {file} ] || export {name}="$(cat {file})"'


def _one_gpu(name: str, value: Any) -> Any:
    """gpu:h100:8 -> gpu:h100:1"""
    counted = name in ("gpus", "gpus-per-node", "gpus-per-task") or (name == "gres" and str(value).startswith("gpu"))
    return re.sub(r"\d+$", "1", str(value)) if counted else value


def _sbatch_lines(options: dict[str, Any]) -> list[str]:
    """#SBATCH lines; True is an option without a value, None and False are left out."""
    given = {name: value for name, value in options.items() if value is not None and value is not False}
    return [f"#SBATCH --{name}" if value is True else f"#SBATCH --{name}={shlex.quote(str(value))}" for name, value in given.items()]
