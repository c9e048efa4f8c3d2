"""The simulation of a run on many nodes against formulas derived by hand: Young's, Daly's, the exact renewal sum, Meta's estimate."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from fvlaunch.planning.effective_training import (
    DAY_S,
    Conditions,
    TimeShares,
    best_interval_s,
    daly_s,
    simulate,
    young_s,
)

PLAIN = Conditions(
    failures_per_node_day=0.0065, preemptions_per_day=0, detection_s=120, requeue_wait_s=180, start_s=300, stall_s=3, save_s=40
)
PREEMPTED = replace(PLAIN, preemptions_per_day=3)
CUT_OFF = replace(PREEMPTED, notice_s=30)
SLOW = replace(PLAIN, failures_per_node_day=0.05, stall_s=20, save_s=20)
CASES = [(conditions, nodes) for conditions in (PLAIN, PREEMPTED, CUT_OFF, SLOW) for nodes in (8, 128, 1024)]


def exact(c: Conditions, nodes: int, interval_s: float) -> float:
    """Return the ratio of a run without a time limit, in closed form.

    A life L is exponential with the rate of all interruptions. What a failure leaves is the sum over k of P(L > start + k periods + write)
    x interval; what a noticed preemption leaves is the integral of P(L > t) over the moments t at which it trains.
    """
    losing, noticed = c.losses_per_s(nodes), c.noticed_per_s()
    rate, period = losing + noticed, interval_s + c.stall_s
    published = interval_s * math.exp(-rate * (c.start_s + c.save_s - c.stall_s)) / math.expm1(rate * period)
    trained = math.exp(-rate * c.start_s) * -math.expm1(-rate * interval_s) / (rate * -math.expm1(-rate * period))
    up = 1 / rate + (noticed / rate) * math.exp(-rate * c.start_s) * c.save_s
    down = c.requeue_wait_s + (c.failures_per_s(nodes) / rate) * c.detection_s
    return (losing * published + noticed * trained) / rate / (up + down)


def exact_best_s(c: Conditions, nodes: int) -> float:
    """Return the root of exp(rate (t + C)) (1 - rate t) = 1, where the derivative of t / (exp(rate (t + C)) - 1) is 0; by bisection."""
    rate = c.losses_per_s(nodes)
    low, high = 0.0, 1 / rate
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if math.exp(rate * (middle + c.stall_s)) * (1 - rate * middle) > 1 else (low, middle)
    return low


@pytest.mark.parametrize(("conditions", "nodes"), CASES)
@pytest.mark.parametrize("interval_s", [120.0, 900.0, 7200.0])
def test_the_ratio_is_that_of_the_closed_form(conditions: Conditions, nodes: int, interval_s: float) -> None:
    shares = simulate(conditions, nodes, interval_s)
    assert shares.useful == pytest.approx(exact(conditions, nodes, interval_s), abs=1e-3)
    assert shares.useful + shares.saving + shares.repeated + shares.down == pytest.approx(1)
    assert min(vars(shares).values()) >= 0


@pytest.mark.parametrize("nodes", [8, 32, 128, 512, 1024])
@pytest.mark.parametrize("conditions", [PLAIN, SLOW])
def test_the_best_interval_is_dalys_and_youngs(conditions: Conditions, nodes: int) -> None:
    best, mean = best_interval_s(conditions, nodes), 1 / conditions.losses_per_s(nodes)
    assert best is not None
    assert best == pytest.approx(daly_s(conditions.stall_s, mean), rel=0.02)
    assert best == pytest.approx(exact_best_s(conditions, nodes), rel=0.02)
    assert best == pytest.approx(young_s(conditions.stall_s, mean), rel=0.1)  # Young's leaves the stall out
    lost = 1 - exact(conditions, nodes, exact_best_s(conditions, nodes))
    assert exact(conditions, nodes, best) > 1 - lost - 1e-3 * lost  # so flat is the top that such a difference costs nothing


def test_young_and_daly_give_what_a_hand_gives() -> None:
    assert young_s(2, 900) == 60  # sqrt(2 x 2 x 900)
    assert daly_s(2, 900) == pytest.approx(60 * (1 + 1 / 90 + 1 / 8100) - 2, rel=1e-15)  # C / 2M = 1 / 900
    assert daly_s(3600, 900) == 900  # a save that takes more than two mean times: the mean time itself
    assert daly_s(2, 900) == pytest.approx(exact_best_s(replace(PLAIN, failures_per_node_day=DAY_S / 900, stall_s=2), 1), rel=1e-4)


def test_published_rates_give_the_published_mean_times() -> None:
    """At 8 GPUs a node the paper projects 1.8 hours for 16,384 GPUs and 0.23 for 131,072, from 6.5 failures per 1,000 node-days."""
    assert 1 / PLAIN.failures_per_s(2048) / 3600 == pytest.approx(1.8, abs=0.05)
    assert 1 / PLAIN.failures_per_s(16384) / 3600 == pytest.approx(0.23, abs=0.01)


@pytest.mark.parametrize("nodes", [8, 64, 256])
def test_metas_estimate_is_met_where_failures_are_rare(nodes: int) -> None:
    """E[ETTR] = (1 - N r (u + dt / 2)) / (1 + w / dt): u is all that a restart costs, w the stall of a save."""
    published_at_once = replace(PLAIN, save_s=PLAIN.stall_s)
    restart_s = PLAIN.detection_s + PLAIN.requeue_wait_s + PLAIN.start_s
    estimate = (1 - PLAIN.failures_per_s(nodes) * (restart_s + 900 / 2)) / (1 + PLAIN.stall_s / 900)
    assert simulate(published_at_once, nodes, 900).useful == pytest.approx(estimate, abs=1e-3)


def test_a_time_limit_alone_costs_a_save_a_wait_and_a_start() -> None:
    """Of 3,600 s, 3,500 are trained in: five periods of 600 + 10, then 450 more; then a save of 50 s, and 180 in the queue."""
    limited = replace(PLAIN, failures_per_node_day=0, start_s=100, stall_s=10, save_s=50, usable_s=3600)
    shares, wall_s = simulate(limited, 8, 600), 3600 + 50 + 180
    assert vars(shares) == pytest.approx(vars(TimeShares(3450 / wall_s, (50 + 50) / wall_s, 0, (100 + 180) / wall_s)))
    assert best_interval_s(limited, 8) is None
    assert simulate(replace(limited, usable_s=90), 8, 600).useful == 0


def test_saves_follow_no_faster_than_they_are_written() -> None:
    slow = replace(PLAIN, save_s=1200)
    assert best_interval_s(slow, 1024) == pytest.approx(1200 - slow.stall_s, rel=1e-6)
    assert simulate(slow, 1024, 60).saving > 0.5  # each save waits for the one before it


def test_without_interruptions_only_the_saves_cost() -> None:
    never = replace(PLAIN, failures_per_node_day=0)
    assert simulate(never, 8, 297) == TimeShares(0.99, 0.01, 0.0, 0.0)
    assert best_interval_s(never, 8) is None is best_interval_s(replace(never, failures_per_node_day=1e-300), 8)


def test_the_answer_is_the_same_each_time_and_worse_with_each_cost() -> None:
    best = simulate(PREEMPTED, 128, 900)
    assert simulate(PREEMPTED, 128, 900) == best
    dearer = {
        "failures_per_node_day": 0.02, "preemptions_per_day": 9, "detection_s": 900, "requeue_wait_s": 900, "start_s": 900,
        "stall_s": 9, "save_s": 90, "notice_s": 30, "usable_s": 3600,
    }  # fmt: skip
    for name, value in dearer.items():
        assert simulate(replace(PREEMPTED, **{name: value}), 128, 900).useful < best.useful, name


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("rate", [1e-12, 1e-3, 1e9])
@pytest.mark.parametrize("other", [{}, {"usable_s": 0, "requeue_wait_s": 0, "start_s": 0}, {"stall_s": 0, "save_s": 0}, {"save_s": 1e9}])
def test_no_rate_and_no_cost_breaks_the_arithmetic(rate: float, other: dict[str, float]) -> None:
    extreme = replace(PREEMPTED, failures_per_node_day=rate, **other)
    best = best_interval_s(extreme, 1024)
    assert best is not None and math.isfinite(best)
    assert all(0 <= part <= 1 for part in vars(simulate(extreme, 1024, best)).values())
