"""The ledger's promises: budgets apart, loops end, storms do not."""

from __future__ import annotations

from dataclasses import replace

import pytest

from fvlaunch.agent.restart_policy import Action, bad_nodes, decide, may_start
from fvlaunch.config.schema import Limits
from fvlaunch.runs.attempts import Attempt, Cause, Failure
from tests.support.rows import fault

LIMITS = Limits()


def attempt(number: int, cause: Cause, step_to: int | None, node: str = "n1", generation: int = 1, what: str = "boom") -> Attempt:
    failure = Failure(0, node, step_to, what, ("Traceback", "ValueError: boom")) if cause in (Cause.CRASH, Cause.HANG) else None
    return Attempt(number, generation, "7", (node,), 0.0, 1.0, cause, None, step_to, failure)


def after(*attempts: Attempt, in_place: bool = True, can_requeue: bool = True):
    return decide(attempts, LIMITS, in_place=in_place, can_requeue=can_requeue)


@pytest.mark.parametrize(
    ("cause", "state"),
    [(Cause.FINISHED, "finished"), (Cause.STOPPED, "stopped"), (Cause.CANCELLED, "cancelled"), (Cause.NO_RESTART, "failed")],
)
def test_an_end_that_is_final_ends_the_run(cause: Cause, state: str) -> None:
    decision = after(attempt(1, cause, 5))
    assert (decision.action, decision.state) == (Action.END, state)


def test_a_crash_restarts_in_place_on_one_node_and_requeues_on_several() -> None:
    crash = attempt(1, Cause.CRASH, 5)
    assert after(crash, in_place=True).action is Action.RESTART
    assert after(crash, in_place=False).action is Action.REQUEUE


def test_twenty_preemptions_that_make_progress_cost_no_budget() -> None:
    storm = [attempt(n, Cause.PREEMPTION, 10 * n) for n in range(1, 61)]
    assert after(*storm, in_place=False).action is Action.REQUEUE


def test_the_same_crash_ends_the_run_after_three_starts_without_a_new_step() -> None:
    crashes = [attempt(n, Cause.CRASH, 7) for n in range(1, 5)]
    assert after(*crashes[:3]).action is Action.RESTART  # the first one got to a new step; two did not
    decision = after(*crashes)
    assert (decision.action, decision.state) == (Action.END, "failed")
    assert "3 starts in a row" in decision.reason
    assert "rank 0 on n1 at step 7: boom" in decision.reason
    assert "ValueError: boom" in decision.reason


def test_a_crash_before_the_first_step_ends_the_run_after_three_starts() -> None:
    crashes = [attempt(n, Cause.CRASH, None) for n in range(1, 4)]
    assert after(*crashes[:2]).action is Action.RESTART
    assert after(*crashes).action is Action.END


def test_preemptions_between_the_same_crash_do_not_hide_it() -> None:
    ends = [Cause.CRASH, Cause.CRASH, Cause.PREEMPTION, Cause.CRASH, Cause.PREEMPTION, Cause.CRASH]
    assert after(*[attempt(n, cause, 7) for n, cause in enumerate(ends, 1)]).action is Action.END


def test_progress_refreshes_the_count_of_fruitless_starts() -> None:
    attempts = [attempt(n, Cause.CRASH, step) for n, step in enumerate([7, 7, 9], 1)]
    assert after(*attempts).action is Action.RESTART


def test_crashes_and_out_of_memory_have_budgets_of_their_own() -> None:
    memory = [attempt(n, Cause.OUT_OF_MEMORY, 10 * n) for n in (1, 2)]
    assert after(memory[0]).action is Action.RESTART
    assert "out of memory 2 times" in after(*memory).reason
    mixed = [attempt(1, Cause.OUT_OF_MEMORY, 10), *[attempt(n, Cause.CRASH, 10 * n) for n in (2, 3, 4)]]
    assert after(*mixed).action is Action.RESTART


@fault("24", "the policy alone: interrupted starts without a step")
def test_endless_preemption_at_start_up_ends_the_run() -> None:
    attempts = [attempt(n, Cause.PREEMPTION, None) for n in range(1, 21)]
    assert may_start(attempts[:19], LIMITS, 1) is None
    decision = may_start(attempts, LIMITS, 1)
    assert decision is not None
    assert decision.state == "failed"


def test_resume_gives_fresh_budgets() -> None:
    old = [attempt(n, Cause.CRASH, 7) for n in range(1, 5)]
    assert after(*old, replace(attempt(5, Cause.CRASH, 7), generation=2)).action is Action.RESTART


def test_a_node_is_excluded_at_its_second_strike() -> None:
    attempts = [
        attempt(1, Cause.CRASH, 5, "n1", what="CUDA error: an illegal memory access"),
        attempt(2, Cause.CRASH, 9, "n2"),
        attempt(3, Cause.HANG, 12, "n1"),
    ]
    assert bad_nodes(attempts[:2]) == ()
    assert after(*attempts, in_place=False).exclude == ("n1",)


def test_what_fails_alike_on_two_nodes_is_no_nodes_fault() -> None:
    attempts = [attempt(n, Cause.CRASH, 5 * n, node, what=f"KeyError: {n}") for n, node in enumerate(["n1", "n1", "n2"], 1)]
    assert bad_nodes(attempts[:2]) == ("n1",)
    assert bad_nodes(attempts) == ()
    hangs = [attempt(n, Cause.HANG, 5 * n, node) for n, node in enumerate(["n1", "n2", "n1"], 1)]
    assert bad_nodes(hangs) == ("n1",)


def test_a_run_on_one_node_leaves_it_at_the_second_strike_that_speaks_of_the_node() -> None:
    hangs = [attempt(n, Cause.HANG, 5 * n) for n in (1, 2)]
    assert after(hangs[0], in_place=True).action is Action.RESTART
    decision = after(*hangs, in_place=True)
    assert (decision.action, decision.exclude) == (Action.REQUEUE, ("n1",))
    assert after(*hangs, in_place=True, can_requeue=False).action is Action.RESTART  # here there is no other
    bugs = [attempt(n, Cause.CRASH, 5 * n, what="KeyError: 'x'") for n in (1, 2)]
    assert after(*bugs, in_place=True).action is Action.RESTART


def without_gpu(number: int, node: str) -> Attempt:
    return replace(attempt(number, Cause.NO_GPU, None, node), failure=Failure(0, node, None, "1 GPU was given, and torch sees 0"))


def test_a_node_without_its_gpus_is_left_at_once_and_what_is_so_on_the_next_one_ends_the_run() -> None:
    first = without_gpu(1, "n1")
    assert (after(first).action, after(first).exclude) == (Action.REQUEUE, ("n1",))
    decision = after(first, without_gpu(2, "n2"))
    assert (decision.action, decision.state) == (Action.END, "failed")
    assert "the same on n1" in decision.reason and "rank 0 on n2" in decision.reason
    assert "no other node was found" in after(first, without_gpu(2, "n1")).reason
    apart = [first, attempt(2, Cause.PREEMPTION, 50, "n2"), without_gpu(3, "n3")]  # GPUs were seen in between
    assert after(*apart).exclude == ("n3",)
    assert after(first, can_requeue=False).state == "failed"


def test_a_local_run_told_to_end_is_stopped_not_requeued() -> None:
    decision = after(attempt(1, Cause.REQUEUED, 5), in_place=False, can_requeue=False)
    assert (decision.action, decision.state) == (Action.END, "stopped")
