"""What Slurm says of a job that waits: in words with the command that helps, and whether it starts by itself."""

from __future__ import annotations

import pytest

from fvlaunch.schedulers.base import Blocked
from fvlaunch.schedulers.slurm.states import explain
from fvlaunch.schedulers.slurm.waiting_reasons import blocked

HELD = (
    "JobHeldUser", "JobHeldAdmin", "JobHoldMaxRequeue", "launch failed requeued held", "launch_failed_requeued_held",
    "job requeued in held state", "job_requeued_in_held_state", "user env retrieval failed requeued held", "Prolog failed, held",
    "job requeued in special exit state", "(JobHeldUser)",
)  # fmt: skip
NEVER = (
    "BadConstraints", "Constraints", "InvalidAccount", "InvalidQOS", "AccountNotAllowed", "QOSNotAllowed", "PartitionTimeLimit",
    "MaxMemPerLimit", "ReservationDeleted", "QOSMaxCpuPerJobLimit", "AssocMaxWallDurationPerJobLimit", "QOSMaxGRESPerNode", "QOSMinGRES",
)  # fmt: skip
WAITS = (
    "Priority", "Resources", "Dependency", "BeginTime", "ReqNodeNotAvail, UnavailableNodes:n[1-3]", "PartitionDown", "PartitionInactive",
    "PartitionNodeLimit", "QOSMaxJobsPerUserLimit", "AssocGrpGRES", "MaxGRESPerAccount", "Licenses", "None", "", "Cleaning",
    "Nodes required for job are DOWN, DRAINED or reserved for jobs in higher priority partitions", "Something new",
)  # fmt: skip


@pytest.mark.parametrize("reason", HELD)
def test_a_held_job_is_told_with_the_command_that_releases_it(reason: str) -> None:
    assert blocked(reason) is Blocked.HELD
    told = explain("PENDING", reason, "", "12", 0)
    assert told.startswith("job 12 ") and "held" in told.lower().replace("holds", "held") and "`scontrol release 12`" in told


@pytest.mark.parametrize("reason", ["burst buffer stage_in error", "von Hand: (angehalten)", "Priority", "Resources", "PartitionDown", ""])
def test_priority_0_is_a_hold_whatever_the_reason_says(reason: str) -> None:
    assert blocked(reason, priority=0) is Blocked.HELD
    told = explain("PENDING", reason, "", "12", 0)
    assert "is held" in told and reason in told and "`scontrol release 12`" in told


@pytest.mark.parametrize("state", ["REQUEUE_HOLD", "SPECIAL_EXIT"])
def test_a_job_requeued_into_a_hold_waits_for_its_release(state: str) -> None:
    assert blocked("None", state) is Blocked.HELD
    assert "`scontrol release 12`" in explain(state, "None", "", "12")


@pytest.mark.parametrize("reason", NEVER)
def test_what_cannot_start_as_it_is_is_told_apart_from_what_waits(reason: str) -> None:
    assert blocked(reason, partition="low") is Blocked.NEVER
    assert "sacctmgr" in (told := explain("PENDING", reason, "", "12")) or "scontrol" in told
    assert "`scontrol release 12`" in explain("PENDING", "BadConstraints", "", "12", 0)
    assert blocked(reason, partition="low,high") is None  # the other one may take it


def test_a_dependency_that_failed_is_never_satisfied_in_any_partition() -> None:
    assert blocked("DependencyNeverSatisfied", partition="low,high") is Blocked.NEVER
    assert "`scancel 12`" in explain("PENDING", "DependencyNeverSatisfied", "", "12")


@pytest.mark.parametrize("reason", WAITS)
def test_what_only_waits_is_not_blocked(reason: str) -> None:
    assert blocked(reason, priority=4294901745) is None
    told = explain("PENDING", reason, "", "12", 4294901745)
    assert "release" not in told and "12 " in told


@pytest.mark.parametrize("reason", ["Dependency", "BeginTime"])
def test_a_job_without_a_priority_yet_is_not_taken_for_held(reason: str) -> None:
    assert blocked(reason, priority=0) is None and "waits for" in explain("PENDING", reason, "", "12", 0)
