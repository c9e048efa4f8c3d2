"""The schedulers/slurm room against a real Slurm: what it asks, what it tells, and what a signal means inside a job's own handler."""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from fvlaunch.errors import SchedulerRefused, SchedulerUnreachable
from fvlaunch.schedulers.slurm import commands as asked
from fvlaunch.schedulers.slurm import site as slurm_site
from tests.integration.slurm import processes
from tests.integration.slurm.cluster import SlurmCluster
from tests.support.paths import ROOT
from tests.support.rows import fault

Sightings = list[dict[str, Any]]


@pytest.fixture(autouse=True)
def here(slurm: SlurmCluster, monkeypatch: pytest.MonkeyPatch) -> SlurmCluster:
    """The module under test sees the cluster as a user's shell does."""
    for key in ("SLURM_CONF", "PATH"):
        monkeypatch.setenv(key, slurm.env[key])
    return slurm


@pytest.fixture(scope="module")
def folder(slurm: SlurmCluster) -> Path:
    return Path(tempfile.mkdtemp(dir=slurm.directory))  # it goes with the cluster


def observe(slurm: SlurmCluster, folder: Path, name: str, habit: str, *options: str) -> tuple[str, Callable[[], Sightings]]:
    """Submit a job whose task reports its signals; the job id and what it has reported so far."""
    output = folder / f"{name}.jsonl"
    script = folder / f"{name}.sh"
    task = f"{sys.executable} {Path(__file__).with_name('observer.py')} {output} {habit}"
    script.write_text(f"#!/bin/bash\nexport PYTHONPATH={ROOT} PYTHONDONTWRITEBYTECODE=1\nsrun {task}\n")
    job_id = slurm.sbatch("-J", name, "-o", str(folder / f"{name}.out"), "--open-mode=append", *options, str(script))
    return job_id, lambda: [json.loads(line) for line in output.read_text().splitlines()] if output.exists() else []


def eventually(true: Callable[[], Any], timeout_s: float = 240, told: Callable[[], str] = str) -> Any:
    deadline = time.monotonic() + timeout_s
    while not (found := true()):
        if time.monotonic() > deadline:
            raise AssertionError(f"not true after {timeout_s:g} s\n{told()}")
        time.sleep(0.05)
    return found


@pytest.fixture(scope="module")
def limited(slurm: SlurmCluster) -> Iterator[tuple[SlurmCluster, str, Callable[[], Sightings]]]:
    """A job at its time limit, in a cluster of its own: Slurm looks at limits every 30 s, and meanwhile the other tests run."""
    with SlurmCluster(nodes=1) as cluster:
        job_id, sightings = observe(cluster, cluster.directory, "limit", "stay")
        eventually(sightings)
        cluster.end_in(job_id, 1)
        yield cluster, job_id, sightings


@pytest.fixture(scope="module", autouse=True)
def _limited_from_the_first_test_on(slurm: SlurmCluster, limited: object) -> None:
    pass


@pytest.fixture(scope="module")
def seen(slurm: SlurmCluster, folder: Path) -> Iterator[dict[str, Sightings]]:
    """Every way to be signalled but the time limit, all at once."""
    first, second = slurm.nodes
    jobs = {
        "preempted": observe(slurm, folder, "preempted", "requeue", "-w", first, "-c8"),
        "scancel": observe(slurm, folder, "scancel", "end", "-w", second, "-n1"),
        "requeued": observe(slurm, folder, "requeued", "end", "-w", second, "-n1"),
        "notice": observe(slurm, folder, "notice", "end", "-w", second, "-n1"),
    }
    for _, sightings in jobs.values():
        eventually(sightings)
    slurm.preempt(jobs["preempted"][0])
    slurm.run("scancel", jobs["scancel"][0])
    slurm.run("scancel", "--signal=USR2", jobs["notice"][0])
    slurm.run("scontrol", "requeue", jobs["requeued"][0])
    for name in ("preempted", "requeued"):
        job_id, sightings = jobs[name]
        eventually(
            lambda sightings=sightings: [one for one in sightings() if one["life"] == 1],
            told=lambda job_id=job_id, sightings=sightings: f"{sightings()}\n{slurm.report(job_id)}",
        )
    slurm.run("scancel", jobs["requeued"][0])
    slurm.run("scontrol", "requeue", jobs["notice"][0])  # after its notice: the same signal handler, another cause
    eventually(lambda: [one for one in jobs["notice"][1]() if one["life"] == 1])
    slurm.run("scancel", jobs["notice"][0], jobs["preempted"][0])
    slurm.cancel_all()
    yield {name: sightings() for name, (_, sightings) in jobs.items()}


