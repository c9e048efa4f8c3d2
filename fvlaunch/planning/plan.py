"""Owns what a submission would do: ranks, nodes, batch, sbatch options, all decided and nothing done. Pure.

Precedence ends here: job_options.py lays the options of the command line and the shell over what config/compose.py merged.
"""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from trainers.config import batching

from ..config import relocation, sbatch_options
from ..config.compose import Composed
from ..config.schema import Limits
from ..config.strict_yaml import KeyPath
from ..config.values import check_run_name, seconds
from ..errors import ConfigError, Place, Problem, counted
from ..schedulers.registry import scheduler
from ..schedulers.slurm import gpu_counts
from ..schedulers.slurm.gpu_counts import Asked
from . import job_options
from .job_options import COMMAND_LINE, JobOptions

_RANKS: KeyPath = ("resources", "ranks")
_THREADS: KeyPath = ("resources", "threads_per_rank")
_MICRO: KeyPath = ("train", "data", "micro_batch_size")
_COMPUTING = ("train", "preprocess", "evaluate")
"""Programs whose ranks take a GPU."""
_ONCE = ("dependency", "begin", "hold")
"""Options of one submission: a resumed or repeated run does not have them."""


@dataclass(frozen=True)
class Plan:
    """Everything that a submission needs."""

    name: str
    runs_dir: Path
    recipe: dict[str, Any]
    """Complete; ranks, threads_per_rank and micro_batch_size are filled in. `recipe` of run.yaml."""
    cluster: dict[str, Any]
    """Complete; `slurm` holds what the command line said too. `cluster` of run.yaml."""
    recipe_name: str
    cluster_name: str
    executor: str
    ranks: int
    nodes: int
    ranks_per_node: int
    """On each node of this run."""
    threads_per_rank: int
    micro_batch_size: int
    accumulation: int
    program: str
    """One of the recipe's programs: train, preprocess, download, evaluate, export."""
    max_steps: int
    """0: known only once it runs (clips to preprocess, bytes to download)."""
    time_s: int | None
    """Time limit of one attempt; None: none."""
    sbatch: dict[str, sbatch_options.Value]
    """Long name -> value; True is an option without a value. Without what fvlaunch sets itself. Empty for a local run."""
    env: dict[str, str]
    secrets: tuple[str, ...]
    setup: str
    srun_args: tuple[str, ...]
    python: str | None
    limits: Limits
    origins: dict[KeyPath, str] = field(repr=False)
    """Origins as in Composed, and ("sbatch", NAME) for each option."""
    path_texts: dict[str, Any] = field(default_factory=dict, repr=False)
    """Values of the recipe that were written with `${paths.x}`, by dotted key: see config/relocation.py."""
    own_copies: dict[Path, Path] = field(default_factory=dict, repr=False)
    """As in Composed: what to copy into the run in place of the user's own files."""
    pipeline: str | None = None
    """The pipeline that this run is a stage of; its folder is then `runs_dir`."""
    notes: tuple[str, ...] = field(default=(), repr=False)
    """What a person is to be told before the job is queued: what the data hold, what the shell changes, where a learning rate jumps."""

    @property
    def path(self) -> Path:
        """The run directory."""
        return self.runs_dir / self.name

    @property
    def full_name(self) -> str:
        """What RUN on a command line may be."""
        return self.name if self.pipeline is None else f"{self.pipeline}/{self.name}"

    @property
    def job_name(self) -> str:
        return self.full_name.replace("/", ".")

    @property
    def summary(self) -> str:
        accumulation = f", accumulation {self.accumulation}" if self.program == "train" else ""
        return f"{counted(self.ranks, 'rank')} = {counted(self.nodes, 'node')} x {self.ranks_per_node}{accumulation}"


