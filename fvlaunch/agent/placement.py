"""Owns where this agent is: job, node, neighbours, and which scheduler to ask. What the environment says is the schedulers' to read."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass

from ..schedulers.base import Allocation, Scheduler
from ..schedulers.registry import current


@dataclass(frozen=True)
class Placement:
    scheduler: Scheduler
    allocation: Allocation

    @property
    def job_id(self) -> str:
        return self.allocation.job_id

    @property
    def restart_count(self) -> int:
        return self.allocation.restart_count

    @property
    def node(self) -> int:
        """Which of the job's nodes this one is."""
        return self.allocation.node

    @property
    def hosts(self) -> tuple[str, ...]:
        """Every node by the scheduler's name, in its order; this node is hosts[node], the head is hosts[0]."""
        return self.allocation.hosts

    @property
    def token(self) -> str:
        """The token of the submission that this job belongs to: the name of the job's folder."""
        return self.allocation.token

    @property
    def gpus(self) -> int | None:
        """How many GPUs of this node the job was given; None: nobody says."""
        return self.allocation.gpus

    @property
    def host(self) -> str:
        return self.hosts[self.node]

    @property
    def is_head(self) -> bool:
        return self.node == 0

    def is_held(self) -> bool:
        """Return whether the job is still there, as far as that can be told at no cost."""
        return self.scheduler.holds(self.job_id)

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
    """Return where a scheduler started this process."""
    return Placement(*current())