def causes(sightings: Sightings, life: int) -> list[tuple[str, str]]:
    return [(one["signal"], one["cause"]) for one in sightings if one["life"] == life and one["signal"] != "start"]


def test_a_preemption_is_told_inside_the_handler_and_a_requeue_there_brings_the_job_back(seen: dict[str, Sightings]) -> None:
    assert causes(seen["preempted"], 0)[0] == ("SIGTERM", "PREEMPTION"), seen["preempted"]
    assert causes(seen["preempted"], 0)[1:] == [("SIGTERM", "REQUEUED")]  # comes with the requeue itself
    assert [one["life"] for one in starts(seen["preempted"])] == [0, 1]
    assert causes(seen["preempted"], 1) == [("SIGTERM", "CANCELLED")]  # the preemption of the life before is forgotten


def starts(sightings: Sightings) -> Sightings:
    return [one for one in sightings if one["signal"] == "start"]


def test_a_cancel_is_told_apart_from_all_that_comes_back(seen: dict[str, Sightings]) -> None:
    assert causes(seen["scancel"], 0) == [("SIGTERM", "CANCELLED")]
    assert causes(seen["requeued"], 1) == [("SIGTERM", "CANCELLED")]  # in a second life too


def test_an_administrators_requeue_is_told(seen: dict[str, Sightings]) -> None:
    assert causes(seen["requeued"], 0) == [("SIGTERM", "REQUEUED")]


def test_a_notice_says_nothing_but_itself(seen: dict[str, Sightings]) -> None:
    assert causes(seen["notice"], 0) == [("SIGUSR2", "NOTICE"), ("SIGTERM", "REQUEUED")]


def test_a_lost_node_requeues_the_job_and_tells_the_other_node_so(slurm: SlurmCluster, folder: Path) -> None:
    first, second = slurm.nodes
    job_id, sightings = observe(slurm, folder, "lost", "end", "-N2", "-n2", "--ntasks-per-node=1")
    eventually(lambda: len(sightings()) == 2)
    slurm.node_down(second)
    told = eventually(lambda: [one for one in sightings() if one["node"] == first and one["signal"] == "SIGTERM"])
    assert told[0]["cause"] == "REQUEUED"
    slurm.node_up(second)
    slurm.wait_restart(job_id, 1)
    slurm.cancel_all()


def test_a_preemption_in_an_earlier_life_is_not_taken_for_one_in_this(slurm: SlurmCluster, folder: Path) -> None:
    job_id, sightings = observe(slurm, folder, "again", "requeue", "-c8")
    eventually(sightings)
    slurm.preempt(job_id)
    eventually(lambda: [one for one in starts(sightings()) if one["life"] == 1], told=lambda: f"{sightings()}\n{slurm.report(job_id)}")
    assert asked.cancel(job_id, signal="USR2")
    eventually(lambda: causes(sightings(), 1) == [("SIGUSR2", "NOTICE")])
    slurm.cancel_all()


# --- asking


def sleeper(slurm: SlurmCluster, *options: str) -> str:
    return slurm.sbatch("-o", "/dev/null", *options, "--wrap", "exec sleep 600")


