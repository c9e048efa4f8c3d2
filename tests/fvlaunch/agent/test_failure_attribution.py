"""What an attempt's ends mean: the rank that failed is named, not those that only noticed."""

from __future__ import annotations

import signal

import pytest

from fvlaunch.agent.failure_attribution import NodeEnd, RankEnd, judge, last_lines, waits_for_others
from fvlaunch.runs.attempts import Cause

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


def test_a_node_without_its_gpu_is_blamed_and_where_all_lack_them_no_node_is() -> None:
    told = "2 GPUs were given to this node's ranks, and torch 2.13 sees 0: driver too old"
    bad, waiting = end(2, 77, told=told, node="n2"), end(0, 1, at=0.5, told=ECHO)
    cause, failure = judge([NodeEnd("n1", (waiting,)), NodeEnd("n2", (bad,))], None)
    assert (cause, failure and failure.node, failure and failure.what) == (Cause.NO_GPU, "n2", told)
    cause, failure = judge([NodeEnd("n1", (end(0, 77, told=told),)), NodeEnd("n2", (bad,))], None)
    assert cause is Cause.NO_RESTART and failure is not None


def test_a_failure_in_its_own_words_is_not_waited_for_and_an_echo_is() -> None:
    """Whoever hears `explains` gives the other ranks and nodes a second instead of ten."""
    clear = [end(0, -signal.SIGKILL), end(0, -signal.SIGSEGV), end(0, 1, told="Traceback\nKeyError: 'x'")]
    clear.append(end(0, 1, told="Traceback\nMemoryError: nccl could not have it"))
    unclear = [
        end(0, 1, told=f"Traceback\n{ECHO}"),
        end(0, -signal.SIGABRT),
        end(0, 1),
        end(0, 76, told="no data"),
        end(0, 77, told="no GPU"),
    ]
    unclear += [end(0, 0), end(0, 75), end(0, -signal.SIGKILL, killed_by_agent=True)]
    assert [e.explains for e in clear] == [True] * len(clear)
    assert [e.explains for e in unclear] == [False] * len(unclear)
    assert NodeEnd("n1", (unclear[0], clear[0])).explains and not NodeEnd("n1", tuple(unclear)).explains


def test_a_notice_explains_saved_and_killed_ranks() -> None:
    ends = (end(0, 75), end(1, -signal.SIGKILL, killed_by_agent=True))
    assert judge([NodeEnd("n1", ends)], Cause.TIME_LIMIT) == (Cause.TIME_LIMIT, None)


@pytest.mark.parametrize("notice", [Cause.STOPPED, Cause.TIME_LIMIT, Cause.PREEMPTION, Cause.REQUEUED])
def test_a_rank_that_was_to_save_and_could_not_is_named_beside_the_notice(notice: Cause) -> None:
    told = "Traceback\nSaveFailed: the checkpoint of the last step, 13, could not be written (No space left on device)"
    ends = (end(0, 1, at=1.0, told=ECHO), end(1, 1, at=1.5, told=told, step=13, lines=("Traceback", "  File")))
    cause, failure = judge([NodeEnd("n1", ends)], notice)
    assert cause is notice and failure is not None
    assert failure.explain() == f"rank 1 on n1 at step 13: {told.splitlines()[1]}"
    assert judge([NodeEnd("n1", ends)], Cause.CANCELLED) == (Cause.CANCELLED, None)


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


def test_the_last_lines_are_the_ranks_own_without_the_cascade() -> None:
    log = """step 7
Traceback (most recent call last):
  File "train.py", line 3, in step
ValueError: bad batch
[rank3]:[E ProcessGroupNCCL.cpp:616] [Rank 3] Watchdog caught collective operation timeout
frame #0: c10::Error::Error(c10::SourceLocation, std::string) + 0x96
terminate called after throwing an instance of 'c10::DistBackendError'
  what():  [Rank 3] Process group watchdog thread terminated
resource_tracker: There appear to be 1 leaked semaphore objects
"""
    assert last_lines(log)[-1] == "ValueError: bad batch"
    assert last_lines(log, 2) == ('  File "train.py", line 3, in step', "ValueError: bad batch")
    only = "[rank3]:[E ProcessGroupNCCL.cpp:616] Watchdog caught collective operation timeout"
    assert last_lines(only) == (only,)  # better than nothing


def test_of_stacks_the_innermost_calls_of_the_thread_at_work_are_told() -> None:
    frames = "".join(f'  File "f{n}.py", line {n} in call{n}\n' for n in range(40))
    log = f"step 7\nThread 0x00007f01 (most recent call first):\n{frames}\nCurrent thread 0x00007f02 (most recent call first):\n{frames}"
    told = last_lines(log)
    assert told[0].startswith("Current thread") and told[1].endswith("in call0") and len(told) == 12


def test_a_file_called_store_makes_no_echo() -> None:
    told = "Traceback\n  File \"/site/store.py\", line 3, in timeout\n    peer.get()\nKeyError: 'x'"
    ends = (end(0, 1, at=1.0, told=told), end(1, 1, at=2.0, told="ValueError: later"))
    _, failure = judge([NodeEnd("n1", ends)], None)
    assert failure is not None and failure.rank == 0


def test_of_hung_nodes_the_rank_least_far_on_is_named() -> None:
    one = NodeEnd("n1", (end(0, -9, killed_by_agent=True, step=5),), hung_rank=0)
    two = NodeEnd("n2", (end(1, -9, killed_by_agent=True, step=4, node="n2"),), hung_rank=1)
    _, failure = judge([one, two], None)
    assert failure is not None and (failure.node, failure.rank, failure.step) == ("n2", 1, 4)


def test_a_node_whose_ranks_only_waited_is_not_the_one_that_hung() -> None:
    waited = NodeEnd("n1", (end(0, -9, killed_by_agent=True, step=4),), hung_rank=0, hung_waits=True)
    hung = NodeEnd("n2", (end(1, -9, killed_by_agent=True, step=5, node="n2"),), hung_rank=1)
    _, failure = judge([waited, NodeEnd.parse(hung.dump())], None)
    assert failure is not None and failure.node == "n2"


def test_stacks_tell_who_waits_for_others() -> None:
    head = (
        'Thread 0x1 (most recent call first):\n  File "/lib/threading.py", line 1 in wait\n\nCurrent thread 0x2 (most recent call first):\n'
    )
    assert waits_for_others(head + '  File "/site/torch/distributed/distributed_c10d.py", line 9 in all_reduce\n  File "mine.py"') is True
    assert waits_for_others(head + '  File "/home/me/mine.py", line 9 in load\n  File "/site/torch/x.py", line 1 in f') is False
    assert waits_for_others("step 7\n") is None
