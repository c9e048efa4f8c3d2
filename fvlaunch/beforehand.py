"""Owns what is told of a submission before anything is queued: the dry run, its memory, and what Slurm says to --test-only.

Must not submit, and must not leave anything behind.
"""

from __future__ import annotations

import shlex
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from . import jobs, secret_values, slurm
from . import show as printing
from .config.compose import Composed
from .errors import FvlaunchError
from .plan import Plan
from .preflight import check_inputs, check_samples
from .runs import Run

GB = 1e9
SPARE = 1.1
"""The estimate is of tensors: the allocator's gaps come on top..."""
SPARE_BYTES = 2e9
"""...and what CUDA and NCCL take."""


# --- memory


def memory(plan: Plan) -> Any | None:
    """The trainers' estimate of a training run on one rank; None for another program, and where the method knows no roles."""
    from trainers.config.memory import estimate

    from .config.schema import Recipe

    train = Recipe.model_validate(plan.recipe).train
    return estimate(train, plan.ranks) if train is not None else None


def memory_lines(plan: Plan) -> list[str]:
    """The estimate for a person: a line a role, then the sum, and what it would need beside what there is."""
    found = memory(plan)
    if found is None:
        return []
    known = [role for role in found.roles if role.parameters is not None]
    lines = [f"memory of a rank, estimated ({plan.summary}):"] if known else []
    for role in known:
        parts = {
            "weights": role.weights, "gradients": role.gradients, "optimizer": role.optimizer, "averages": role.averages,
            "gathered": role.gathered, "activations": role.activations,
        }  # fmt: skip
        told = ", ".join(f"{name} {_gb(size)}" for name, size in parts.items() if size)
        lines.append(f"  {role.role:<8} {_count(role.parameters)}: {told}{', before training only' if role.before_training else ''}")
    if known:
        lines.append(
            f"  at most  {_gb(found.peak)} at once; a GPU needs about {_gb(needed(found))}; a checkpoint takes {_gb(found.checkpoint)}"
        )
    if found.unknown:
        lines.append(f"memory: the size of {', '.join(found.unknown)} is not known here (a model that is not downloaded or not Wan's)")
    return lines + too_much(plan, found) + too_full(plan)


def needed(found: Any) -> float:
    return float(found.peak * SPARE + SPARE_BYTES)


def too_much(plan: Plan, found: Any | None = None) -> list[str]:
    """A warning where the cluster says how large its GPUs are, and they are smaller than the estimate."""
    there = plan.cluster.get("gpu_memory_gb")
    found = memory(plan) if found is None and there is not None else found
    if there is None or found is None or needed(found) <= there * GB:
        return []
    ways = "shard over more ranks, a smaller micro_batch_size, or activation_checkpointing: full"
    return [f"warning: about {_gb(needed(found))} are needed, and a GPU of {plan.cluster_name} has {there:g} GB\nhint: {ways}"]


