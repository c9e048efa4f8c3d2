"""What an attempt's ends mean: the rank that failed is named, not those that only noticed."""

from __future__ import annotations

import signal

from fvlaunch.agent.outcome import NodeEnd, RankEnd, judge
from fvlaunch.attempts import Cause

ECHO = "RuntimeError: [../gloo/transport/tcp/pair.cc:534] Connection closed by peer [127.0.0.1]:4242"


def end(rank: int, code: int, at: float = 1.0, told: str = "", **more) -> RankEnd:
    return RankEnd(rank=rank, node=more.pop("node", "n1"), code=code, at=at, told=told, **more)


def test_the_first_rank_to_fail_is_named_though_another_was_seen_first() -> None:
    ends = (end(0, 1, at=1.0, told=f"Traceback\n{ECHO}"), end(1, 1, at=1.5, told="Traceback\nKeyError: 'x'", step=12))
    cause, failure = judge([NodeEnd("n1", ends)], None)
    assert cause is Cause.CRASH
    assert failure is not None
    assert (failure.rank, failure.step, failure.what) == (1, 12, "KeyError: 'x'")


def test_a_killed_rank_is_the_cause_of_its_neighbours_broken_collective() -> None:
    ends = (end(0, 1, at=1.0, told=ECHO), end(1, -signal.SIGKILL, at=1.2))
    cause, failure = judge([NodeEnd("n1", ends)], None)
    assert cause is Cause.CRASH
    assert failure is not None
    assert (failure.rank, failure.what) == (1, "killed by SIGKILL")


def test_a_kill_for_want_of_memory_is_told_apart() -> None:
    cause, failure = judge([NodeEnd("n1", (end(0, -signal.SIGKILL),), memory_kills=1)], None)
    assert cause is Cause.OUT_OF_MEMORY
    assert failure is not None
    assert "want of memory" in failure.what
    told = "Traceback\ntorch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2 GiB"
    assert judge([NodeEnd("n1", (end(0, 1, told=told),))], None)[0] is Cause.OUT_OF_MEMORY


def test_a_rank_that_no_restart_can_help_is_never_taken_for_a_crash() -> None:
    ends = (end(0, 76, told="train.data.path holds no parquet\nhint: preprocess"), end(1, 1, told=ECHO))
    cause, failure = judge([NodeEnd("n1", ends)], Cause.PREEMPTION)
    assert cause is Cause.NO_RESTART
    assert failure is not None
    assert failure.what == "train.data.path holds no parquet"
    assert failure.lines == ("hint: preprocess",)


def test_a_notice_explains_saved_and_killed_ranks() -> None:
    ends = (end(0, 75), end(1, -signal.SIGKILL, killed_by_agent=True))
    assert judge([NodeEnd("n1", ends)], Cause.TIME_LIMIT) == (Cause.TIME_LIMIT, None)


def test_finishing_wins_over_a_notice_that_came_too_late() -> None:
    assert judge([NodeEnd("n1", (end(0, 0), end(1, 0)))], Cause.PREEMPTION)[0] is Cause.FINISHED


def test_a_failure_on_another_node_is_found() -> None:
    here = NodeEnd("n1", (end(0, 1, at=1.0, told=ECHO),))
    there = NodeEnd("n2", (end(1, 1, at=2.0, told="ValueError: bad", node="n2"),))
    _, failure = judge([here, NodeEnd.parse(there.dump())], None)
    assert failure is not None
    assert (failure.node, failure.rank) == ("n2", 1)


def test_a_hang_names_the_rank_that_held_the_others_up() -> None:
    ends = (end(0, -9, killed_by_agent=True, step=5), end(1, -9, killed_by_agent=True, step=4))
    cause, failure = judge([NodeEnd("n1", ends, hung_rank=1)], None)
    assert cause is Cause.HANG
    assert failure is not None
    assert (failure.rank, failure.step) == (1, 4)


def test_a_node_that_fell_silent_is_lost_when_the_others_only_saw_connections_break() -> None:
    echo, own = end(0, 1, told=ECHO, step=9), end(0, 1, told="Traceback\nKeyError: 'x'")
    cause, failure = judge([NodeEnd("n1", (echo,))], None, [("n2", 8)])
    assert cause is Cause.INTERRUPTED
    assert failure is not None
    assert (failure.node, failure.rank, failure.step) == ("n2", 8, 9)
    assert judge([NodeEnd("n1", (own,))], None, [("n2", 8)])[0] is Cause.CRASH
