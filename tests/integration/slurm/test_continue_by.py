"""Sites where a requeue cannot work: one that cancels what it preempts, and nodes whose containers lack Slurm's programs."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator

import pytest

from tests.integration.slurm.cluster import SlurmCluster, missing_programs
from tests.integration.slurm.runs import causes
from tests.support.launcher import Workspace, metrics
from tests.support.rows import fault

CUT = "PartitionName=cut Nodes=127.0.0.11 PriorityTier=1 PreemptMode=CANCEL GraceTime=20 MaxTime=INFINITE State=UP"
SHORT = ("--ranks", "1", "--set", "train.max_steps=20")


@pytest.fixture(scope="module")
def site() -> Iterator[SlurmCluster]:
    if missing := missing_programs():
        if os.environ.get("FVLAUNCH_REQUIRE_SLURM") == "1":
            pytest.fail(f"not found: {missing}", pytrace=False)
        pytest.skip(f"NO SLURM HERE: {missing} not found")
    with SlurmCluster(nodes=1, cpus=4, grace_s=20, kill_wait_s=20, extra=[CUT]) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def runs(site: SlurmCluster, tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    made = Workspace(tmp_path_factory.mktemp("sites"), {**os.environ, **site.env})
    options = {"cpus-per-task": 1, "mem": "1000", "time": "00:10:00"}
    made.slurm_cluster("cut", continue_by="resubmit", slurm={**options, "partition": "cut"})
    bare = made.write("bare.sh", f'#!/bin/bash\nexport PATH=/nonexistent\nexec {sys.executable} "$@"\n')
    bare.chmod(0o755)
    made.slurm_cluster("bare", python=str(bare), slurm={**options, "partition": "low"})
    return made


def whole(runs: Workspace, name: str) -> None:
    """It finishes, and each step stands once."""
    runs.gate(name).open()
    assert runs.finish(name)["state"] == "finished", runs.told()
    assert [line["step"] for line in metrics(runs.runs / name)] == list(range(1, 21))


@fault("4", "a preemption that cancels (continue_by: resubmit)")
@pytest.mark.long
def test_where_preemption_cancels_a_new_job_goes_on_with_the_same_run(site: SlurmCluster, runs: Workspace) -> None:
    runs.submit("cut", *SHORT, "--begin", "now", recipe="gated", cluster="cut")
    runs.gate("cut").reach(5)
    first = runs.status("cut")["job_id"]
    site.preempt(first)
    runs.gate("cut").waits(attempt=2)
    status = runs.status("cut")
    assert status["state"] == "running" and status["job_ids"] == [first, status["job_id"]] and status["job_id"] != first
    one, two = runs.attempts("cut")
    assert (one["cause"], one["next"], two["step_from"]) == ("preemption", "requeue", one["step_to"])
    refused = runs.call("resume", "cut", check=False)
    assert refused.returncode == 1 and status["job_id"] in refused.stderr
    whole(runs, "cut")


@fault("27", "scancel where each life is a new job")
@pytest.mark.long
def test_a_scancelled_run_is_not_submitted_again(site: SlurmCluster, runs: Workspace) -> None:
    runs.submit("ended", *SHORT, recipe="gated", cluster="cut")
    runs.gate("ended").reach(5)
    site.run("scancel", runs.status("ended")["job_id"])
    assert runs.finish("ended")["state"] == "cancelled"
    runs.until(lambda: site.jobs() == [], "no job is left")


@fault("26", "no program of Slurm on the node, and a preemption")
@pytest.mark.long
def test_without_scontrol_on_the_node_the_batch_script_requeues(site: SlurmCluster, runs: Workspace) -> None:
    runs.submit("bare", *SHORT, recipe="gated", cluster="bare")
    runs.gate("bare").reach(5)
    job = runs.status("bare")["job_id"]
    site.preempt(job)
    runs.gate("bare").waits(attempt=2)
    one, two = runs.attempts("bare")
    assert two["step_from"] == one["step_to"]
    whole(runs, "bare")
    assert causes(runs, "bare")[-1] == "finished" and runs.status("bare")["job_ids"] == [job]
