"""Owns where the figures of interruptions and recovery come from: a cluster's profile, else a run's own records, else named defaults.

Must not compute with them: effective_training.py does.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from ..config.compose import Composed
from ..config.reliability import Reliability
from ..errors import ConfigError
from ..runs.attempts import Attempt, read_attempts
from ..runs.directory import Run
from ..schedulers.registry import scheduler
from . import gpu_memory
from .effective_training import Conditions
from .plan import Plan

FAILURES_PER_NODE_DAY = 0.0065
META = "default: RSC-1's 6.5 per 1,000 node-days, arXiv:2410.21680"
REQUEUE_WAIT_S = 120.0
"""Slurm's own delay before it starts a requeued job again, with no other job in the way."""
START_S = 300.0
SAVE_GB_PER_S = 1.0
STAGE_GB_PER_S = 5.0
AGREEING_S = 0.5
"""What a save costs however small the state: the ranks agree on it, and rank 0 makes its folder."""


@dataclass(frozen=True)
class Figure:
    """One figure and where it comes from: a place in a file, "measured: ...", "default: ..." or "computed: ..."."""

    value: float | None
    origin: str


Figures = dict[str, Figure]
"""By the name of Conditions' field."""


def conditions(figures: Figures) -> Conditions:
    return Conditions(**{name: figure.value for name, figure in figures.items()})  # type: ignore[arg-type]


def gather(composed: Composed, plan: Plan) -> Figures:
    """Return all figures of a training run on a cluster; ConfigError where nothing tells how large its checkpoints are."""
    said = _Said(composed)
    attempts = _records(composed, plan)
    figures = {
        "failures_per_node_day": said.figure("failures_per_node_day") or Figure(FAILURES_PER_NODE_DAY, META),
        "preemptions_per_day": said.figure("preemptions_per_day") or Figure(0.0, "default: none"),
        "detection_s": said.figure("detection_s") or Figure(plan.limits.head_silence_s, "default: limits.head_silence_s"),
        "requeue_wait_s": said.figure("requeue_wait_s") or _measured("waits", _waits(attempts)) or _requeue_wait(plan),
        "start_s": said.figure("start_s") or _measured("starts", _starts(attempts)) or Figure(START_S, "default"),
        **_saving(composed, plan, said, attempts),
        "notice_s": said.figure("preemption_notice_s") or Figure(None, "default: enough"),
    }
    return {**figures, "usable_s": _usable(plan, figures["save_s"])}


class _Said:
    """What the profile says, each value with its place."""

    def __init__(self, composed: Composed) -> None:
        self._block, self._composed = composed.cluster.reliability or Reliability(), composed

    def figure(self, key: str) -> Figure | None:
        value = getattr(self._block, key)
        return None if value is None else Figure(value, self._composed.origins.get(("cluster", "reliability", key), "profile"))


def _records(composed: Composed, plan: Plan) -> list[Attempt]:
    """Return the attempts of the run whose run.yaml is the recipe; none where it ran on another cluster."""
    run = Run(composed.recipe_path.parent)
    if composed.recipe_path != run.config_file or not run.attempt_numbers() or run.record().cluster != plan.cluster_name:
        return []
    return read_attempts(run)


def _measured(what: str, values: Iterable[float | None]) -> Figure | None:
    """Return the median of what was measured; None where nothing was."""
    known = [value for value in values if value is not None and value >= 0]
    return Figure(statistics.median(known), f"measured: {len(known)} {what[:-1] if len(known) == 1 else what}") if known else None


def _waits(attempts: list[Attempt]) -> list[float]:
    """Return how long the run waited between the end of a job and the start of the next, where nobody had stopped it."""
    pairs = [
        (one, after) for one, after in pairwise(attempts) if one.next in ("requeue", "resubmit") and one.generation == after.generation
    ]
    return [after.started_at - one.ended_at for one, after in pairs if one.ended_at is not None]


def _starts(attempts: list[Attempt]) -> list[float]:
    return [one.resumed_at - one.started_at for one in attempts if one.resumed_at is not None]


def _requeue_wait(plan: Plan) -> Figure:
    if scheduler(plan.executor).runs_here:
        return Figure(0.0, "default: no queue here")
    return Figure(REQUEUE_WAIT_S, "default: Slurm's own delay, and no other job in the way")


def _saving(composed: Composed, plan: Plan, said: _Said, attempts: list[Attempt]) -> Figures:
    """Return how long a save takes, and how long training stands still for it."""
    stage, write = said.figure("stage_gb_per_s"), said.figure("save_gb_per_s")
    stall = None if stage else _measured("saves", (one.stall_s for one in attempts))
    save = None if write else _measured("saves", (one.save_s for one in attempts))
    if stall is None or save is None:
        total, part = _checkpoint_bytes(composed, plan)
        stall = stall or _computed(part, " a rank", stage or Figure(STAGE_GB_PER_S, "default"), AGREEING_S)
        save = save or _computed(total, "", write or Figure(SAVE_GB_PER_S, "default"), stall.value or 0.0)
    assert stall.value is not None and save.value is not None
    return {"stall_s": stall, "save_s": save if save.value >= stall.value else Figure(stall.value, f"as long as the stall, {stall.origin}")}


def _computed(size: float, whose: str, speed: Figure, before_s: float) -> Figure:
    """Return how long bytes take at a speed in GB/s, after what comes before."""
    assert speed.value is not None
    origin = f"computed: {before_s:.2g} s, then {_gb(size)}{whose} at {speed.value:g} GB/s ({speed.origin})"
    return Figure(before_s + size / 1e9 / speed.value, origin)


def _checkpoint_bytes(composed: Composed, plan: Plan) -> tuple[int, float]:
    """Return the bytes of a checkpoint, and of the part of it that one rank holds."""
    train, needs = composed.recipe.train, gpu_memory.estimated(plan)
    assert train is not None and needs is not None
    unknown = [role.role for role in needs.roles if role.parameters is None and role.trained]
    if unknown or not needs.checkpoint:
        what = f"the {unknown[0]}" if unknown else "what is trained"
        message = f"nothing here tells how large {what} is, and so how long a save takes"
        hint = "a number of minutes; or download the model first (a pipeline's later stages have nothing to look at yet)"
        where = composed.place(("train", "models", *unknown[:1], "init_from"))
        raise ConfigError.one(message, where, ".".join(["train.models", *unknown[:1]]), hint)
    return needs.checkpoint, needs.checkpoint / train.parallel.mesh(plan.ranks)[1]


def _usable(plan: Plan, save: Figure) -> Figure:
    """Return the seconds of an allocation before its ranks are told to save: the rule of agent/stop_notices.py once it has seen a save."""
    if plan.time_s is None:
        return Figure(None, "no time limit")
    assert save.value is not None
    lead_s = plan.limits.notice_lead_s or min(2 * save.value + 30, max(plan.time_s / 3, 10.0))
    return Figure(max(plan.time_s - lead_s, 0.0), f"computed: the time limit, {plan.time_s / 3600:g} h, less {lead_s:.0f} s to save")


def _gb(size: float) -> str:
    return f"{size / 1e9:.3g} GB" if size >= 1e8 else f"{size / 1e6:.3g} MB"


def as_json(figures: Figures) -> dict[str, Any]:
    return {name: {"value": figure.value, "origin": figure.origin} for name, figure in figures.items()}