def test_queue_tells_each_job_of_mine_and_keeps_silent_about_others(slurm: SlurmCluster, tmp_path: Path) -> None:
    odd = 'he said "a=b | JobState=FAILED", 100% true\nand more'
    before = time.time()
    running = sleeper(slurm, "-J", "one two=3", "--comment", odd, "-D", str(slurm.directory), "-t", "10")
    waiting = sleeper(slurm, "--begin=now+1hour")
    slurm.wait_state(running, "RUNNING")
    found = asked.queue([running, waiting, "99999"])
    assert set(found) == {running, waiting}
    one = found[running]
    assert (one.state, one.name, one.comment, one.work_dir, one.restarts) == ("RUNNING", "one two=3", odd, str(slurm.directory), 0)
    assert one.nodes in slurm.nodes
    assert one.time_left_s is not None and 0 < one.time_left_s <= 600
    assert one.start_at is not None and before - 1 <= one.start_at <= time.time() + 1
    assert one.end_at == one.start_at + 600
    assert (found[waiting].state, found[waiting].reason, found[waiting].nodes) == ("PENDING", "BeginTime", "")
    assert set(asked.queue()) >= {running, waiting}
    assert asked.queue([]) == {}
    slurm.cancel_all()


def test_job_tells_what_queue_does_and_more(slurm: SlurmCluster) -> None:
    job_id = sleeper(slurm, "-J", "x JobState=FAILED", "--comment", "y Restarts=7", "-x", slurm.nodes[1], "-t", "10")
    slurm.wait_state(job_id, "RUNNING")
    found = asked.job(job_id)
    assert found is not None
    assert (found.state, found.name, found.comment, found.restarts) == ("RUNNING", "x JobState=FAILED", "y Restarts=7", 0)
    assert (found.nodes, found.excluded_nodes, found.requeue, found.preempted_at) == (slurm.nodes[0], slurm.nodes[1], True, None)
    assert found.end_at == (found.start_at or 0) + 600 and 500 < (asked.left_s(job_id) or 0) <= 600
    assert asked.job("99999") is None
    assert asked.left_s("99999") is None
    slurm.cancel_all()


def test_a_job_that_could_not_write_its_log_says_so(slurm: SlurmCluster) -> None:
    log = slurm.directory / "slurm.conf" / "x"  # below a file: newer Slurm makes folders that are missing
    job_id = slurm.sbatch("-o", str(log), "--wrap", "true")
    slurm.wait_state(job_id, "FAILED")
    found = asked.job(job_id)
    assert found is not None and found.exit_code == "0:53"
    assert "no log" in asked.explain(found.state, found.reason, found.exit_code, job_id)


def test_find_by_token_finds_it_in_the_comment_and_in_the_working_directory(slurm: SlurmCluster, folder: Path) -> None:
    (work := folder / "run-4f2a9c").mkdir()
    mine = [sleeper(slurm, "-H", "--comment", "mine fvlaunch:4f2a9c"), sleeper(slurm, "-H", "-D", str(work))]
    sleeper(slurm, "-H", "--comment", "fvlaunch:other")
    assert sorted(asked.find_by_token("4f2a9c")) == sorted(mine)
    assert asked.find_by_token("not there") == []
    slurm.cancel_all()


def test_without_accounting_accounted_says_so_instead_of_nothing_found(slurm: SlurmCluster) -> None:
    assert asked.accounted(["1"]) is None
    assert asked.accounted([]) == {}


def test_test_only_says_when_or_why_not(slurm: SlurmCluster) -> None:
    yes = asked.test_only(["-N1", "-t", "5", "--wrap", "true"])
    assert yes.accepted and yes.start and not yes.reason
    no = asked.test_only(["-N9", "--wrap", "true"])
    assert (no.accepted, no.reason) == (False, "Requested node configuration is not available")
    assert "nowhere" in asked.test_only(["-p", "nowhere", "--wrap", "true"]).reason


