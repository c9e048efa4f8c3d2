"""`status` on a real Slurm, with and without accounts: every state as it is, step by step, with one squeue and at most one sacct."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.integration.slurm import accounting
from tests.integration.slurm.cluster import SlurmCluster, missing_programs
from tests.integration.slurm.stubs import Quick, sleeping, sleeping_profile
from tests.support.launcher import Workspace
from tests.support.rows import fault

BARE = pytest.mark.parametrize("site", [False], indirect=True, ids=["without accounts"])
"""For what accounts make no difference to."""
ACCOUNTED = pytest.mark.parametrize("site", [True], indirect=True, ids=["with accounts"])
CUT = "PartitionName=cut Nodes=127.0.0.11 PriorityTier=1 PreemptMode=CANCEL GraceTime=0 MaxTime=INFINITE State=UP"


@pytest.fixture(scope="module", params=[False, True], ids=["without accounts", "with accounts"])
def site(request: pytest.FixtureRequest) -> Iterator[SlurmCluster]:
    missing = missing_programs() + (accounting.missing_programs() if request.param else [])
    if missing:
        reason = f"NOT TESTED HERE: {', '.join(missing)} not found (apt-get install slurm-wlm munge; {accounting.INSTALL})"
        if os.environ.get("FVLAUNCH_REQUIRE_SLURM") == "1":
            pytest.fail(reason, pytrace=False)
        pytest.skip(reason)
    with SlurmCluster(nodes=1, cpus=8, grace_s=1, kill_wait_s=1, quick_requeue=False, accounting=request.param, extra=[CUT]) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def runs(site: SlurmCluster, tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """Every call of squeue and sacct is written down on its way to the real one."""
    folder = tmp_path_factory.mktemp("truth")
    (folder / "bin").mkdir()
    for name in ("squeue", "sacct"):
        wrapper = folder / "bin" / name
        wrapper.write_text(f'#!/bin/sh\necho {name} >>{folder}/calls\nexec {shutil.which(name, path=site.env["PATH"])} "$@"\n')
        wrapper.chmod(0o755)
    made = Quick(folder, {**os.environ, **site.env, "PATH": f"{folder / 'bin'}:{site.env['PATH']}"})
    sleeping_profile(made)
    return made


def told(runs: Workspace, *names: str, code: int = 0) -> dict[str, tuple[str, str]]:
    """(state, reason) of each; all from one squeue and at most one sacct."""
    calls = runs.folder / "calls"
    calls.write_text("")
    done = runs.call("status", *names, "--json", check=False)
    assert done.returncode == code, done.stderr
    asked = calls.read_text().split()
    assert asked.count("squeue") <= 1 and asked.count("sacct") <= 1
    return {s["run"]: (s["state"], s["reason"]) for s in json.loads(done.stdout)}


def test_a_held_job_is_told_with_the_command_that_releases_it(site: SlurmCluster, runs: Workspace) -> None:
    job = sleeping(runs, "held", "--", "--hold")
    state, reason = told(runs, "held")["held"]
    assert state == "queued" and "held" in reason
    site.run("scontrol", "uhold", job)
    state, reason = told(runs, "held")["held"]
    assert state == "queued" and f"`scontrol release {job}`" in reason
    site.run("scontrol", "release", job)
    site.wait_state(job, "RUNNING")
    assert told(runs, "held")["held"] == ("running", f"job {job} runs")
    site.run("scancel", job)


@BARE
def test_a_job_that_waits_for_its_time_says_until_when(site: SlurmCluster, runs: Workspace) -> None:
    job = sleeping(runs, "later", "--begin", "now+1hour")
    runs.until(lambda: site.reason(job) == "BeginTime", "Slurm has looked at the job")  # until then it may say: Resources
    state, reason = told(runs, "later")["later"]
    assert state == "queued" and "waits for its begin time" in reason
    at = reason.partition("(until ")[2].rstrip(")")
    assert at == time.strftime("%H:%M:%S", time.localtime(int(_details(site, job)["StartTime"])))
    runs.call("cancel", "later")


def test_a_requeued_job_waits_and_is_told_so(site: SlurmCluster, runs: Workspace) -> None:
    job = sleeping(runs, "requeued")
    site.wait_state(job, "RUNNING")
    site.run("scontrol", "requeue", job)
    runs.until(lambda: site.reason(job) == "BeginTime", "the job waits for its begin time")
    state, reason = told(runs, "requeued")["requeued"]
    assert state == "requeued" and "after a requeue" in reason and "about two minutes" in reason and "(until " in reason
    site.start_waiting(job)
    site.wait_restart(job, 1)
    assert told(runs, "requeued")["requeued"][0] == "running"
    site.run("scancel", job)


@BARE
def test_a_preempted_job_is_never_called_gone(site: SlurmCluster, runs: Workspace) -> None:
    job = sleeping(runs, "preempted", behave="stay")
    site.wait_state(job, "RUNNING")
    site.preempt(job, 0.2)
    seen = []

    def is_back() -> bool:
        seen.append(told(runs, "preempted")["preempted"][0])
        return site.restarts(job) > 0 and site.state(job) == "PENDING"

    runs.until(is_back, "the job is requeued and waits")
    seen.append(told(runs, "preempted")["preempted"][0])
    assert set(seen) <= {"running", "requeued"} and seen[-1] == "requeued", seen
    runs.call("cancel", "preempted")


@BARE
def test_where_preemption_cancels_it_is_the_end_and_told_as_such(site: SlurmCluster, runs: Workspace) -> None:
    job = sleeping(runs, "cut", "-p", "cut", behave="stay")
    site.wait_state(job, "RUNNING")
    site.preempt(job, 0.2)
    site.wait_state(job, "PREEMPTED")
    state, reason = runs.until(lambda: (s := told(runs, "cut")["cut"])[0] != "running" and s, "the preemption is final")
    assert state == "stopped" and "fvlaunch resume cut" in reason


@fault("26", "jobs that Slurm has forgotten, with and without accounts")
def test_a_failed_and_a_cancelled_job_and_then_all_that_slurm_has_forgotten(site: SlurmCluster, runs: Workspace) -> None:
    """Two of each; only the first of them is looked at before Slurm forgets it."""
    jobs = {name: sleeping(runs, name, "--begin", "now+1hour", behave=behave)
            for name, behave in {"failed": "fail", "failed2": "fail", "gone": "", "gone2": ""}.items()}  # fmt: skip
    for job in jobs.values():
        site.run("scontrol", "update", f"jobid={job}", "StartTime=now")
    for name, job in jobs.items():
        site.wait_state(job, "FAILED" if "failed" in name else "RUNNING")
    site.run("scancel", jobs["gone"], jobs["gone2"])
    site.wait_state(jobs["gone"], "CANCELLED")
    site.wait_state(jobs["gone2"], "CANCELLED")
    before = told(runs, "failed", "gone")
    assert before["failed"][0] == "failed" and "failed with exit code 3" in before["failed"][1]
    assert before["gone"] == ("cancelled", "cancelled through the scheduler before an attempt was begun")
    if site.accounting:  # which are late
        runs.until(lambda: _accounted(site, jobs.values()) == {"FAILED", "CANCELLED"}, "the accounts know all of them")
    _forget(site)
    after = told(runs, *jobs)
    assert {name: after[name] for name in before} == before
    if site.accounting:
        assert after["failed2"][0] == "failed" and "exit code 3" in after["failed2"][1]
        assert after["gone2"][0] == "cancelled"
    else:
        assert {after[name][0] for name in ("failed2", "gone2")} == {"lost"}
        assert "fvlaunch resume gone2" in after["gone2"][1]


def test_a_job_with_the_number_of_one_long_gone_is_not_taken_for_it(site: SlurmCluster, runs: Workspace) -> None:
    jobs = [sleeping(runs, "old", "--begin", "now+1hour")]
    _forget(site)
    while jobs[-1] != jobs[0] or len(jobs) == 1:  # the counter begins again
        jobs.append(site.sbatch("-H", "-o", "/dev/null", "--wrap", "true"))
    # the accounts may still say that it waits, or already that the controller lost it, which they call cancelled
    assert told(runs, "old")["old"][0] in (("lost", "queued", "cancelled") if site.accounting else ("lost",))
    refused = runs.call("resume", "old", "--begin", "now+1hour")
    assert refused.returncode == 0
    assert told(runs, "old")["old"][0] == "queued"
    runs.call("cancel", "old")
    assert jobs[0] in [line.split()[0] for line in site.jobs()]  # that other job was left alone
    site.cancel_all()


@fault("15", "slurmctld stopped, and frozen")
@BARE
def test_without_slurmctld_the_last_known_and_its_age_within_five_seconds(site: SlurmCluster, runs: Workspace) -> None:
    job = sleeping(runs, "blind", "--begin", "now+1hour")
    shell = Workspace(runs.folder, runs.env)
    usual = _seconds(shell, code=0)[0]
    for stop, start in ((site.stop_ctld, site.start_ctld), (site.pause_ctld, site.resume_ctld)):
        stop()
        try:
            took, [status] = _seconds(shell, code=3)
        finally:
            start()
        assert (status["state"], status["reason"]) == ("queued", "the scheduler cannot be reached")
        assert status["stale_s"] > 0
        assert took < 5 + 3 * usual  # a process that starts slowly here is not the scheduler's doing
    assert told(runs, "blind")["blind"][0] == "queued"
    site.run("scancel", job)


@fault("26", "slurmdbd stopped")
@ACCOUNTED
def test_without_slurmdbd_an_end_is_unknown_and_not_guessed(site: SlurmCluster, runs: Workspace) -> None:
    job = sleeping(runs, "unaccounted", "--begin", "now+1hour")
    site.run("scancel", job)
    _forget(site)
    site.stop_dbd()
    try:
        began = time.monotonic()
        state, reason = told(runs, "unaccounted", code=3)["unaccounted"]
        assert state == "queued" and "the accounts give no answer" in reason
        assert time.monotonic() - began < 20
    finally:
        site.start_dbd()


def _seconds(shell: Workspace, code: int) -> tuple[float, list[dict[str, Any]]]:
    began = time.monotonic()
    done = shell.call("status", "blind", "--json", check=False)
    assert done.returncode == code, done.stderr
    return time.monotonic() - began, json.loads(done.stdout)


def _details(site: SlurmCluster, job: str) -> dict[str, str]:
    shown = site.run("env", "SLURM_TIME_FORMAT=%s", "scontrol", "show", "job", job).stdout
    return dict(part.split("=", 1) for part in shown.split() if "=" in part)


def _accounted(site: SlurmCluster, jobs: Iterable[str]) -> set[str]:
    shown = site.run("sacct", "-nXP", "-j", ",".join(jobs), "-o", "State").stdout
    return {line.split()[0] for line in shown.splitlines()} if len(shown.splitlines()) == len(list(jobs)) else set()


def _forget(site: SlurmCluster) -> None:
    """As if all that has ended were older than MinJobAge, and the counter of job ids had come round."""
    site.stop_ctld()
    for path in Path(site.directory / "state").iterdir():
        if path.is_file():
            path.unlink()
    site.start_ctld()
