"""Owns starting one of the trainers' programs (export, sample), here or where a cluster profile says, and waiting for it.

Must not import torch: the programs check what they are asked for and say what is wrong; before a job is queued they do so here.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..config import secrets as secret_values
from ..config.compose import compose, compose_cluster
from ..config.schema import Cluster
from ..errors import ConfigError, FvlaunchError
from ..planning.job_options import layered, without_gpus
from ..planning.plan import in_container
from ..planning.planner import shell_for
from ..runs import code_snapshot, job_folder
from ..runs.directory import Run
from ..schedulers.base import ToolSpec
from ..schedulers.python_processes import module_command, python_path
from ..schedulers.registry import HERE, scheduler

_COMPUTING = ("sample",)
"""Programs that take a GPU; an export moves weights on the CPU."""
_CHECK_S = 60.0

Value = str | int | float | bool | Path | list[str] | None


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
    """Run a program on what `source` holds, to its end; its exit code."""

    def argv(python: str) -> list[str]:
        return module_command(python, f"trainers.{program}", str(source), *arguments(options))

    if cluster_name is None:
        profile = _profile_of(source)
        secrets = secret_values.values(profile.secrets) if profile is not None else {}
        tool = ToolSpec(program, argv(_python_here(profile)), environment=_environment(program), secrets=secrets)
        return _ended(program, scheduler(HERE).run_tool(tool))
    cluster = compose_cluster(cluster_name)
    sbatch, notes = _options(program, cluster)
    for note in notes:
        sys.stderr.write(f"{note}\n")
    if scheduler(cluster.executor).has_queue:
        job_folder.check_job_path(Path.cwd())
        check_only = "--check-only=options" if in_container(cluster.srun_args) else "--check-only=all"
        if code := _checked([*argv(_python_here(cluster)), check_only], program, cluster):
            return code
    tool = tool_of(program, argv(cluster.python or sys.executable), cluster_name, cluster, sbatch)
    return _ended(program, scheduler(cluster.executor).run_tool(tool))


def _options(program: str, cluster: Cluster) -> tuple[dict[str, Any], list[str]]:
    """Return the profile's sbatch options with what the shell changes of them, and what is told of that."""
    if not scheduler(cluster.executor).takes_sbatch_options:
        return dict(cluster.slurm), []
    options = layered(cluster, {}, {}, shell_for(cluster.executor))
    if options.problems:
        raise ConfigError(options.problems)
    lacking = without_gpus(cluster, options.values) if program in _COMPUTING else ()
    return dict(options.values), [*options.notes, *lacking]


def _checked(argv: Sequence[str], program: str, cluster: Cluster) -> int:
    """Let the program check here what it would check in its job and print what it refuses; return 1 where it did, else 0.

    That it cannot be started here, as where only the nodes have torch, is no fault of what was asked for.
    """
    environment = {**os.environ, **cluster.env, **_environment(program, cluster.env)}
    try:
        done = subprocess.run(
            argv, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace", check=False,
            timeout=_CHECK_S,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired):
        return 0
    told = "Traceback" not in done.stderr and any(line.startswith("error: ") for line in done.stderr.split("\n"))
    refused = done.returncode == 1 and told  # an interpreter that lacks a module ends with 1, too
    sys.stderr.write(f"{done.stderr.rstrip()}\n" if refused else "")
    return int(refused)


def _ended(program: str, code: int) -> int:
    """Return the program's exit code; FvlaunchError where it was killed and could not say so itself."""
    number = -code if code < 0 else code - 128  # of a shell, as in a job
    if 0 < number < signal.NSIG and number != signal.SIGINT:
        hint = "out of memory? with --cluster it runs where there is more" if number == signal.SIGKILL else ""
        raise FvlaunchError(f"{program} was killed by signal {number} ({signal.strsignal(number)}): it was not done", hint=hint)
    return code


def tool_of(program: str, argv: Sequence[str], cluster_name: str, cluster: Cluster, options: Mapping[str, Any] | None = None) -> ToolSpec:
    """Return the program as a cluster profile has it run. A secret that others could read is refused here, not on the node.

    `options`: the scheduler's, where they are not the profile's own.
    """
    options = cluster.slurm if options is None else options
    return ToolSpec(
        program,
        argv,
        cluster=cluster_name,
        environment={**cluster.env, **_gpus(program, cluster, options), **_environment(program, cluster.env)},
        secrets=secret_values.values(cluster.secrets),
        secret_files={name: secret_values.file(name) for name in cluster.secrets},
        setup=cluster.setup,
        options=options,
        launcher_options=cluster.srun_args,
    )


def _environment(program: str, environment: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return where the program's code is, and what a person typed to start it."""
    path = python_path(code_snapshot.source_root(), {**os.environ, **(environment or {})})
    return {"PYTHONPATH": path, "TRAINER_COMMAND": f"fvlaunch {program}"}


def _gpus(program: str, cluster: Cluster, options: Mapping[str, Any]) -> dict[str, str]:
    """Return how many GPUs the one process must find, as its ranks are told; nothing where neither the job nor the profile says so."""
    gpus = cluster.model_copy(update={"slurm": dict(options)}).gpus_of_a_node(None, 1)
    return {"TRAINER_GPUS": str(gpus)} if program in _COMPUTING and gpus is not None else {}


def _profile_of(source: Path) -> Cluster | None:
    """Return the cluster profile of a run; None for a folder that is no run's."""
    config = Run(source).config_file
    return compose(str(config)).cluster if config.is_file() else None


def _python_here(profile: Cluster | None) -> str:
    """Return the interpreter that the run was trained with, where this machine has it."""
    named = profile.python if profile is not None else None
    return named if named is not None and shutil.which(named) else sys.executable
