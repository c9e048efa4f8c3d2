"""Owns what this machine can say of its processes and GPUs: who a process is, whether it is still that one, how many GPUs there are.

Must not know runs or jobs of a scheduler: a pid alone is never an identity, so every answer names host, boot and start time too.
"""

from __future__ import annotations

import itertools
import os
import re
import socket
import subprocess
from pathlib import Path


def local_pid(job_id: str) -> int | None:
    """Pid of a local job's controller, if that very process is alive on this machine."""
    match = re.fullmatch(r"local-(\d+)-(\d+)", job_id)
    if match and process_start_time(int(match[1])) == int(match[2]):
        return int(match[1])
    return None


def num_local_gpus() -> int:
    """GPUs of this machine, as the driver lists them."""
    if not Path("/dev/nvidiactl").exists():
        return 0
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return len(list(itertools.takewhile(_is_device, visible.split(","))))
    try:
        done = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return 0
    return sum(line.startswith("GPU ") for line in done.stdout.splitlines())


def _is_device(part: str) -> bool:
    """Judge one word of CUDA_VISIBLE_DEVICES: what is no device (-1 is the usual word for none) ends the list, as in CUDA itself."""
    return bool(part.strip()) and not part.strip().startswith("-")


def process_start_time(pid: int) -> int | None:
    """Kernel ticks since boot when a process started; with its pid that names a process for good. None: there is none."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    after_name = stat.rpartition(")")[2].split()
    return None if after_name[0] == "Z" else int(after_name[19])


def local_job_id(pid: int) -> str | None:
    """Return a local job's id: its controller's pid and start time, since pids come back."""
    started = process_start_time(pid)
    return None if started is None else f"local-{pid}-{started}"


def boot_id() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def host_identity() -> str:
    """This machine, this boot: what a local job's id is valid for."""
    return f"{socket.gethostname()}/{boot_id()}"
