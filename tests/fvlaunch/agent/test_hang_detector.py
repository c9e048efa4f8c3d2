"""Hang detection: adaptive where steps were seen, patient where not, and it names the culprit."""

from __future__ import annotations

from fvlaunch.agent.hang_detector import Pulse
from fvlaunch.config.schema import Limits

LIMITS = Limits(hang_floor_s=10, hang_factor=20, phase_s=600)


def steps(pulse: Pulse, rank: int, first: int, last: int, start: float, step_s: float) -> float:
    for count in range(first, last + 1):
        pulse.note({"kind": "progress", "rank": rank, "phase": "stepping", "count": count}, start)
        start += step_s
    return start - step_s


def test_a_fast_run_is_found_hung_after_the_floor_and_a_slow_one_after_twenty_steps() -> None:
    fast, slow = Pulse([0], LIMITS, 0.0), Pulse([0], LIMITS, 0.0)
    at = steps(fast, 0, 1, 10, 0.0, 0.1)
    assert fast.hung([0], at + 9.9) is None
    assert fast.hung([0], at + 10.1) == 0
    at = steps(slow, 0, 1, 10, 0.0, 60.0)
    assert slow.hung([0], at + 1190) is None
    assert slow.hung([0], at + 1210) == 0


def test_loading_may_take_its_time() -> None:
    pulse = Pulse([0], LIMITS, 0.0)
    pulse.note({"kind": "progress", "rank": 0, "phase": "loading", "count": 1}, 1.0)
    assert pulse.hung([0], 600.0) is None
    assert pulse.hung([0], 602.0) == 0


def test_alive_is_not_enough_a_rank_must_get_somewhere() -> None:
    pulse = Pulse([0], LIMITS, 0.0)
    at = steps(pulse, 0, 1, 10, 0.0, 0.1)
    for late in range(1, 12):
        pulse.note({"kind": "progress", "rank": 0, "phase": "stepping", "count": 10}, at + late)
    assert pulse.hung([0], at + 11) == 0


def test_the_rank_least_far_on_is_the_culprit() -> None:
    pulse = Pulse([0, 1, 2], LIMITS, 0.0)
    for rank, last in ((0, 10), (1, 9), (2, 10)):
        steps(pulse, rank, 1, last, 0.0, 0.1)
    assert pulse.hung([0, 1, 2], 100.0) == 1


def test_messages_that_are_not_progress_are_no_heartbeat() -> None:
    pulse = Pulse([0], LIMITS, 0.0)
    at = steps(pulse, 0, 1, 10, 0.0, 0.1)
    pulse.note({"kind": "warning", "rank": 0, "text": "x"}, at + 9)
    pulse.note({"kind": "progress", "rank": 7, "phase": "stepping", "count": 99}, at + 9)
    assert pulse.hung([0], at + 10.5) == 0
