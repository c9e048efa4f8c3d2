"""Owns the files of a pretended cluster: slurm.conf and what stands beside it, for Slurm 22.05 and 24.11. Starts nothing."""

from __future__ import annotations

import contextlib
import os
import pwd
import re
import shutil
import socket
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "squeue", "scontrol", "scancel")
_SYSTEM_FOLDERS = ("/usr/sbin", "/sbin", "/usr/local/sbin")  # daemons' folders, often not on an ordinary user's PATH


def search_path() -> str:
    return os.pathsep.join([os.environ.get("PATH", os.defpath), *_SYSTEM_FOLDERS])


def missing_programs() -> list[str]:
    """What has to be installed before a cluster can start here; empty where all is well."""
    return [name for name in PROGRAMS if shutil.which(name, path=search_path()) is None]


@dataclass(frozen=True)
class Shape:
    """What the cluster pretends to be."""

    nodes: Sequence[str]
    cpus: int
    memory_mb: int
    gpus: int
    grace_s: int
    kill_wait_s: int
    extra: Sequence[str]


MEMORY_LIMITS = (
    "CgroupPlugin=cgroup/v1\nCgroupMountpoint=/sys/fs/cgroup\nConstrainRAMSpace=yes\nConstrainSwapSpace=yes\nAllowedSwapSpace=0\n"
)
"""cgroup.conf of a site where a job gets no more memory than it asked for."""


def can_limit_memory() -> bool:
    """Return whether this machine lets us make control groups of version 1 for memory."""
    return os.access("/sys/fs/cgroup/memory/memory.limit_in_bytes", os.W_OK)


def remove_control_groups(node: str) -> None:
    """Remove what a slurmd of this name leaves of its jobs' control groups."""
    top = Path("/sys/fs/cgroup/memory") / f"slurm_{node}"
    for folder in sorted((path for path in top.glob("**/") if path.is_dir()), reverse=True):
        with contextlib.suppress(OSError):
            folder.rmdir()


def write_files(here: Path, shape: Shape, controller_port: int, node_ports: Sequence[int]) -> None:
    for name in ("log", "state", "run", *(f"spool/{node}" for node in shape.nodes)):
        (here / name).mkdir(parents=True)
    key = here / "munge.key"
    key.touch(0o600)
    key.write_bytes(os.urandom(128))
    lines = [*_general(here, shape, controller_port), *_nodes(shape, node_ports), *_partitions(shape), *shape.extra]
    (here / "slurm.conf").write_text("\n".join(lines) + "\n")
    devices = f"Name=gpu File=/dev/tty[0-{shape.gpus - 1}]\n" if shape.gpus else ""  # GPUs that are only counted are refused silently
    (here / "gres.conf").write_text("AutoDetect=off\n" + devices)
    if slurm_version() >= (23, 11):
        (here / "cgroup.conf").write_text("CgroupPlugin=disabled\n")


def slurm_version() -> tuple[int, int]:
    text = subprocess.run([str(shutil.which("slurmctld", path=search_path())), "-V"], capture_output=True, text=True, check=True).stdout
    found = re.search(r"(\d+)\.(\d+)", text)
    assert found, text
    return int(found[1]), int(found[2])


def _general(here: Path, shape: Shape, controller_port: int) -> list[str]:
    user = pwd.getpwuid(os.geteuid()).pw_name
    text = f"""
        ClusterName=test
        SlurmctldHost={socket.gethostname().split(".")[0]}(127.0.0.1)
        SlurmctldPort={controller_port}
        SlurmUser={user}
        SlurmdUser={user}
        AuthType=auth/munge
        CredType=cred/munge
        AuthInfo=socket={here}/munge.sock,cred_expire=30
        CommunicationParameters=NoInAddrAny,NoCtldInAddrAny
        StateSaveLocation={here}/state
        SlurmdSpoolDir={here}/spool/%n
        SlurmctldPidFile={here}/run/slurmctld.pid
        SlurmdPidFile={here}/run/slurmd-%n.pid
        SlurmctldLogFile={here}/log/slurmctld.log
        SlurmdLogFile={here}/log/slurmd-%n.log
        SlurmctldDebug=verbose
        SlurmdDebug=verbose
        ProctrackType=proctrack/linuxproc
        TaskPlugin=task/none
        SwitchType=switch/none
        MpiDefault=none
        JobAcctGatherType=jobacct_gather/none
        JobCompType=jobcomp/filetxt
        JobCompLoc={here}/jobcomp.log
        SelectType=select/cons_tres
        SelectTypeParameters=CR_Core_Memory
        DefMemPerCPU=100
        SlurmdParameters=config_overrides
        SchedulerType=sched/backfill
        SchedulerParameters=batch_sched_delay=0,sched_interval=1,sched_min_interval=0,bf_interval=1,bf_resolution=1
        PriorityType=priority/basic
        PreemptType=preempt/partition_prio
        PreemptMode=REQUEUE
        ReturnToService=2
        KillWait={shape.kill_wait_s}
        SlurmdTimeout=30
        SlurmctldTimeout=8
        MessageTimeout=7
        UnkillableStepTimeout=25
        InactiveLimit=0
        WaitTime=0
        MinJobAge=300
    """
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return [*lines, "GresTypes=gpu"] if shape.gpus else lines


def _nodes(shape: Shape, ports: Sequence[int]) -> list[str]:
    """A name that is an address makes `scontrol show hostnames` usable as MASTER_ADDR."""
    gres = f" Gres=gpu:{shape.gpus}" if shape.gpus else ""
    what = f"CPUs={shape.cpus} RealMemory={shape.memory_mb}{gres}"
    return [f"NodeName={node} NodeAddr=127.0.0.1 Port={port} {what}" for node, port in zip(shape.nodes, ports, strict=True)]


def _partitions(shape: Shape) -> list[str]:
    common = f"Nodes={','.join(shape.nodes)} MaxTime=INFINITE State=UP OverSubscribe=NO"
    return [
        f"PartitionName=low Default=YES PriorityTier=1 PreemptMode=REQUEUE GraceTime={shape.grace_s} {common}",
        f"PartitionName=high PriorityTier=10 PreemptMode=OFF {common}",
    ]