def too_full(plan: Plan) -> list[str]:
    """A warning where the checkpoints that a run keeps, and the one being written, are more than what is free."""
    keep = plan.recipe.get("train", {}).get("checkpoint", {})
    found = memory(plan)
    if found is None or not found.checkpoint:
        return []
    kept = int(keep.get("keep_last") or 3) + 1
    every = keep.get("keep_every_steps")
    wanted = found.checkpoint * (kept + (plan.max_steps // every if every else 0))
    free = _free(plan.runs_dir)
    if free is None or wanted <= free:
        return []
    told = f"warning: checkpoints take up to {_gb(wanted)} ({_gb(found.checkpoint)} each), and {plan.runs_dir} has {_gb(free)} free"
    return [f"{told}\nhint: train.checkpoint.keep_last and keep_every_steps; fvlaunch prune of older runs; another runs_dir"]


def warnings(composed: Composed, plan: Plan) -> list[str]:
    """All that a submission should be told of and that does not stop it."""
    return [*warnings_of(plan), *drift(composed, plan)]


def warnings_of(plan: Plan) -> list[str]:
    return [*too_much(plan), *too_full(plan), *without_secrets(plan)]


def without_secrets(plan: Plan) -> list[str]:
    """A warning for each secret that the profile names and that is nowhere to be found here; an error where others could read it."""
    missing = [name for name in plan.secrets if secret_values.where(name) is None]
    return [f"warning: the secret {name} is not set\nhint: export {name}=..., or chmod 600 {secret_values.file(name)}" for name in missing]


def _free(folder: Path) -> int | None:
    there = next((path for path in (folder, *folder.parents) if path.is_dir()), None)
    try:
        return shutil.disk_usage(there).free if there is not None else None
    except OSError:
        return None


def memory_json(plan: Plan) -> dict[str, Any] | None:
    """Bytes; `peak` and `checkpoint` are sums over the roles that are known."""
    from dataclasses import asdict

    found = memory(plan)
    return None if found is None else {"peak": found.peak, "needed": int(needed(found)), **asdict(found)}


def _gb(size: float) -> str:
    return f"{size / GB:.1f} GB" if size >= 0.05 * GB else f"{size / 1e6:.1f} MB"


def _count(parameters: int) -> str:
    return f"{parameters / 1e9:.2f} B" if parameters >= 5e7 else f"{parameters / 1e6:.2f} M"


# --- a run that is repeated


def drift(composed: Composed, plan: Plan) -> list[str]:
    """Where a run.yaml is submitted: what is no longer as its lock says, and how it is had again."""
    if not composed.lock:
        return []
    from . import lockfile

    found = lockfile.differences(composed.lock, lockfile.make(plan, {}))
    lines = [f"warning: not as when {composed.recipe_path} was written: {line}" for line in found]
    code = composed.recipe_path.parent / "code"
    if any(line.startswith(("git", "code")) for line in found) and (code / "fvlaunch").is_dir():
        lines.append(f"hint: its own code repeats it: PYTHONPATH={shlex.quote(str(code))} python -m fvlaunch submit ...")
    return lines


# --- the dry run


def dry_run(plan: Plan, *, json_: bool) -> None:
    """The resolved recipe and the batch script on stdout, the memory on stderr."""
    from .config.yaml import dump

    text = script(plan) if plan.executor == "slurm" else None
    if json_:
        told = {"run": plan.name, "path": plan.path, "summary": plan.summary, "recipe": plan.recipe, "batch_script": text}
        printing.as_json({**told, "memory": memory_json(plan)})
        return
    printing.say(f"{plan.name}: {plan.summary}; nothing was submitted")
    printing.out(dump(plan.recipe))
    if text:
        printing.out(text)
    for line in memory_lines(plan):
        printing.say(line)


def look(composed: Composed) -> None:
    """What would be missing: told after all else, since a dry run of what is not complete yet is of use."""
    check_inputs(composed)
    check_samples(composed)


def script(plan: Plan) -> str:
    """The batch script that would be submitted, with a token of its own."""
    from . import submit as submission

    run, token = Run(plan.path), jobs.new_token()
    return submission.batch_script(run, plan, run.job / token, token)


# --- asking Slurm


@dataclass(frozen=True)
class Asked:
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


def ask(plans: Sequence[Plan]) -> list[Asked]:
    """`sbatch --test-only` for each plan, for each partition that it names; SchedulerUnreachable where nobody answers."""
    return [_ask(one) for plan in plans for one in _by_partition(plan)]


def _by_partition(plan: Plan) -> list[Plan]:
    """A job may name several partitions and takes the first that is free: here each is asked by itself."""
    names = str(plan.sbatch.get("partition") or "").split(",")
    return [replace(plan, sbatch={**plan.sbatch, "partition": name}) for name in names] if len(names) > 1 else [plan]


def _ask(plan: Plan) -> Asked:
    with tempfile.TemporaryDirectory(prefix="fvlaunch-") as folder:
        path = Path(folder) / "submission.sh"
        path.write_text(script(plan), encoding="utf-8")
        said = slurm.test_only([str(path)])
    hours = None if plan.time_s is None else plan.time_s / 3600
    return Asked(
        plan.cluster_name, str(plan.sbatch.get("partition") or ""), said.accepted, said.start, said.reason, plan.nodes, plan.ranks,
        None if hours is None else plan.ranks * hours,
    )  # fmt: skip


def told(answers: Sequence[Asked], *, json_: bool) -> int:
    """Print them; 0 where at least one takes the job."""
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
    """--test-only needs a scheduler to ask."""
    for plan in plans:
        if plan.executor != "slurm":
            raise FvlaunchError(
                f"--test-only asks Slurm, and cluster {plan.cluster_name} is not one", hint="--dry-run shows what would be done here"
            )
