"""Owns telling a scheduler what a run's job is: from a plan, or from run.yaml where there is none. Must not submit."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from ..agent.main import run_agent
from ..config.lookup import template
from ..planning.plan import Plan
from ..runs import code_snapshot
from ..runs.directory import Run
from ..runs.job_folder import GIVEN_UP
from ..runs.run_config import load
from ..schedulers.base import JobSpec
from ..schedulers.registry import scheduler


def of_plan(run: Run, plan: Plan, folder: Path) -> JobSpec:
    """Return the job of a planned submission; `folder` is named by its token."""
    return replace(
        _agent(run, plan.job_name, folder),
        nodes=plan.nodes,
        python=plan.python,
        setup=plan.setup,
        environment=plan.env,
        options=plan.sbatch,
        launcher_options=plan.srun_args,
        resubmits=plan.cluster.get("continue_by") == "resubmit",
        early_notice_s=int(plan.limits.notice_lead_s or 120),
        most_failed_starts=plan.limits.starts_without_progress,
        most_memory_failures=plan.limits.out_of_memory,
    )


def of_run(run: Run, folder: Path) -> JobSpec:
    """Return the job of a run as its run.yaml says, for schedulers that take no options of their own."""
    cluster = load(run).cluster
    job = _agent(run, run.name.replace("/", "."), folder)
    return replace(job, python=cluster.python, setup=cluster.setup, environment=cluster.env)


def _agent(run: Run, name: str, folder: Path) -> JobSpec:
    """Return the job that starts the run's agents, with nothing said yet of where and how."""
    code = code_snapshot.code_folder(run)
    given_up = folder / GIVEN_UP
    return JobSpec(name, folder.name, folder, code, function=run_agent, argument=str(run.path), template=template, given_up=given_up)


def batch_script(run: Run, plan: Plan, token: str) -> str | None:
    """Return the script that would be submitted with that token, and write nothing; None where the scheduler takes none."""
    return scheduler(plan.executor).batch_script(of_plan(run, plan, run.job / token))
