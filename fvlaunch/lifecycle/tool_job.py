"""Owns starting one of the trainers' programs (export, sample), here or where a cluster profile says, and waiting for it.

Must not import torch: the programs check what they are asked for and say what is wrong.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..config import secrets as secret_values
from ..config.compose import compose, compose_cluster
from ..config.schema import Cluster
from ..errors import ConfigError, FvlaunchError
from ..planning.job_options import layered
from ..planning.planner import shell_for
from ..runs import code_snapshot, job_folder
from ..runs.directory import Run
from ..schedulers.base import ToolSpec
from ..schedulers.python_processes import module_command, python_path
from ..schedulers.registry import HERE, scheduler

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
        tool = ToolSpec(program, argv(_python_here(profile)), environment=_code(), secrets=secrets)
        return _ended(program, scheduler(HERE).run_tool(tool))
    cluster = compose_cluster(cluster_name)
    if scheduler(cluster.executor).has_queue:
        job_folder.check_job_path(Path.cwd())
    tool = tool_of(program, argv(cluster.python or sys.executable), cluster_name, cluster)
    return _ended(program, scheduler(cluster.executor).run_tool(replace(tool, options=_options(cluster))))


def _options(cluster: Cluster) -> dict[str, Any]:
    """Return the profile's sbatch options and what the shell changes of them, which is told."""
    if not scheduler(cluster.executor).takes_sbatch_options:
        return dict(cluster.slurm)
    options = layered(cluster, {}, {}, shell_for(cluster.executor))
    if options.problems:
        raise ConfigError(options.problems)
    for note in options.notes:
        sys.stderr.write(f"{note}\n")
    return dict(options.values)


def _ended(program: str, code: int) -> int:
    """Return the program's exit code; FvlaunchError where it was killed and could not say so itself."""
    number = -code if code < 0 else code - 128  # of a shell, as in a job
    if 0 < number < signal.NSIG and number != signal.SIGINT:
        hint = "out of memory? with --cluster it runs where there is more" if number == signal.SIGKILL else ""
        raise FvlaunchError(f"{program} was killed by signal {number} ({signal.strsignal(number)}): it was not done", hint=hint)
    return code


def tool_of(program: str, argv: Sequence[str], cluster_name: str, cluster: Cluster) -> ToolSpec:
    """Return the program as a cluster profile has it run. A secret that others could read is refused here, not on the node."""
    return ToolSpec(
        program,
        argv,
        cluster=cluster_name,
        environment={**cluster.env, **_code(cluster.env)},
        secrets=secret_values.values(cluster.secrets),
        secret_files={name: secret_values.file(name) for name in cluster.secrets},
        setup=cluster.setup,
        options=cluster.slurm,
        launcher_options=cluster.srun_args,
    )


def _code(environment: Mapping[str, str] | None = None) -> dict[str, str]:
    return {"PYTHONPATH": python_path(code_snapshot.source_root(), {**os.environ, **(environment or {})})}


def _profile_of(source: Path) -> Cluster | None:
    """Return the cluster profile of a run; None for a folder that is no run's."""
    config = Run(source).config_file
    return compose(str(config)).cluster if config.is_file() else None


def _python_here(profile: Cluster | None) -> str:
    """Return the interpreter that the run was trained with, where this machine has it."""
    named = profile.python if profile is not None else None
    return named if named is not None and shutil.which(named) else sys.executable
