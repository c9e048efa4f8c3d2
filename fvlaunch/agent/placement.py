"""Owns where this agent is: job, node, neighbours. The only module that reads submitit's job environment or SLURM_*."""

from __future__ import annotations

import ipaddress
import os
import socket
from dataclasses import dataclass
from pathlib import Path

from ..schedulers.local_process import local_job_id


@dataclass(frozen=True)
class Placement:
    scheduled: bool
    """Whether a scheduler holds the job; else it is a local one."""
    job_id: str
    restart_count: int
    node: int
    hosts: tuple[str, ...]
    """Every node by the scheduler's name, in its order; this node is hosts[node], the head is hosts[0]."""
    token: str
    """Of the submission that this job belongs to: the name of the job's folder."""
    end_time: float | None
    """Unix time of the allocation's end, where the environment tells it."""

    @property
    def host(self) -> str:
        return self.hosts[self.node]

    @property
    def is_head(self) -> bool:
        return self.node == 0

    def is_held(self) -> bool:
        """Whether the job is still there. A local one is its controller's process; a scheduler ends its jobs by itself."""
        pid = self.job_id.split("-")[1:2]
        return self.scheduled or bool(pid and local_job_id(int(pid[0])) == self.job_id)

    def listen_address(self) -> tuple[str, str]:
        """(address to bind, address to give to the other ranks) for the head's store: loopback where all are on one node."""
        if len(self.hosts) == 1:
            return "127.0.0.1", "127.0.0.1"
        try:
            ipaddress.ip_address(self.hosts[0])
        except ValueError:  # a name may resolve to a loopback address on its own node, so no address can be chosen here
            return "", self.hosts[0]
        return self.hosts[0], self.hosts[0]


def discover() -> Placement:
    """Where submitit started this process."""
    import submitit

    job = submitit.JobEnvironment()
    token = Path(os.environ["SUBMITIT_FOLDER"]).name
    if job.cluster != "slurm":
        return Placement(False, local_job_id(int(job.job_id)) or "", 0, 0, (socket.gethostname(),), token, None)
    end = os.environ.get("SLURM_JOB_END_TIME", "")
    return Placement(
        scheduled=True,
        job_id=str(job.job_id),
        restart_count=int(os.environ.get("SLURM_RESTART_COUNT") or 0),
        node=job.node,
        hosts=tuple(job.hostnames),
        token=token,
        end_time=float(end) if end.isdigit() else None,
    )
