"""Owns judging a site for `doctor`: facts to findings, each with a verdict and a cure. Pure: it asks nobody."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from ..config.schema import Cluster
from ..config.values import seconds

NOTICE_S = 120.0
"""What a save is taken to need where none was measured."""


class Verdict(str, Enum):
    OK = "OK"
    WARN = "WARN"
    FAIL = "FAIL"

    def __str__(self) -> str:
        return self.value


@dataclass(frozen=True)
class Finding:
    check: str
    verdict: Verdict
    found: str
    cure: str = ""


@dataclass(frozen=True)
class Site:
    """The answers of one Slurm cluster."""

    cluster: Cluster
    config: Mapping[str, str] = field(default_factory=dict)
    """`scontrol show config`."""
    partitions: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    save_s: float | None = None
    """The longest save measured in this account's runs there."""
    accounts_problem: str = ""
    """Why the accounts give no answer, where Slurm is configured to keep any; empty: they do."""


def check_site(site: Site) -> list[Finding]:
    """Judge what Slurm's own configuration says, in the order in which a run meets it."""
    return [*_partition(site), *_preemption(site), *_requeue(site), *_goes_on(site), *_ends(site), *_records(site)]


def _partition(site: Site) -> Iterator[Finding]:
    partitions, limit = site.cluster.slurm.get("partition"), site.cluster.slurm.get("time")
    for name in str(partitions).split(",") if partitions else [_default(site)]:
        facts = site.partitions.get(name)
        if facts is None:
            known = ", ".join(site.partitions) or "none"
            yield Finding("partition", Verdict.FAIL, f"there is no partition {name!r}", f"cluster.slurm.partition; there are: {known}")
            continue
        state = facts.get("State", "UP")
        if state != "UP":
            yield Finding("partition", Verdict.WARN, f"{name} is {state}", "jobs wait there until it is up; choose another partition")
        limit_s, most = _seconds(limit), _seconds(facts.get("MaxTime"))
        if most is not None and limit is not None and (limit_s is None or limit_s > most):
            yield Finding("time limit", Verdict.FAIL, f"{limit} is more than {name}'s {facts['MaxTime']}", "lower cluster.slurm.time")
        elif limit is None and facts.get("DefaultTime") in ("NONE", None) and most is None:
            yield Finding(
                "time limit", Verdict.WARN, f"none is asked, and {name} sets none", "set cluster.slurm.time: schedulers like to know"
            )
        else:
            yield Finding("partition", Verdict.OK, f"{name}: at most {facts.get('MaxTime', 'UNLIMITED')}")


def _default(site: Site) -> str:
    return next((name for name, facts in site.partitions.items() if facts.get("Default") == "YES"), "(default)")


def _preemption(site: Site) -> Iterator[Finding]:
    for name, mode, grace in preempting(site):
        if mode == "OFF":
            yield Finding("preemption", Verdict.OK, f"{name}: jobs are not preempted")
            continue
        if mode == "CANCEL":
            cure = "continue_by: resubmit in the profile, so that a preempted run is submitted again; or ask for PreemptMode=REQUEUE"
            well = site.cluster.continue_by == "resubmit"
            what = f"{name}: PreemptMode=CANCEL ends a preempted job for good"
            yield (
                Finding("preemption", Verdict.OK, f"{what}; it is submitted again")
                if well
                else Finding("preemption", Verdict.WARN, what, cure)
            )
        elif mode != "REQUEUE":
            yield Finding(
                "preemption", Verdict.WARN, f"{name}: PreemptMode={mode}", "a suspended run keeps its nodes' memory and may look hung"
            )
        need = site.save_s or NOTICE_S
        source = "measured" if site.save_s else "assumed; none measured yet"
        if grace < need:
            cure = "ask for a longer GraceTime; until then train.checkpoint.every_minutes bounds what is lost"
            yield Finding("grace time", Verdict.WARN, f"{name}: GraceTime {grace:g} s, and a save takes {need:.0f} s ({source})", cure)
        else:
            yield Finding("grace time", Verdict.OK, f"{name}: {grace:g} s for a save of {need:.0f} s ({source})")


