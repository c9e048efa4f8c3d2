"""Owns which processes belong to a cluster of the tests, by the mark in their environment, and ending them. Must not end any other."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterable
from pathlib import Path

MARK, NODE_MARK = "TEST_CLUSTER_DIRECTORY", "TEST_CLUSTER_NODE"
"""In the environment of all that a cluster (a node's daemon) starts."""


def of_cluster(directory: Path, node: str | None = None) -> list[int]:
    """Return the processes whose environment names this cluster (and node), and all below them: steps, and what jobs started."""
    parents, own = {}, set()
    for pid in (int(entry.name) for entry in Path("/proc").glob("[0-9]*")):
        with contextlib.suppress(OSError, IndexError, ValueError):
            parents[pid] = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
            if _is_own(Path(f"/proc/{pid}/environ").read_bytes().split(b"\0"), directory, node):
                own.add(pid)
    while below := {pid for pid, parent in parents.items() if parent in own and pid not in own}:
        own |= below
    return sorted(own - {os.getpid(), os.getppid()})


def _is_own(environment: list[bytes], directory: Path, node: str | None) -> bool:
    if f"{MARK}={directory}".encode() not in environment:
        return False
    return node is None or any(f"{key}={node}".encode() in environment for key in (NODE_MARK, "SLURMD_NODENAME"))


def command(pid: int) -> str:
    """Return a process' id and command line; the id alone where it is gone."""
    with contextlib.suppress(OSError):
        return f"{pid} " + Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    return str(pid)


def kill(pids: Iterable[int]) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
