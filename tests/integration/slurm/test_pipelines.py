"""Pipelines on a real Slurm: chains of jobs that break, are mended, live through a requeue, and end with all stages finished.

Each test has a pipeline of its own, whose first stage waits at its gate until the test has done what it does.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.integration.slurm.cluster import SlurmCluster
from tests.support.launcher import Workspace, metrics
from tests.support.pipelines import Chain

STEPS = 12
"""Of the first stage."""


@pytest.fixture(scope="module")
def made(workspace: Workspace) -> Chain:
    return Chain(workspace, steps=STEPS)


@pytest.fixture
def chain(made: Chain) -> Iterator[Chain]:
    yield made
    made.refuse.unlink(missing_ok=True)


def jobs(chain: Chain, name: str) -> tuple[str, str]:
    return chain.record(name, "first")["job_id"], chain.record(name, "second")["job_id"]


def ends(chain: Chain, slurm: SlurmCluster, name: str) -> None:
    """Let it: each stage ends as if nothing had happened."""
    chain.first(name).open()
    assert chain.workspace.call("wait", name).returncode == 0
    assert chain.states(name) == ("finished", "finished", "finished")
    assert [line["step"] for line in metrics(chain.path(name, "first"))] == list(range(1, STEPS + 1))
    assert chain.started_from(name)["step"] == STEPS
    slurm.wait_state(jobs(chain, name)[1], {"COMPLETED"})
    assert slurm.jobs() == []


def test_a_failed_stage_never_starts_the_next_and_resume_makes_a_new_chain_from_it(chain: Chain, slurm: SlurmCluster) -> None:
    chain.refuse.touch()
    done = chain.workspace.call("submit", "chain", "--cluster", "real", "--name", "broken", "--wait", check=False)
    assert done.returncode == 1 and "the gate is shut" in done.stderr, done.stderr
    before = jobs(chain, "broken")
    assert slurm.wait_state(before[1], {"CANCELLED"}) == "CANCELLED"
    assert chain.states("broken") == ("failed", "failed", "cancelled")
    assert chain.workspace.status("broken")["stages"][1]["reason"] == "never started: broken/first is failed"
    assert chain.workspace.status("broken/second")["attempts"] == 0
    assert slurm.jobs() == [] and before[0] != before[1]
    chain.refuse.unlink()
    chain.workspace.call("resume", "broken")
    first, second = jobs(chain, "broken")
    assert not {first, second} & set(before)
    assert slurm.facts(second)["Dependency"].startswith(f"afterok:{first}")
    assert slurm.facts(second)["JobName"] == "broken.second"
    chain.first("broken").reach(3, attempt=2)
    assert chain.states("broken") == ("running", "running", "queued")
    refused = chain.workspace.call("resume", "broken", check=False)
    assert refused.returncode == 1 and "broken is not over" in refused.stderr
    ends(chain, slurm, "broken")


def test_a_requeued_stage_keeps_its_job_and_the_chain(chain: Chain, slurm: SlurmCluster) -> None:
    chain.workspace.call("submit", "chain", "--cluster", "real", "--name", "requeued")
    chain.first("requeued").reach(3)
    first, second = jobs(chain, "requeued")
    slurm.requeue_now(first)
    chain.first("requeued").reach(5, attempt=2)
    assert jobs(chain, "requeued") == (first, second)
    assert slurm.state(second) == "PENDING" and slurm.restarts(first) == 1
    assert slurm.facts(second)["Dependency"].startswith(f"afterok:{first}")
    ends(chain, slurm, "requeued")


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