def preempting(site: Site) -> Iterator[tuple[str, str, float]]:
    """Return (partition, PreemptMode, GraceTime in seconds) of the partitions that the profile uses."""
    whole = site.config.get("PreemptMode", "OFF").split(",")[-1]
    if site.config.get("PreemptType", "preempt/none") == "preempt/none":
        whole = "OFF"
    for name in str(site.cluster.slurm.get("partition") or _default(site)).split(","):
        facts = site.partitions.get(name, {})
        mode = "OFF" if whole == "OFF" else facts.get("PreemptMode", whole).split(",")[-1]
        yield name, mode, _number(facts.get("GraceTime", "0"))


def _requeue(site: Site) -> Iterator[Finding]:
    if site.cluster.continue_by == "resubmit":
        yield Finding("requeue", Verdict.OK, "not needed: a run goes on as a new job (continue_by: resubmit)")
    elif site.config.get("JobRequeue") == "0":
        cure = "fvlaunch asks with --requeue; fvlaunch rehearse shows whether it is heard, and continue_by: resubmit does without"
        yield Finding("requeue", Verdict.WARN, "JobRequeue=0: jobs are not requeued unless they ask", cure)
    else:
        yield Finding("requeue", Verdict.OK, "jobs may be requeued")
    most = re.search(r"max_batch_requeue=(\d+)", site.config.get("SchedulerParameters", ""))
    count = int(most[1]) if most else 5
    if count < 5:
        cure = "a run that was requeued more often is held: scontrol release JOB (fvlaunch status tells)"
        yield Finding("requeue count", Verdict.WARN, f"max_batch_requeue={count}", cure)
    parameters = f"{site.config.get('PreemptParameters', '')},{site.config.get('SlurmctldParameters', '')}"
    if any(mode != "OFF" for _, mode, _ in preempting(site)) and "send_user_signal" not in parameters:
        what = "not sent before a preemption (no send_user_signal): the notice is the SIGTERM at the start of the grace time"
        yield Finding(
            "user signal", Verdict.OK if _graceful(site) else Verdict.WARN, what, "" if _graceful(site) else "ask for a GraceTime"
        )


def _goes_on(site: Site) -> Iterator[Finding]:
    """Judge which continue_by the site needs."""
    cancels = [name for name, mode, _ in preempting(site) if mode == "CANCEL"]
    why = f"PreemptMode=CANCEL in {', '.join(cancels)}" if cancels else "JobRequeue=0" if site.config.get("JobRequeue") == "0" else ""
    chosen = site.cluster.continue_by
    if why and chosen == "requeue":
        yield Finding(
            "continue_by", Verdict.WARN, f"requeue; resubmit is needed where requeueing cannot work ({why})", "continue_by: resubmit"
        )
    else:
        yield Finding("continue_by", Verdict.OK, f"{chosen}{'' if why or chosen == 'requeue' else '; requeue would do here too'}")


def _graceful(site: Site) -> bool:
    return all(grace > 0 for _, mode, grace in preempting(site) if mode != "OFF")


def _ends(site: Site) -> Iterator[Finding]:
    wait = _number(site.config.get("KillWait", "30"))
    if site.save_s is not None and wait < site.save_s:
        what = f"{wait:g} s from the time limit's SIGTERM to SIGKILL, and a save took {site.save_s:.0f} s"
        if site.cluster.limits.notice_lead_s is None or site.cluster.limits.notice_lead_s > site.save_s:
            yield Finding("KillWait", Verdict.OK, f"{what}: the agent's own notice comes that much earlier")
        else:
            yield Finding("KillWait", Verdict.WARN, what, "leave limits.notice_lead_s out: it then follows from the measured saves")
    else:
        yield Finding("KillWait", Verdict.OK, f"{wait:g} s")


def _records(site: Site) -> Iterator[Finding]:
    kept, age = site.config.get("AccountingStorageType", ""), _number(site.config.get("MinJobAge", "300"))
    if kept.endswith("/none") or not kept:
        cure = "status then knows an ended job by fvlaunch's own records; nothing has to be done"
        yield Finding("accounting", Verdict.WARN, f"none; Slurm forgets an ended job after {age:g} s", cure)
    elif site.accounts_problem:
        cure = "ask the administrators (slurmdbd); until then status knows an ended job only by fvlaunch's own records"
        yield Finding("accounting", Verdict.WARN, f"{kept}, which gives no answer: {site.accounts_problem}", cure)
    else:
        yield Finding("accounting", Verdict.OK, kept)
    if age < 60:
        yield Finding("MinJobAge", Verdict.WARN, f"{age:g} s", "a lost reply of sbatch can be cleared up only that long; ask for 300")


# --- the machine itself, and a node