def make_plan(
    composed: Composed,
    *,
    now: datetime,
    cwd: Path,
    cores_per_node: int | None = None,
    gpus: int = 0,
    name: str | None = None,
    ranks: int | None = None,
    nodes: int | None = None,
    sbatch: Mapping[str, Any] | None = None,
    shell: Mapping[str, str] | None = None,
    runs_dir: Path | None = None,
) -> Plan:
    """Decide all of a submission; ConfigError holds everything that speaks against it.

    `sbatch` is the command line's options by long name, `shell` its environment (only SBATCH_* is read), `cores_per_node` and
    `gpus` are this machine's, for local runs; `runs_dir` is the command line's or $FVLAUNCH_RUNS.
    """
    cluster = composed.cluster
    name = name or default_name(composed.recipe_name, now)
    folder = cwd / (runs_dir or Path(cluster.runs_dir or "runs"))
    options = _options(composed, sbatch or {}, shell or {})
    time_s = _time(composed, options)
    asked = job_options.asked_gpus(options)
    shape, misfits = _shape(composed, options, asked, ranks, nodes, gpus)
    own = cluster.ranks_per_node is not None
    wrong = bool(misfits or options.problems)  # then nobody knows how many ranks there would be
    fitted = {} if wrong else job_options.fitted(options, asked, shape.on_a_node, shape.nodes, ranks_are_given=own)
    problems = [*_name_problems(name, folder), *options.problems, *misfits, *([] if wrong else composed.cross_check(shape.ranks))]
    if problems:
        raise ConfigError(problems)
    threads = composed.recipe.resources.threads_per_rank or max(1, _cores(composed, fitted, cores_per_node) // shape.on_a_node)
    train = composed.recipe.train
    batch = batching(train, shape.ranks) if train is not None else None
    chosen: dict[KeyPath, int] = {_THREADS: threads, **({_MICRO: batch.micro} if batch else {})}
    computed = {path: "computed" for path in chosen if _at(composed.recipe_data, path) is None}
    kept = {key: value for key, value in options.values.items() if key not in _ONCE and key in sbatch_options.KNOWN}
    return Plan(
        name=name,
        runs_dir=folder,
        recipe=filled(composed.recipe_data, {_RANKS: shape.ranks, **chosen}),
        cluster={
            **composed.cluster_data,
            "slurm": kept if scheduler(cluster.executor).takes_sbatch_options else composed.cluster_data["slurm"],
        },
        recipe_name=composed.recipe_name,
        cluster_name=composed.cluster_name,
        executor=cluster.executor,
        ranks=shape.ranks,
        nodes=shape.nodes,
        ranks_per_node=shape.on_a_node,
        threads_per_rank=threads,
        micro_batch_size=batch.micro if batch else 0,
        accumulation=batch.accumulation if batch else 0,
        program=composed.recipe.program,
        max_steps=train.max_steps if train is not None else 0,
        time_s=time_s,
        sbatch=job_options.exporting(fitted, cluster.secrets, shell or {}),
        env=dict(cluster.env),
        secrets=tuple(cluster.secrets),
        setup=cluster.setup,
        srun_args=tuple(cluster.srun_args),
        python=cluster.python,
        limits=cluster.limits,
        own_copies=composed.own_copies,
        path_texts=relocation.inherited(composed.recipe_asked, composed.lock, composed.origins),
        origins={
            **composed.origins,
            **computed,
            **({_RANKS: "command line"} if ranks or nodes else {}),
            **{("sbatch", key): origin for key, origin in options.origins.items()},
        },
        notes=(*options.notes, *_without_gpus(composed, fitted)),
    )


@dataclass(frozen=True)
class _Shape:
    ranks: int
    nodes: int
    on_a_node: int
    full_node: int


def in_container(srun_args: Iterable[str]) -> bool:
    """Say whether a profile's job runs in a container: then this machine cannot see the files that it will see."""
    return any("container" in argument for argument in srun_args)


def default_name(recipe: str, now: datetime) -> str:
    """Return the name of a run or pipeline that was given none: recipe and time."""
    plain = re.sub("[^A-Za-z0-9._-]", "-", recipe)[:60].lstrip("._-")
    return f"{plain or 'run'}-{now:%Y%m%d-%H%M%S}"


def free_name(name: str, folder: Path) -> str:
    """Return a name that nothing in a runs folder has: this one, or with a number. Another process may take it meanwhile: who makes the
    folder first has it."""
    numbered = (f"{name}-{number}" for number in itertools.count(2))
    return next(tried for tried in itertools.chain([name], numbered) if not os.path.lexists(folder / tried))


def _name_problems(name: str, folder: Path) -> list[Problem]:
    problems = []
    try:
        check_run_name(name)
    except ValueError as error:
        message, _, hint = str(error).partition(": ")
        problems.append(Problem(message, COMMAND_LINE, "--name", hint))
    if "%" in str(folder):
        hint = "work in a folder without it, or use --runs-dir"
        problems.append(Problem(f"the runs folder {str(folder)!r} holds a %, which Slurm expands in paths", None, "", hint))
    return problems


def _options(composed: Composed, given: Mapping[str, Any], shell: Mapping[str, str]) -> JobOptions:
    """Return the sbatch options of all layers; a local run takes a time limit alone, and the shell is not asked."""
    if scheduler(composed.cluster.executor).takes_sbatch_options:
        return job_options.layered(composed.cluster, composed.origins, given, shell)
    options, hint = JobOptions(), "choose a Slurm cluster with --cluster"
    for key, value in given.items():
        if key == "time":
            options.give(key, value, COMMAND_LINE.file, COMMAND_LINE)
        else:
            options.problems.append(Problem("a local run takes no sbatch options", COMMAND_LINE, f"--{key}", hint))
    return options


def _without_gpus(composed: Composed, options: Mapping[str, Any]) -> tuple[str, ...]:
    """Return what is told of a job that computes and asks for no GPU."""
    takes_options = scheduler(composed.cluster.executor).takes_sbatch_options
    return job_options.without_gpus(composed.cluster, options) if takes_options and composed.recipe.program in _COMPUTING else ()


def _shape(
    composed: Composed, options: JobOptions, asked: Asked, ranks: int | None, nodes: int | None, gpus: int
) -> tuple[_Shape, list[Problem]]:
    """Decide how many ranks run on how many nodes."""
    where = COMMAND_LINE if ranks or nodes else composed.place(("resources", "ranks"))
    key = "--nodes" if nodes is not None else "--ranks" if ranks is not None else "resources.ranks"
    num_ranks = composed.recipe.resources.ranks if ranks is None else ranks
    if ranks is not None and nodes is not None:
        return _Shape(1, 1, 1, 1), [Problem("--ranks and --nodes exclude each other", COMMAND_LINE, "", "nodes follow from ranks")]
    if num_ranks < 1 or (nodes is not None and nodes < 1):
        return _Shape(1, 1, 1, 1), [Problem("must be at least 1", where, key)]
    if scheduler(composed.cluster.executor).runs_here:
        return _local(composed, num_ranks, nodes, gpus, where, key)
    full = composed.cluster.ranks_per_node or job_options.gpus_of_a_node(options, asked, num_ranks, nodes) or 1
    num_ranks = num_ranks if nodes is None else nodes * full
    if num_ranks <= full:
        return _Shape(num_ranks, 1, num_ranks, full), []
    if num_ranks % full:
        below = num_ranks // full * full
        hint = f"use {below} or {below + full}: a node of {composed.cluster_name} takes {full}"
        return _Shape(1, 1, 1, 1), [Problem(f"{num_ranks} ranks do not fill nodes of {full}", where, key, hint)]
    return _Shape(num_ranks, num_ranks // full, full, full), []


def _local(composed: Composed, num_ranks: int, nodes: int | None, gpus: int, where: Place | None, key: str) -> tuple[_Shape, list[Problem]]:
    shape, most = _Shape(num_ranks, 1, num_ranks, num_ranks), composed.cluster.ranks_per_node or gpus or None
    if nodes is not None and nodes > 1:
        return shape, [Problem("a local run has one node", where, key, "use --ranks, or a Slurm cluster with --cluster")]
    if most is not None and num_ranks > most:
        what = "of ranks_per_node" if composed.cluster.ranks_per_node else f"GPU{'' if most == 1 else 's'} here"
        return shape, [Problem(f"{num_ranks} ranks are more than the {most} {what}", where, key, f"use at most --ranks {most}")]
    return shape, []


def _time(composed: Composed, options: JobOptions) -> int | None:
    """Return the time limit, put into the options: the command line's, --set's, the cluster's, the recipe's.

    Local runs have none by default.
    """
    values, origins = options.values, options.origins
    time_limit, origin = composed.recipe.resources.time, composed.origins.get(("resources", "time"), "default")
    from_file = origins.get("time", "") == composed.origins.get(("cluster", "slurm", "time"))
    above = "time" not in values or (origin == "--set" and from_file and origins["time"] != "--set")
    takes_options = scheduler(composed.cluster.executor).takes_sbatch_options
    if time_limit is not None and above and (takes_options or origin == "--set"):
        values["time"], origins["time"] = time_limit, origin
    time = values.get("time")
    if not takes_options:
        values.clear()
    return None if time is None else seconds(str(time))


def _cores(composed: Composed, options: Mapping[str, Any], cores_per_node: int | None) -> int:
    """Cores that the ranks of one node share. Slurm gives the one task on a node a single core unless asked for more."""
    if scheduler(composed.cluster.executor).runs_here:
        return cores_per_node or 1
    if "cpus-per-task" in options:
        return int(options["cpus-per-task"])
    if "cpus-per-gpu" in options:
        return int(options["cpus-per-gpu"]) * (gpu_counts.num_gpus(options) or 1)
    return (cores_per_node or 1) if "exclusive" in options else 1


def _at(data: Any, path: KeyPath) -> Any:
    for key in path:
        data = data[key]
    return data


def filled(data: dict[str, Any], values: Mapping[KeyPath, Any]) -> dict[str, Any]:
    """Return a copy of nested data with some leaves set."""
    for path, value in values.items():
        first, *rest = path
        data = {**data, str(first): filled(data[str(first)], {tuple(rest): value}) if rest else value}
    return data
