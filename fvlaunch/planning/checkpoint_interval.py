"""Owns `checkpoint.every_minutes: auto`: turning it into the number of minutes that loses least time. Must not print or write anything.

It becomes a number when a submission is planned: a run, and its copy of the code, never meet the word.
"""

from __future__ import annotations

import math
from dataclasses import replace

from trainers.config.checkpoint import AUTO

from ..config.compose import Composed
from ..config.strict_yaml import KeyPath
from ..errors import ConfigError, counted
from ..schedulers.registry import scheduler
from .plan import Plan, filled

MINUTES: KeyPath = ("train", "checkpoint", "every_minutes")
STEPS: KeyPath = ("train", "checkpoint", "every_steps")
_KEY = "train.checkpoint.every_minutes"
_BY_HAND = "or write a number of minutes"


def is_auto(composed: Composed) -> bool:
    """Say whether a recipe leaves the time between checkpoints to be worked out."""
    train = composed.recipe.train
    return train is not None and train.checkpoint.every_minutes == AUTO


def with_interval(composed: Composed, plan: Plan) -> Plan:
    """Return the plan with a number in place of auto, its origin, and a note that says what it rests on.

    ConfigError where nothing says how often what it runs on fails, or where no number would be best.
    """
    if not is_auto(composed):
        return plan
    _check_known(composed, plan)
    minutes, basis, ratio = _best(composed, plan)
    values: dict[KeyPath, float | None] = {MINUTES: minutes}
    origins = {MINUTES: f"auto ({composed.origins[MINUTES]}): {basis}"}
    steps, beside = composed.recipe_data["train"]["checkpoint"]["every_steps"], ""
    if composed.origins.get(STEPS) == "default":
        values[STEPS], origins[STEPS] = None, "auto: every_minutes alone"
    elif steps is not None:
        beside = f"; and at multiples of every_steps: {steps}, as {composed.origins[STEPS]} says"
    note = f"checkpoints: every {minutes:g} minutes (auto: {basis}; effective training time {ratio:.1%}){beside}"
    return replace(plan, recipe=filled(plan.recipe, values), origins={**plan.origins, **origins}, notes=(*plan.notes, note))


def _best(composed: Composed, plan: Plan) -> tuple[float, str, float]:
    """Return the best minutes for a plan's nodes, what they rest on, and the effective training time ratio."""
    from . import effective_training, recovery_figures  # they load numpy

    figures = recovery_figures.gather(composed, plan)
    conditions, rate = recovery_figures.conditions(figures), figures["failures_per_node_day"]
    best_s = effective_training.best_interval_s(conditions, plan.nodes)
    if best_s is None:
        why = f"failures_per_node_day is {rate.value:g}, so that nothing is ever lost"
        raise _without_best(composed, why, f"null saves at the end and on a notice only; {_BY_HAND}")
    ratio = effective_training.simulate(conditions, plan.nodes, best_s).useful
    if ratio <= 0:
        why = f"{_count(plan)} would keep no step: failures and preemptions come too often, or a start takes longer than the allocation"
        raise _without_best(composed, why, "look at fvlaunch show --ettr, and at reliability in the profile")
    mean_days = 1 / (conditions.losses_per_s(plan.nodes) * effective_training.DAY_S)
    basis = f"{_nodes(plan)} every {days(mean_days)} ({rate.origin}), a save stalls {conditions.stall_s:.2g} s"
    return rounded(best_s / 60, (conditions.save_s - conditions.stall_s) / 60), basis, ratio


def _without_best(composed: Composed, why: str, hint: str) -> ConfigError:
    return ConfigError.one(f"auto has no best value: {why}", composed.place(MINUTES), _KEY, hint)


def _check_known(composed: Composed, plan: Plan) -> None:
    """Refuse auto on this machine unless its profile says how often it fails: what is measured of a data centre's nodes is not of it."""
    said = composed.cluster.reliability
    if scheduler(plan.executor).runs_here and (said is None or said.failures_per_node_day is None):
        message = f"auto needs to know how often this machine fails, and cluster {plan.cluster_name} does not say"
        hint = f"reliability: {{failures_per_node_day: ...}} in a profile of your own, {_BY_HAND}"
        raise ConfigError.one(message, composed.place(MINUTES), _KEY, hint)


def rounded(minutes: float, shortest: float) -> float:
    """Return minutes with two digits, which is as exact as any failure rate; never less than the shortest that can be kept."""
    digits = 1 - math.floor(math.log10(minutes))
    near = round(minutes, digits)
    return near if near >= shortest else round(near + 10.0**-digits, digits)


def _nodes(plan: Plan) -> str:
    return f"{_count(plan)} {'fails' if plan.nodes == 1 else 'fail'}"


def _count(plan: Plan) -> str:
    return counted(plan.nodes, "node")


def days(count: float) -> str:
    """Return a span as text, in the largest of days, hours, minutes and seconds of which there are two."""
    units = (("days", 1), ("hours", 24), ("minutes", 1440))
    seconds = count * 86400
    short = f"{seconds:.0f} seconds" if seconds >= 10 else f"{seconds:.2g} seconds"
    return next((f"{count * size:.3g} {unit}" for unit, size in units if count * size >= 2), short)
