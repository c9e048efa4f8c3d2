"""Owns turning a command line into a Plan: which cluster, which runs folder, what may change at resume. Must not submit."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

from trainers.config import preprocess_output
from trainers.config.programs import preprocess

from ..config import relocation
from ..config.compose import Composed, compose
from ..config.lookup import is_path
from ..config.runs_folder import users_cluster
from ..errors import ConfigError, FvlaunchError, Place, Problem
from ..runs import registry
from ..runs.directory import FINAL_STATES, Record, Run
from ..runs.pipeline_directory import of_stage
from ..schedulers import local_process
from ..schedulers.registry import scheduler
from . import lockfile, rates
from .checkpoint_interval import MINUTES, STEPS, is_auto, with_interval
from .input_contents import check_contents
from .plan import Plan, filled, free_name, make_plan
from .preflight import check_inputs, check_own_code
from .resume_check import look_again

FROZEN = ("method", "models", "data", "seed", "flow_shift", "precision", "deterministic", "parallel")
"""Parts of `train` that make a run what it is; `parallel` may change where nothing was asked of it by --set."""


def cluster_for(recipe: str, cluster: str | None) -> str | None:
    """Return the cluster profile that a submission means; None: the run.yaml's own, else local."""
    named = named_cluster(recipe, cluster)
    stem = Path(recipe).stem if is_path(recipe) else recipe
    if named or _is_run(recipe) or stem == "shapes" or stem.startswith("shapes-") or not shutil.which("sbatch"):
        return named
    raise FvlaunchError(
        f"where shall {recipe} run? Slurm is here, and no cluster was named",
        hint="--cluster NAME (fvlaunch list clusters), or --cluster local for this machine",
    )


def named_cluster(recipe: str, cluster: str | None) -> str | None:
    """Return --cluster, else what the environment or the user's config name; a run.yaml has its own."""
    return cluster if cluster or _is_run(recipe) else os.environ.get("FVLAUNCH_CLUSTER") or users_cluster()


def _is_run(recipe: str) -> bool:
    return Path(recipe).name == "run.yaml"


def plan_submission(
    recipe: str,
    cluster: str | None,
    *,
    sets: Sequence[str],
    name: str | None,
    ranks: int | None,
    nodes: int | None,
    sbatch: Mapping[str, Any],
    runs_dir: Path | None,
    look: bool = True,
) -> tuple[Composed, Plan]:
    """Return everything that `submit` needs, checked as far as this machine can: configuration, sizes, and (`look`) the data's files."""
    composed = compose(recipe, cluster_for(recipe, cluster), sets=sets)
    plan = plan_of(composed, name=name, ranks=ranks, nodes=nodes, sbatch=sbatch, runs_dir=registry.runs_dir_option(runs_dir))
    if look:
        check_inputs(composed)
        plan = replace(plan, notes=(*plan.notes, *check_contents(composed, ranks=plan.ranks)))
    return composed, plan


def plan_of(composed: Composed, **request: Any) -> Plan:
    """Make a plan that starts now, with the cores, GPUs and shell of this machine; without a name it gets one that is free."""
    plan = make_plan(
        composed,
        now=datetime.now(),
        cwd=Path.cwd(),
        cores_per_node=len(os.sched_getaffinity(0)),
        gpus=local_process.num_local_gpus() if _takes_local_gpus(composed) else 0,
        shell=shell_for(composed.cluster.executor),
        **request,
    )
    plan = with_interval(composed, plan)
    return plan if request.get("name") else replace(plan, name=free_name(plan.name, plan.runs_dir))


def with_auto_resolved(composed: Composed) -> Composed:
    """Return the same with what `auto` stands for at a submission, and its origin."""
    if not is_auto(composed):
        return composed
    plan = plan_of(composed, name=None, ranks=None, nodes=None, sbatch={}, runs_dir=None)
    saving = plan.recipe["train"]["checkpoint"]
    told = {path: plan.origins[path] for path in (MINUTES, STEPS)}
    return replace(composed, recipe_data=filled(composed.recipe_data, {MINUTES[:-1]: saving}), origins={**composed.origins, **told})


def shell_for(executor: str) -> dict[str, str]:
    """Return this shell's environment, without a choice of the Slurm cluster that answers here anyway."""
    chosen = [name for name in ("SBATCH_CLUSTERS", "SLURM_CLUSTERS") if os.environ.get(name)]
    here = scheduler(executor).identity() if chosen else None
    return {name: value for name, value in os.environ.items() if name not in chosen or value != here}


def _takes_local_gpus(composed: Composed) -> bool:
    return scheduler(composed.cluster.executor).runs_here and composed.cluster.device != "cpu"


