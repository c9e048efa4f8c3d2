"""Owns what is printed of a submission before anything is queued: the dry run, its memory, and Slurm's answers to --test-only.

Must not submit, and must not leave anything behind.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..config.compose import Composed
from ..errors import FvlaunchError, counted
from ..planning import gpu_memory, traced_memory
from ..planning.input_contents import check_contents
from ..planning.plan import Plan
from ..planning.preflight import check_inputs, check_samples
from ..planning.warnings import memory_lines
from ..runs import job_folder
from ..runs.directory import Run
from ..schedulers.registry import scheduler
from ..schedulers.slurm import commands as slurm
from . import output as printing

# --- the dry run


def dry_run(plan: Plan, *, traced: bool = False, json_: bool) -> None:
    """Print the resolved recipe and the batch script on stdout, the estimated memory on stderr."""
    from ..config.strict_yaml import dump

    text = script(plan)
    if json_:
        values = {"run": plan.name, "path": plan.path, "summary": plan.summary, "recipe": plan.recipe, "batch_script": text}
        printing.as_json({**values, "memory": memory(plan, traced=traced)})
        return
    printing.say(f"{plan.name}: {plan.summary}; nothing was submitted")
    printing.out(dump(plan.recipe))
    if text:
        printing.out(text)
    for line in (*plan.notes, *memory_lines(plan)):
        printing.say(line)
    if traced:
        say_traced(plan)


def memory(plan: Plan, *, traced: bool) -> dict[str, Any] | None:
    """Return the estimate, and where it is `traced` what was simulated, or why nothing was."""
    values = gpu_memory.as_json(plan)
    if not traced or values is None:
        return values
    try:
        return {**values, "simulated": traced_memory.trace(plan).figures}
    except traced_memory.NotTraced as why:
        return {**values, "simulated": None, "not_simulated": str(why)}


def say_traced(plan: Plan) -> None:
    """Simulate a plan, and print both columns; a line where it cannot be simulated."""
    try:
        printing.say(f"simulating one of {counted(plan.ranks, 'rank')} by {traced_memory.program(plan)}, which may take minutes")
        found, needs = traced_memory.trace(plan), gpu_memory.estimated(plan)
    except traced_memory.NotTraced as why:
        printing.say(f"not simulated: {why}")
        return
    for line in traced_memory.lines(needs, found):
        printing.say(line)


def look(composed: Composed) -> None:
    """Raise ConfigError for data and models that are missing; called last, since the dry run of an incomplete recipe is of use too."""
    check_inputs(composed)
    check_samples(composed)
    for line in check_contents(composed):
        printing.say(line)


def script(plan: Plan) -> str | None:
    """Return the batch script that would be submitted, with a new token; None where the scheduler takes none."""
    from ..lifecycle import job_specs

    return job_specs.batch_script(Run(plan.path), plan, job_folder.new_token())


# --- asking Slurm


@dataclass(frozen=True)
class PartitionAnswer:
    """What Slurm says to a plan on a partition; `partition` empty: the cluster's default."""

    cluster: str
    partition: str
    accepted: bool
    start: str
    """Slurm's own text."""
    reason: str
    nodes: int
    ranks: int
    gpu_hours: float | None
    """At most, of one attempt; None without a time limit."""


def ask(plans: Sequence[Plan]) -> list[PartitionAnswer]:
    """Ask `sbatch --test-only` about each plan on each partition that it names; SchedulerUnreachable where nobody answers."""
    return [_ask(one) for plan in plans for one in _by_partition(plan)]


def _by_partition(plan: Plan) -> list[Plan]:
    """Split a plan by partition: a job may name several and takes the first that is free, but here each is asked about by itself."""
    names = str(plan.sbatch.get("partition") or "").split(",")
    return [replace(plan, sbatch={**plan.sbatch, "partition": name}) for name in names] if len(names) > 1 else [plan]


def _ask(plan: Plan) -> PartitionAnswer:
    with tempfile.TemporaryDirectory(prefix="fvlaunch-") as folder:
        path = Path(folder) / "submission.sh"
        path.write_text(script(plan) or "", encoding="utf-8")
        said = slurm.test_only([str(path)])
    hours = None if plan.time_s is None else plan.time_s / 3600
    return PartitionAnswer(
        plan.cluster_name, str(plan.sbatch.get("partition") or ""), said.accepted, said.start, said.reason, plan.nodes, plan.ranks,
        None if hours is None else plan.ranks * hours,
    )  # fmt: skip


def print_answers(answers: Sequence[PartitionAnswer], *, json_: bool) -> int:
    """Print Slurm's answers; return 0 where at least one partition takes the job, else 1."""
    if json_:
        printing.as_json([vars(one) for one in answers])
    else:
        rows = [
            [one.cluster, one.partition or "(default)", "yes" if one.accepted else "no", one.start, str(one.nodes), str(one.ranks),
             "no limit" if one.gpu_hours is None else f"{one.gpu_hours:.1f}", one.reason]
            for one in answers
        ]  # fmt: skip
        printing.table(["CLUSTER", "PARTITION", "ACCEPTED", "START", "NODES", "GPUS", "GPU-HOURS AT MOST", "WHY NOT"], rows)
        printing.say("nothing was submitted")
    return 0 if any(one.accepted for one in answers) else 1


def check_slurm(plans: Sequence[Plan]) -> None:
    """Refuse --test-only for a plan that no Slurm cluster would run."""
    for plan in plans:
        if not scheduler(plan.executor).takes_sbatch_options:
            raise FvlaunchError(
                f"--test-only asks Slurm, and cluster {plan.cluster_name} is not one", hint="--dry-run shows what would be done here"
            )
