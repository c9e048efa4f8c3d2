"""Owns what Slurm's reasons for a job that waits mean: in words, and whether it starts by itself, once released, or never. Pure.

The reasons are those of Slurm's own table (job_state_reason.c, releases 20.11 to 25.05) and the sentences that slurmctld puts in their
place: squeue writes them with spaces, scontrol with underscores. A reason that is not known here is not a mistake: a held job has priority
0, whatever is said of it.
"""

from __future__ import annotations

import re

from ..base import Blocked

HELD_STATES = ("REQUEUE_HOLD", "SPECIAL_EXIT")
"""States of a job that was requeued and waits for its release."""
_RELEASE = "`scontrol release {job}`"
_HELD = {
    "JobHeldUser": f"is held by its owner; {_RELEASE}",
    "JobHeldAdmin": f"is held by an administrator or by Slurm; ask them to release it, or try {_RELEASE}",
    "JobHoldMaxRequeue": f"was requeued too often (MaxBatchRequeue), so Slurm holds it; {_RELEASE}",
    "launch_failed_requeued_held": f"could not be launched on its node and is held; `sinfo -R` says why; {_RELEASE}",
    "user_env_retrieval_failed_requeued_held": f"did not get its user's environment on the node (export) and is held; {_RELEASE}",
    "job_requeued_in_held_state": f"was requeued and is held; {_RELEASE}",
    "job_requeued_in_special_exit_state": f"was requeued and is held, marked for attention; {_RELEASE}",
}
_NEVER = {
    "DependencyNeverSatisfied": "waits for ever: the job it depends on failed; `scancel {job}`",
    "BadConstraints": "asks for what no node has; `scontrol show job {job}` shows it",
    "Constraints": "asks for features that no node has; `scontrol show job {job}` shows them",
    "InvalidAccount": "has an account that is not valid here; `sacctmgr show associations user=$USER` lists yours",
    "InvalidQOS": "has a QOS that is not valid here; `sacctmgr show associations user=$USER` lists yours",
    "AccountNotAllowed": "has an account that its partition does not take; `scontrol show partition` lists those that it takes",
    "QOSNotAllowed": "has a QOS that its partition or account does not take; `scontrol show partition` lists those that it takes",
    "PartitionTimeLimit": (
        "asks for more time than its partition allows; `scontrol update jobid={job} TimeLimit=...` shortens it, "
        "`scontrol show partition` shows the limit"
    ),
    "MaxMemPerLimit": "asks for more memory than its partition allows (MaxMemPerNode, MaxMemPerCPU); `scontrol show partition`",
    "ReservationDeleted": "waits for a reservation that is gone; `scontrol update jobid={job} ReservationName=` does without",
    "ReservationInvalid": "waits for a reservation that it may not use; `scontrol update jobid={job} ReservationName=` does without",
}
_WAITS = {
    "BeginTime": "waits for its begin time; after a requeue that is about two minutes on a usual site",
    "Resources": "is next in line and waits for nodes to become free",
    "Priority": "waits behind jobs of higher priority; `sprio -j {job}` shows the parts, `squeue --start -j {job}` a guessed start",
    "Dependency": "waits for the job it depends on to end",
    "Prolog": "waits for the controller's prolog to end",
    "Cleaning": "waits until what is left of its last life is cleaned up",
    "ReqNodeNotAvail": "waits for a node that is down, drained or reserved; `sinfo -R` says why, `scontrol show job {job}` which",
    "NodeDown": "waits for a node that is down; `sinfo -R` says why",
    "FrontEndDown": "waits for a front end that is down; `sinfo -R` says why",
    "Reservation": "waits for its reservation to begin",
    "PartitionDown": "waits: its partition is down; `sinfo` shows it",
    "PartitionInactive": "waits: its partition takes no jobs at present; `sinfo` shows it",
    "PartitionConfig": "waits: its partition is not as the job asks, or was changed; `scontrol show partition` shows it",
    "PartitionNodeLimit": (
        "asks for more nodes than its partition allows, or has up; `scontrol show partition` shows the limit, `sinfo` what is up"
    ),
    "Licenses": "waits for a licence",
    "JobLaunchFailure": "could not be launched, and is tried again",
    "SystemFailure": "waits after a failure of Slurm's; ask the administrators",
    "FedJobLock": "waits for the other clusters of its federation",
    "BurstBufferResources": "waits for room in the burst buffer",
    "BurstBufferStageIn": "waits until its files are in the burst buffer",
    "PowerNotAvail": "waits for electrical power",
    "PowerReserved": "waits for electrical power",
}
_WITHOUT_PRIORITY = ("Dependency", "BeginTime")
"""Reasons of jobs that may have priority 0, by the site's plugin, without being held."""
_OWN_SIZE = re.compile(r"(QOS|Assoc)Max\w*Per(Job|Node)(Limit)?|QOSMin\w+")
"""Limits that the job alone exceeds: it would not start in an empty queue."""
_LIMIT = re.compile(r"(QOS|Assoc|Max|AccountingPolicy)\w*")