def plan_resume(
    run: Run, cluster: str | None, *, sets: Sequence[str], ranks: int | None, sbatch: Mapping[str, Any], look: bool = False
) -> Plan:
    """Plan the next generation of a run: keys that make the run what it is must not have changed, others may have. `look`: at inputs and
    notify, as `submit` does."""
    if not run.config_file.exists():
        cut = "its submission was cut off" if run.record().job_id is None else "somebody removed it"
        raise FvlaunchError(f"{run.name} has no run.yaml: {cut}", hint=f"move {run.path} away, and submit its recipe again")
    before = compose(str(run.config_file))
    after = compose(str(run.config_file), cluster, sets=sets)
    _check_frozen(before, after, sets, other_cluster=cluster is not None)
    check_own_code(after)
    plan = plan_of(after, name=run.path.name, ranks=ranks, nodes=None, sbatch=sbatch, runs_dir=run.path.parent)
    _check_unfinished(run, run.record(), plan)
    if before.cluster.reliability is None:  # the run's copy of the code may be older than that key, and nothing it runs needs it
        plan = replace(plan, cluster={key: value for key, value in plan.cluster.items() if key != "reliability"})
    stage = of_stage(run) is not None
    looked = look_again(run, after, stage=stage) if look else ()
    plan = replace(plan, notes=(*plan.notes, *looked, *rate_jumps(before, after, run.last_checkpoint_step())))
    return replace(plan, pipeline=run.path.parent.name) if stage else plan


def rate_jumps(before: Composed, after: Composed, step: int | None) -> tuple[str, ...]:
    """Return a warning for each learning rate that jumps as a training goes on from a checkpoint; none without a checkpoint."""
    if not step or before.recipe.train is None or after.recipe.train is None:
        return ()
    return tuple(rates.jumps(before.recipe.train, after.recipe.train, step))


def _check_frozen(before: Composed, after: Composed, sets: Sequence[str], *, other_cluster: bool) -> None:
    """Raise ConfigError where what makes the run what it is has changed; the same files may lie elsewhere, as after a copy."""
    program = before.recipe.program
    old, new = before.recipe_data[program], after.recipe_data.get(program, {})
    if other_cluster:  # written as ${paths.x}, which is another folder there
        of_paths = [key.partition(".")[2] for key in before.lock.get("paths") or {} if not any(text.startswith(key) for text in sets)]
        old = relocation.agreeing(old, new, of_paths)
    if program == "train":
        old = relocation.agreeing(old, new, lockfile.moved_inputs(before.lock, old, new))
    changed = [key for key in (FROZEN if program == "train" else old) if old[key] != new.get(key) and key not in _may_change(before)]
    tunable = "max_steps, optimizers, callbacks, checkpoint and tracking" if program == "train" else ", ".join(sorted(_may_change(before)))
    hint = "submit it as a new run" + (f"; at resume {tunable} may change" if tunable else "")
    if changed:
        raise ConfigError(
            Problem(
                f"{program}.{key} makes the run what it is and cannot change at resume",
                _place_of((program, key), after, sets),
                f"{program}.{key}",
                hint,
            )
            for key in changed
        )


def _may_change(before: Composed) -> frozenset[str]:
    """Return the keys of a program beside training that may change at resume: all of a preprocessing that has written nothing yet."""
    block: Any = before.recipe.preprocess
    if block is None:
        return frozenset()
    written = preprocess_output.num_written(Path(block.output).expanduser())
    return preprocess.MAY_CHANGE if written else frozenset(block.resolved()) - {"kind", "output"}


def _place_of(path: tuple[str, str], composed: Composed, sets: Sequence[str]) -> Place:
    by_set = [Place(f"--set {text}") for text in sets if text.startswith(".".join(path))]
    return by_set[-1] if by_set else composed.place(path)


def _check_unfinished(run: Run, record: Record, plan: Plan) -> None:
    if record.state == "finished" and plan.program != "train":
        raise FvlaunchError(f"{run.name} is finished: there is nothing left to {plan.program}", hint="submit it as a new run")
    last = run.last_checkpoint_step() or 0
    if record.state == "finished" and plan.max_steps <= last:
        raise FvlaunchError(f"{run.name} is finished at step {last}", hint=f"--set train.max_steps={2 * last} trains on")
    if record.state in FINAL_STATES and plan.program == "train" and plan.max_steps < last:
        raise FvlaunchError(
            f"{run.name} has reached step {last} already, and max_steps is {plan.max_steps}",
            hint=f"--set train.max_steps={2 * last} trains on; fvlaunch fork starts a new run from an earlier step",
        )
