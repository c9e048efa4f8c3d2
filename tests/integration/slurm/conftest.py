"""Owns the fixtures of a real Slurm: one cluster for the test session, clean between tests; a workspace on it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.slurm.cluster import SlurmCluster, missing_programs
from tests.support.launcher import Workspace


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.slurm)


@pytest.fixture(scope="session")
def slurm() -> Iterator[SlurmCluster]:
    """Two nodes of 8 CPUs. Skips where Slurm is not installed, unless FVLAUNCH_REQUIRE_SLURM=1: then that is a failure.

    As on a real site there are some ten seconds to save in: a machine that runs other tests beside may need more than one.
    """
    if missing := missing_programs():
        reason = f"NO SLURM HERE, so nothing of it is tested: {', '.join(missing)} not found (apt-get install slurm-wlm munge)"
        if os.environ.get("FVLAUNCH_REQUIRE_SLURM") == "1":
            pytest.fail(reason, pytrace=False)
        pytest.skip(reason)
    with SlurmCluster(nodes=2, cpus=8, grace_s=20, kill_wait_s=10) as cluster:
        yield cluster


@pytest.fixture(autouse=True)
def _no_job_left_over(request: pytest.FixtureRequest) -> Iterator[None]:
    """A test that leaves a job behind would disturb the next one, so it fails itself; but where a module's tests follow one job."""
    cluster: SlurmCluster | None = request.getfixturevalue("slurm") if "slurm" in request.fixturenames else None
    yield
    if cluster is not None and not getattr(request.module, "ONE_JOB_GOES_ON", False) and (left := cluster.jobs()):
        cluster.cancel_all()
        pytest.fail(f"jobs left over: {left}", pytrace=False)


@pytest.fixture(scope="module")
def workspace(slurm: SlurmCluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workspace]:
    made = Workspace(tmp_path_factory.mktemp("runs"), {**os.environ, **slurm.env})
    made.slurm_cluster()
    yield made
    slurm.cancel_all()
