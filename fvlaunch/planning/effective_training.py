"""Owns a simulation of a run on many nodes, which fail, are taken away and reach their time limit, and the best time between its saves.

Must not read files, ask a clock or know where its figures come from: recovery_figures.py does. The same figures give the same answer.

The effective training time ratio (ETTR) is the part of a run's wall time that was spent on steps that count, as in Kokolis et al.,
"Revisiting Reliability in Large-Scale Machine Learning Research Clusters" (arXiv:2410.21680). The rest went into saving, into steps that
were lost and made again, and into being down.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

DAY_S = 86400.0
LIVES = 1 << 14
"""Lives of a run that are simulated; as their lengths are stratified, the ratio is right to some 1e-4."""
SEED = 2410_21680
NEVER = 1e-15
"""A rate, a second, below which nothing is ever lost."""


@dataclass(frozen=True)
class Conditions:
    """What interrupts a run, and what each interruption and each save costs. Rates are a day, times are in seconds."""

    failures_per_node_day: float
    preemptions_per_day: float
    """Of the whole job, however many nodes it has."""
    detection_s: float
    """From a failure until the job gives its nodes back."""
    requeue_wait_s: float
    """From there, or from the last save of a job that was told to end, until the job starts again."""
    start_s: float
    """From the job's start to its first new step: processes, weights, checkpoint."""
    stall_s: float
    """How long training stands still for a save: its state is copied, and written while training goes on."""
    save_s: float
    """From the beginning of a save to the checkpoint being published, the stall included. A failure before that loses this save."""
    notice_s: float | None = None
    """Time that a preempted job is given to save; None: enough."""
    usable_s: float | None = None
    """Seconds of an allocation until the ranks are told to save because its time limit is near; None: it has none."""

    def failures_per_s(self, nodes: int) -> float:
        return nodes * self.failures_per_node_day / DAY_S

    def losses_per_s(self, nodes: int) -> float:
        """Return the rate of what ends a run without a save: failures, and preemptions whose notice is shorter than one."""
        return self.failures_per_s(nodes) + (0.0 if self._is_warned else self.preemptions_per_day / DAY_S)

    def noticed_per_s(self) -> float:
        """Return the rate of preemptions before which the run saves."""
        return self.preemptions_per_day / DAY_S if self._is_warned else 0.0

    @property
    def _is_warned(self) -> bool:
        return self.notice_s is None or self.notice_s >= self.save_s


@dataclass(frozen=True)
class TimeShares:
    """Where a run's wall time goes, from its queueing to its end; the parts add up to 1."""

    useful: float
    """Steps that count: the effective training time ratio."""
    saving: float
    """Training stood still for a save."""
    repeated: float
    """Steps that were lost, and made again in a later life."""
    down: float
    """Failures that nobody had seen yet, waiting in the queue, starting and loading."""


def simulate(conditions: Conditions, nodes: int, interval_s: float) -> TimeShares:
    """Simulate many lives of a run that saves after each `interval_s` of training; return where their time went.

    A life begins as its job starts and ends with a failure, a preemption or the time limit, whichever comes first. The first two come
    at random moments, independent of each other and of how long it has run (exponential times).
    """
    c, losing, noticed = conditions, conditions.losses_per_s(nodes), conditions.noticed_per_s()
    stall_s = max(c.stall_s, c.save_s - interval_s)  # one save at a time: the next waits for the one before it
    if not losing + noticed and c.usable_s is None:
        return TimeShares(interval_s / (interval_s + stall_s), stall_s / (interval_s + stall_s), 0.0, 0.0)
    ends_s = _draws() / (losing + noticed) if losing + noticed else np.full(LIVES, math.inf)
    length_s = np.minimum(ends_s, math.inf if c.usable_s is None else c.usable_s)
    told = np.where(ends_s > length_s, 1.0, noticed / (losing + noticed) if losing + noticed else 1.0)  # the chance of a last save
    training_s = np.maximum(length_s - c.start_s, 0.0)
    whole = np.floor(training_s / (interval_s + stall_s))
    rest_s = training_s - whole * (interval_s + stall_s)
    worked_s = whole * interval_s + np.minimum(rest_s, interval_s)
    published = np.floor(np.maximum(training_s - (c.save_s - c.stall_s), 0.0) / (interval_s + stall_s))
    kept_s = told * worked_s + (1 - told) * published * interval_s
    last_save_s = told * np.where(training_s > 0, c.save_s, 0.0)
    detection_s = (1 - told) * c.detection_s * (c.failures_per_s(nodes) / losing if losing else 0.0)
    parts = np.array(
        [
            kept_s.sum(),
            (training_s - worked_s + last_save_s).sum(),
            (worked_s - kept_s).sum(),
            (length_s - training_s + detection_s + c.requeue_wait_s).sum(),
        ]
    )
    if not parts.sum():  # an allocation that is over before it begins, and asked for again at once
        return TimeShares(0.0, 0.0, 0.0, 1.0)
    return TimeShares(*(float(part) for part in parts / parts.sum()))


@cache
def _draws() -> NDArray[np.float64]:
    """Return an exponential time of mean 1 for each life, the same at every call: intervals are compared by the same lives.

    The times are stratified: one from each of LIVES equally likely ranges.
    """
    return -np.log1p(-(np.arange(LIVES) + np.random.default_rng(SEED).random(LIVES)) / LIVES)


def best_interval_s(conditions: Conditions, nodes: int) -> float | None:
    """Return the seconds of training between saves that give the largest ratio; None where nothing is ever lost.

    Never shorter than a checkpoint takes to be written.
    """
    if conditions.losses_per_s(nodes) < NEVER:
        return None
    shortest = max(conditions.save_s - conditions.stall_s, 1.0)
    guess = max(young_s(max(conditions.stall_s, 1e-3), 1 / conditions.losses_per_s(nodes)), shortest)
    low, high = max(guess / 8, shortest), guess * 8
    for _ in range(2):
        tried = np.geomspace(low, high, 13)
        ratios = [simulate(conditions, nodes, float(interval)).useful for interval in tried]
        best = int(np.argmax(ratios))
        low, high = tried[max(best - 2, 0)], tried[min(best + 2, len(tried) - 1)]
    return _top(tried, ratios, best)


def _top(tried: NDArray[np.float64], ratios: list[float], best: int) -> float:
    """Return where a parabola through the ratios has its top: the curve is flat there, and its highest point is as much chance as truth."""
    if best in (0, len(tried) - 1):
        return float(tried[best])
    curve, slope, _ = np.polyfit(np.log(tried), ratios, 2)
    return float(np.clip(np.exp(-slope / (2 * curve)), tried[0], tried[-1])) if curve < 0 else float(tried[best])


def young_s(stall_s: float, mean_time_to_failure_s: float) -> float:
    """Return Young's interval, sqrt(2 C M): "A first order approximation to the optimum checkpoint interval", CACM 17 (1974)."""
    return math.sqrt(2 * stall_s * mean_time_to_failure_s)


def daly_s(stall_s: float, mean_time_to_failure_s: float) -> float:
    """Return Daly's interval of higher order: "A higher order estimate of the optimum checkpoint interval for restart dumps", FGCS 22
    (2006), equation 37."""
    ratio = stall_s / (2 * mean_time_to_failure_s)
    if ratio >= 1:
        return mean_time_to_failure_s
    return young_s(stall_s, mean_time_to_failure_s) * (1 + math.sqrt(ratio) / 3 + ratio / 9) - stall_s