def test_identity_and_availability(slurm: SlurmCluster, monkeypatch: pytest.MonkeyPatch) -> None:
    slurm_site._known.clear()
    found = slurm_site.identity()
    assert found.version is not None and found.version >= (20, 11)
    assert found.name == asked.cluster_name() == slurm_site.config()["ClusterName"]
    assert asked.available()
    monkeypatch.setenv("PATH", "/nowhere")
    assert not asked.available()
    with pytest.raises(SchedulerUnreachable, match="not on PATH"):
        asked.queue()


def test_hostnames_come_out_one_by_one(slurm: SlurmCluster) -> None:
    assert asked.hostnames("127.0.0.[11-12]") == slurm.nodes


# --- telling


def test_requeue_counts_one_restart_and_a_waiting_job_is_done_already(slurm: SlurmCluster) -> None:
    job_id = sleeper(slurm)
    slurm.wait_state(job_id, "RUNNING")
    assert asked.requeue(job_id)
    slurm.wait_restart(job_id, 1)
    slurm.cancel_all()
    waiting = sleeper(slurm, "-H")
    assert asked.requeue(waiting)
    assert asked.queue([waiting])[waiting].restarts == 0
    assert not asked.requeue("99999")
    slurm.cancel_all()


def test_requeue_of_a_job_that_may_not_be_requeued_is_refused_with_the_reason(slurm: SlurmCluster) -> None:
    job_id = sleeper(slurm, "--no-requeue")
    slurm.wait_state(job_id, "RUNNING")
    with pytest.raises(SchedulerRefused) as refused:
        asked.requeue(job_id)
    assert "--no-requeue" in refused.value.hint
    slurm.cancel_all()


def test_exclude_node_keeps_earlier_ones_and_needs_a_waiting_job(slurm: SlurmCluster) -> None:
    first, second = slurm.nodes
    job_id = sleeper(slurm)
    slurm.wait_state(job_id, "RUNNING")
    with pytest.raises(SchedulerRefused) as refused:
        asked.exclude_node(job_id, first)
    assert "requeue" in refused.value.hint
    assert asked.requeue(job_id)
    assert asked.exclude_node(job_id, first)  # at once, while it is still ending
    slurm.wait_restart(job_id, 1)
    found = asked.job(job_id)
    assert found is not None and (found.nodes, found.excluded_nodes) == (second, first)
    assert asked.requeue(job_id) and asked.hold(job_id)
    assert asked.exclude_node(job_id, second) and asked.exclude_node(job_id, second)
    found = asked.job(job_id)
    assert found is not None and sorted(found.excluded_nodes.split(",")) == [first, second]
    assert not asked.exclude_node("99999", first)
    slurm.cancel_all()


def test_a_node_can_be_spared_only_while_enough_others_are_left(slurm: SlurmCluster) -> None:
    first, second = slurm.nodes
    job_id = sleeper(slurm, "-H")
    assert asked.can_spare(job_id, first, 1)
    assert not asked.can_spare(job_id, first, 2)
    assert asked.exclude_node(job_id, second)
    assert not asked.can_spare(job_id, first, 1)
    assert not asked.can_spare("99999", first, 1)
    slurm.cancel_all()


def test_hold_and_release(slurm: SlurmCluster) -> None:
    job_id = sleeper(slurm, "--begin=now+1hour")
    assert asked.hold(job_id)
    assert asked.queue([job_id])[job_id].reason in ("JobHeldUser", "JobHeldAdmin")
    assert asked.release(job_id)
    assert "Held" not in asked.queue([job_id])[job_id].reason
    assert not asked.hold("99999")
    slurm.cancel_all()