def words(reason: str, state: str = "PENDING", priority: int | None = None) -> str:
    """Return what a waiting job waits for, with the command that helps; `{job}` stands for its id."""
    key = _key(reason)
    known = _HELD.get(key) or _NEVER.get(key) or (_WAITS.get(key) if priority != 0 or key in _WITHOUT_PRIORITY else None)
    if key in _NEVER and key != "DependencyNeverSatisfied" and priority == 0:
        return f"{known}; Slurm holds it until then: {_RELEASE}"
    if known:
        return known
    if state in HELD_STATES:
        return "was requeued and is held" + (", marked for attention" if state == "SPECIAL_EXIT" else "") + f"; {_RELEASE}"
    if blocked(reason, state, priority) is Blocked.HELD:
        return f"is held{f' ({_safe(reason)})' if key else ''}; {_RELEASE}"
    if "DOWN" in reason or "DRAINED" in reason:
        return "waits for nodes that are down, drained or reserved; `sinfo -R` says why"
    limits = "`sacctmgr show associations user=$USER` and `sacctmgr show qos` show it"
    if _OWN_SIZE.fullmatch(key):
        return f"asks for more, or less, than your account or QOS allows one job ({key}); {limits}"
    if _LIMIT.fullmatch(key):
        return f"waits: a limit of your account or QOS is reached ({key}); {limits}"
    return f"waits ({_safe(reason)})" if key else "waits to be looked at by the scheduler"


def blocked(reason: str, state: str = "PENDING", priority: int | None = None, partition: str = "") -> Blocked | None:
    """Return what keeps a waiting job from starting by itself; None where nothing does.

    Of several partitions (`a,b`) the reason is that of one, and another may take the job.
    """
    key = _key(reason)
    if (key in _NEVER or _OWN_SIZE.fullmatch(key)) and ("," not in partition or key == "DependencyNeverSatisfied"):
        return Blocked.NEVER
    if state in HELD_STATES or key in _HELD or re.search(r"(^|[\W_])held($|[\W_])", reason, re.IGNORECASE):
        return Blocked.HELD
    return Blocked.HELD if priority == 0 and key not in _WITHOUT_PRIORITY else None


def _key(reason: str) -> str:
    """ "ReqNodeNotAvail, UnavailableNodes:n7" -> ReqNodeNotAvail; "launch failed requeued held" -> launch_failed_requeued_held"""
    key = re.split(r"[,(]", reason.strip().lstrip("("))[0].strip().rstrip(")").replace(" ", "_")
    return "" if key in ("None", "N/A") else key


def _safe(reason: str) -> str:
    """Return a reason for a text that is a format: without braces."""
    return reason.replace("{", "(").replace("}", ")")