_NETWORKS = {
    "NCCL_SOCKET_IFNAME": "by it GPUs of different nodes find each other",
    "GLOO_SOCKET_IFNAME": "by it ranks agree after each step and save; without it the one that the host's own name leads to is taken",
}
"""Variables that name the network interface, and for what."""


def check_environment(variables: Mapping[str, str], nodes: int) -> Iterator[Finding]:
    """Judge variables of NCCL and torch that cost speed or hide errors."""
    slow = [name for name in ("NCCL_P2P_DISABLE", "NCCL_IB_DISABLE", "NCCL_SHM_DISABLE") if variables.get(name) == "1"]
    if slow:
        yield Finding(
            "NCCL", Verdict.WARN, f"{', '.join(slow)}=1", "collectives are many times slower; remove it unless the fabric is broken"
        )
    if variables.get("NCCL_DEBUG", "").upper() in ("INFO", "TRACE"):
        yield Finding("NCCL", Verdict.WARN, f"NCCL_DEBUG={variables['NCCL_DEBUG']}", "logs grow without end; WARN is enough")
    for name in ("NCCL_ASYNC_ERROR_HANDLING", "TORCH_NCCL_ASYNC_ERROR_HANDLING"):
        if variables.get(name) == "0":
            yield Finding("NCCL", Verdict.WARN, f"{name}=0", "a dead rank leaves the others waiting; remove it")
    for name, what in _NETWORKS.items():
        if nodes > 1 and not variables.get(name):
            cure = f"set it in the profile's env where nodes have several networks: {what}"
            yield Finding(name.partition("_")[0], Verdict.WARN, f"{name} is not set", cure)


def check_gpus(cluster: Cluster) -> Iterator[Finding]:
    """Judge a profile whose jobs ask for no GPU and that does not say that this is meant."""
    if cluster.leaves_device_open(cluster.slurm):
        cure = "gpus-per-node: N; device: gpu where GPUs come with the partition; device: cpu where the CPU is meant"
        yield Finding("GPUs", Verdict.WARN, "the profile asks for none: runs compute on the CPU of a node that shows none", cure)


def check_node(answer: Mapping[str, Any], here: Mapping[str, Any], wants_gpu: bool, *, resubmits: bool = False) -> Iterator[Finding]:
    """Judge what the job on a node saw against this machine."""
    if answer.get("error"):
        cure = "the profile's python, setup or container; fvlaunch has to be installed there too"
        yield Finding("python on a node", Verdict.FAIL, _last_line(str(answer["error"])), cure)
        return
    python, torch = answer.get("python", "?"), answer.get("torch")
    other = f"; here {here['torch']}" if here.get("torch") and here["torch"] != torch else ""
    yield Finding(
        "python on a node", Verdict.WARN if other else Verdict.OK, f"{answer.get('host')}: python {python}, torch {torch}{other}",
        "two versions of torch give two curves; use one environment" if other else "",
    )  # fmt: skip
    if wants_gpu and not answer.get("gpus"):
        yield Finding("GPUs on a node", Verdict.FAIL, "torch sees none there", "a torch built for CUDA, and gpus-per-node in the profile")
    elif wants_gpu:
        yield Finding("GPUs on a node", Verdict.OK, f"{answer['gpus']} x {answer.get('gpu', '?')}")
    if not answer.get("scontrol") and not resubmits:
        cure = "requeueing is asked for inside of the job: bind Slurm's programs into the container, or continue_by: resubmit"
        yield Finding("scontrol on a node", Verdict.WARN, "not found there", cure)


def _last_line(text: str) -> str:
    """Return the last line that a program itself wrote, without what Slurm adds."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    own = [line for line in lines if not line.startswith(("srun: error", "srun: Job step", "slurmstepd: error: *** STEP"))]
    return (own or lines or ["nothing"])[-1]


def worst(findings: Sequence[Finding]) -> Verdict:
    order = list(Verdict)
    return max((f.verdict for f in findings), key=order.index, default=Verdict.OK)


def _number(text: str) -> float:
    """Return the leading number of "300 sec"; Slurm's UNLIMITED and the like are 0."""
    number = re.match(r"\d+", text.strip())
    return float(number[0]) if number else 0.0


def _seconds(text: Any) -> int | None:
    """Return a time limit in seconds; None where there is none."""
    if text in (None, "", "NONE", "UNLIMITED"):
        return None
    try:
        return seconds(str(text))
    except ValueError:
        return None