def test_cancel_ends_a_job_and_its_signal_form_only_signals(slurm: SlurmCluster, folder: Path) -> None:
    job_id, sightings = observe(slurm, folder, "signalled", "end")
    eventually(sightings)
    assert asked.cancel(job_id, signal="USR2")
    eventually(lambda: causes(sightings(), 0) == [("SIGUSR2", "NOTICE")])
    assert slurm.state(job_id) == "RUNNING"
    assert asked.cancel(job_id)
    slurm.wait_state(job_id, "CANCELLED")
    assert not asked.cancel(job_id, signal="USR2")
    waiting = sleeper(slurm, "-H")
    assert not asked.cancel(waiting, signal="USR2")  # scancel itself would wait for it to start
    slurm.cancel_all()


def test_an_id_or_a_node_that_is_an_option_is_refused(slurm: SlurmCluster) -> None:
    for wrong in ("-w", "1;ls", "", "all", "1,2", "1\n"):
        with pytest.raises(SchedulerRefused):
            asked.cancel(wrong)
    for wrong in ("-x", "n 1", "n1\n", ""):
        with pytest.raises(SchedulerRefused):
            asked.hostnames(wrong)


def test_a_surrounding_job_does_not_leak_into_a_call(slurm: SlurmCluster, monkeypatch: pytest.MonkeyPatch) -> None:
    job_id = sleeper(slurm, "-H")
    for key, value in {"SQUEUE_FORMAT": "%j", "SQUEUE_STATES": "RUNNING", "SQUEUE_USERS": "nobody", "SLURM_CLUSTERS": "other"}.items():
        monkeypatch.setenv(key, value)
    assert set(asked.queue([job_id])) == {job_id}
    assert "SLURM_CONF" in asked.environment() and not [key for key in asked.environment() if key.startswith(("SQUEUE_", "SLURM_CL"))]
    slurm.cancel_all()


# --- no answer


@fault("15", "slurmctld stopped; each question")
def test_a_dead_controller_is_no_answer_whatever_is_asked(slurm: SlurmCluster) -> None:
    slurm.stop_ctld()
    try:
        for call in (lambda: asked.queue(timeout_s=1), lambda: asked.requeue("1"), lambda: asked.job("1", timeout_s=1)):
            with pytest.raises(SchedulerUnreachable) as unreachable:
                call()
            assert unreachable.value.exit_code == 3
    finally:
        slurm.start_ctld()
    assert isinstance(asked.queue(), dict)


def test_a_hanging_controller_costs_no_more_than_the_time_limit(slurm: SlurmCluster) -> None:
    slurm.pause_ctld()
    began = time.monotonic()
    try:
        with pytest.raises(SchedulerUnreachable, match="within 1 s"):
            asked.queue(timeout_s=1)
    finally:
        slurm.resume_ctld()
    assert time.monotonic() - began < 15


def test_the_cluster_ends_all_that_it_started_and_only_that() -> None:
    bystander = os.getpid()
    with SlurmCluster(nodes=1) as cluster:
        cluster.sbatch("-o", "/dev/null", "--wrap", "setsid sleep 543 & srun sleep 654")
        eventually(lambda: {"sleep 543", "sleep 654"} <= commands(cluster))  # the one in a session of its own, and the step
        directory = cluster.directory
    assert cluster._own_processes() == []
    assert not directory.exists()
    os.kill(bystander, 0)


def commands(cluster: SlurmCluster) -> set[str]:
    """What the cluster's own processes run, without the folders of programs."""
    argvs = (processes.command(pid).split()[1:] for pid in cluster._own_processes())
    return {" ".join([Path(argv[0]).name, *argv[1:]]) for argv in argvs if argv}


def test_a_time_limit_is_told(limited: tuple[SlurmCluster, str, Callable[[], Sightings]]) -> None:
    """The last one, as Slurm needs up to 30 s from the start of this file."""
    cluster, job_id, sightings = limited
    cluster.wait_state(job_id, "TIMEOUT")
    assert causes(sightings(), 0)[0] == ("SIGTERM", "TIME_LIMIT")
