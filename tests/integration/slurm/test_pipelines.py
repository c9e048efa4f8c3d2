"""A pipeline on a real Slurm: a chain of jobs that breaks, is mended, lives through a requeue, and ends with all stages finished.

The tests are in the order in which the pipeline lives.
"""

from __future__ import annotations

import pytest

from tests.integration.slurm.cluster import SlurmCluster
from tests.support.launcher import Workspace, metrics
from tests.support.pipelines import Chain

ONE_JOB_GOES_ON = True
NAME = "chain"


@pytest.fixture(scope="module")
def chain(workspace: Workspace) -> Chain:
    return Chain(workspace, pace_s=0.3, steps=16)


def jobs(chain: Chain, name: str = NAME) -> tuple[str, str]:
    return chain.record(name, "first")["job_id"], chain.record(name, "second")["job_id"]


def test_a_failed_stage_never_starts_the_next_whose_job_the_scheduler_ends(chain: Chain, slurm: SlurmCluster) -> None:
    chain.gate.touch()
    done = chain.workspace.call("submit", "chain", "--cluster", "real", "--name", NAME, "--wait", check=False)
    assert done.returncode == 1 and "the gate is shut" in done.stderr, done.stderr
    first, second = jobs(chain)
    assert slurm.wait_state(second, {"CANCELLED"}) == "CANCELLED"
    assert chain.states(NAME) == ("failed", "failed", "cancelled")
    assert chain.workspace.status(NAME)["stages"][1]["reason"] == "never started: chain/first is failed"
    assert chain.workspace.status(f"{NAME}/second")["attempts"] == 0
    assert slurm.jobs() == [] and first != second


def test_resume_makes_a_new_chain_from_the_stage_that_broke(chain: Chain, slurm: SlurmCluster) -> None:
    before = jobs(chain)
    chain.gate.unlink()
    chain.workspace.call("resume", NAME)
    first, second = jobs(chain)
    assert not {first, second} & set(before)
    assert slurm.facts(second)["Dependency"].startswith(f"afterok:{first}")
    assert slurm.facts(second)["JobName"] == "chain.second"
    chain.workspace.reaches(f"{NAME}/first", 3)
    assert chain.states(NAME) == ("running", "running", "queued")
    refused = chain.workspace.call("resume", NAME, check=False)
    assert refused.returncode == 1 and "chain is not over" in refused.stderr


def test_a_requeued_stage_keeps_its_job_and_the_chain(chain: Chain, slurm: SlurmCluster) -> None:
    first, second = jobs(chain)
    slurm.requeue_now(first)
    chain.workspace.reaches(f"{NAME}/first", 5, attempt=3)  # the first ended at the gate
    assert jobs(chain) == (first, second)
    assert slurm.state(second) == "PENDING" and slurm.restarts(first) == 1
    assert slurm.facts(second)["Dependency"].startswith(f"afterok:{first}")


def test_each_stage_ends_as_if_nothing_had_happened(chain: Chain, slurm: SlurmCluster) -> None:
    assert chain.workspace.call("wait", NAME).returncode == 0
    assert chain.states(NAME) == ("finished", "finished", "finished")
    assert [line["step"] for line in metrics(chain.path(NAME, "first"))] == list(range(1, 17))
    assert chain.started_from(NAME)["step"] == 16
    slurm.wait_state(jobs(chain)[1], {"COMPLETED"})
    assert slurm.jobs() == []


def test_where_one_stage_is_refused_nothing_is_left_behind(chain: Chain, slurm: SlurmCluster) -> None:
    words = (
        "submit",
        "chain",
        "--cluster",
        "real",
        "--name",
        "refused",
        "--begin",
        "now+1hour",
        "--set",
        "second.cluster.slurm.partition=nowhere",
    )
    done = chain.workspace.call(*words, check=False)
    assert done.returncode == 1 and "sbatch refused the job" in done.stderr, done.stderr
    assert not (chain.workspace.runs / "refused").exists()
    assert slurm.jobs() == []


def test_cancel_takes_the_jobs_that_wait_too(chain: Chain, slurm: SlurmCluster) -> None:
    chain.workspace.call("submit", "chain", "--cluster", "real", "--name", "unwanted", "--begin", "now+1hour")
    assert "Dependency" in slurm.reason(jobs(chain, "unwanted")[1])
    chain.workspace.call("cancel", "unwanted")
    assert chain.states("unwanted") == ("cancelled", "cancelled", "cancelled")
    assert slurm.jobs() == []
