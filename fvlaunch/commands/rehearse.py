"""Owns `fvlaunch rehearse`: two equal tiny runs, one of them really interrupted, and the proof that nobody can tell which.

Must not touch other runs. On Slurm the interruption is a requeue or, with --preempt-with, a preemption by a job of a stronger partition;
locally it is a stop and a resume.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import FvlaunchError, SchedulerRefused
from ..files import read_lines
from ..lifecycle import stop
from ..lifecycle import submit as submission
from ..lifecycle.stored_checkpoints import remove_run
from ..planning import planner
from ..runs import registry
from ..runs.attempts import read_attempts
from ..runs.directory import FINAL_STATES, Run
from ..schedulers.registry import scheduler
from ..schedulers.slurm import commands as slurm
from ..schedulers.slurm import site as slurm_site
from ..status import liveness
from ..status.run_status import last_metrics
from . import output as printing
from . import progress

RECIPE = "shapes-finetune"
_SETS = (
    "train.data.path=${paths.data}/rehearsal",
    "train.data.prepare={kind: shapes, repeats: 1}",
    "train.data.global_batch_size=8",
    "train.deterministic=true",
    "train.callbacks.validation=null",
    "train.tracking=null",
    "train.checkpoint.every_minutes=null",
)
_START_S = 6 * 3600.0
"""Longest wait for the first steps: queues are long."""
_END_S = 120.0
"""Longest wait for a job whose agent has said its last word."""


@dataclass(frozen=True)
class Drill:
    cluster: str | None
    steps: int
    ranks: int | None
    sets: list[str]
    sbatch: dict[str, Any]
    preempt_with: str | None
    keep: bool
    runs_dir: Path | None


def rehearse(drill: Drill, *, json_: bool) -> int:
    """Run a tiny training twice, one of them interrupted; return 0 where that one came back and its losses are bitwise the other's."""
    name = f"rehearsal-{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(2)}"  # two may be started within a second
    printing.say("1. a tiny run that nobody disturbs")
    whole = _submit(drill, f"{name}-whole")
    _finish(whole)
    printing.say(f"2. the same run, interrupted after step {drill.steps // 2}")
    broken = _submit(drill, f"{name}-interrupted")
    _reach(broken, drill.steps // 2)
    how = _interrupt(drill, broken)
    printing.say(
        f"   {how}{'; a requeued job waits about two minutes at most sites' if scheduler(broken.record().executor).has_queue else ''}"
    )
    _finish(broken)
    outcome = compare(whole, broken, how)
    _print_outcome(outcome, json_=json_)
    if outcome["ok"] and not drill.keep:
        for run in (whole, broken):
            remove_run(run)
    return 0 if outcome["ok"] else 1


def compare(whole: Run, broken: Run, how: str) -> dict[str, Any]:
    """Return what the drill has shown, by claim."""
    first, second = (_losses(run) for run in (whole, broken))
    attempts = read_attempts(broken)
    differing = [step for step in first.keys() | second.keys() if first.get(step) != second.get(step)]
    lines = [line["step"] for line in read_lines(broken.metrics_file)]
    lost = (attempts[0].step_to or 0) - (attempts[1].step_from or 0) if len(attempts) > 1 else 0
    checks = {
        "both finished": all(run.record().state == "finished" for run in (whole, broken)),
        "it was really interrupted": len(attempts) > 1,
        "no step twice": len(lines) == len(set(lines)),
        "losses bitwise the same": bool(first) and not differing,
    }
    return {
        "ok": all(checks.values()), "how": how, "checks": checks, "steps": len(first), "steps_done_again": max(0, lost),
        "first_difference": min(differing, default=None), "causes": [a.cause.value for a in attempts],
        "save_s": max((a.save_s for a in attempts if a.save_s is not None), default=None), "runs": [str(whole.path), str(broken.path)],
    }  # fmt: skip


def _print_outcome(outcome: dict[str, Any], *, json_: bool) -> None:
    if json_:
        return printing.as_json(outcome)
    printing.table(["", "CHECK"], [["OK" if right else "FAIL", check] for check, right in outcome["checks"].items()])
    printing.say(f"{outcome['how']}; attempts ended by: {', '.join(outcome['causes'])}; steps done again: {outcome['steps_done_again']}")
    if outcome["save_s"] is not None:
        printing.say(f"a save of this tiny run took {outcome['save_s']:.1f} s")
    if not outcome["ok"]:
        printing.say(f"the runs are kept: {' and '.join(outcome['runs'])}")
    return None


def _submit(drill: Drill, name: str) -> Run:
    _, plan = planner.plan_submission(
        RECIPE,
        planner.named_cluster(RECIPE, drill.cluster) or "local",
        sets=[*_SETS, f"train.max_steps={drill.steps}", f"train.checkpoint.every_steps={max(2, drill.steps // 5)}", *drill.sets],
        name=name,
        ranks=drill.ranks,
        nodes=None,
        sbatch=drill.sbatch,
        runs_dir=drill.runs_dir or registry.runs_dir_option(None),
    )
    return submission.submit(plan, take_snapshot=True, request={"rehearse": name})


def _finish(run: Run) -> None:
    code, status = progress.wait(run)
    if status is None:
        raise FvlaunchError("the rehearsal was left", hint=f"fvlaunch cancel {run.name}")
    if code != 0:
        raise FvlaunchError(f"{run.name} is {status.state}: {status.reason}", hint=f"fvlaunch logs {run.name}; fvlaunch doctor")


def _reach(run: Run, step: int) -> None:
    _until(lambda: last_metrics(run.metrics_file).get("step", 0) >= step, run, f"{run.name} does not reach step {step}")


def _until(true: Callable[[], bool], run: Run, what: str, limit_s: float = _START_S) -> None:
    deadline, over = time.monotonic() + limit_s, progress.rarely_over(run)
    while not true():
        if (over() and not true()) or time.monotonic() > deadline:
            raise FvlaunchError(what, hint=f"fvlaunch status {run.name}; a larger --steps leaves more time to interrupt it")
        time.sleep(0.1)


def _interrupt(drill: Drill, run: Run) -> str:
    """Interrupt the run; return in words how."""
    job_id = run.record().job_id
    if job_id is None or not scheduler(run.record().executor).can_requeue:
        stop.stop(run)
        _until(lambda: run.record().state in FINAL_STATES, run, f"{run.name} does not stop")
        _await_job_end(run)
        submission.resubmit(run, planner.plan_resume(run, None, sets=[], ranks=None, sbatch={}))
        return "stopped, and resumed"
    if drill.preempt_with is None:
        if not scheduler(run.record().executor).requeue(job_id):
            raise SchedulerRefused(f"the scheduler does not know job {job_id} any more")
        return "requeued by scontrol"
    _preempt(run, job_id, drill.preempt_with)
    return f"preempted by a job in {drill.preempt_with}"


def _await_job_end(run: Run, limit_s: float = _END_S) -> None:
    """Its agent has said its last word, and is just ending."""
    deadline = time.monotonic() + limit_s
    while liveness.liveness(run.record()) is liveness.Liveness.ALIVE:
        if time.monotonic() > deadline:
            hint = f"fvlaunch logs {run.name} --job; fvlaunch cancel {run.name}"
            raise FvlaunchError(f"{run.name} is {run.record().state}, but its job {run.record().job_id} does not end", hint=hint)
        time.sleep(0.1)


def _preempt(run: Run, job_id: str, partition: str) -> None:
    """Submit a job of seconds that needs the same nodes."""
    details = slurm.job(job_id)
    if details is None or not details.nodes:
        raise FvlaunchError(f"{run.name} does not run any more", hint="a larger --steps")
    options = {"partition": partition, "nodelist": details.nodes, "exclusive": "", "mem": 0, "time": 2, "output": "/dev/null"}
    script = run.job / "preemptor.sh"
    lines = [f"#SBATCH --{key}{f'={value}' if value != '' else ''}" for key, value in options.items()]
    script.write_text("\n".join(["#!/bin/bash", "#SBATCH --job-name=fvlaunch-preemptor --no-requeue", *lines, "sleep 5", ""]))
    other = slurm_site.submit_script(script)
    try:
        _until(lambda: _restarted(job_id), run, f"{partition} does not preempt {run.name}", limit_s=300)
    finally:
        slurm.cancel(other)


def _restarted(job_id: str) -> bool:
    details = slurm.job(job_id)
    return details is not None and (details.restarts > 0 or details.preempted_at is not None)


def _losses(run: Run) -> dict[int, float]:
    return {line["step"]: line["loss"] for line in read_lines(run.metrics_file) if "step" in line and "loss" in line}
