"""Owns asking Slurm how a site is configured, and one small job that looks at a node. Runs Slurm's commands, as commands.py does.

Must not judge (site_checks.py does).
"""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import NamedTuple

from ...errors import SchedulerRefused, SchedulerUnreachable
from . import commands as slurm
from . import parsing as answers

_PAIR = re.compile(r"([A-Za-z]\w*)=(\S*)")


class Identity(NamedTuple):
    """Which Slurm answers here: its cluster's name, its version, like (22, 5, 8), and its MessageTimeout, where it tells."""

    name: str | None
    version: tuple[int, ...] | None
    message_timeout_s: float | None = None


ANSWER_S = 30.0
"""So long somebody who submits is kept waiting for the first answer; busy controllers take their time."""
_known: list[Identity] = []
"""What was answered; empty until then."""


def identity(timeout_s: float = 5.0) -> Identity:
    """Asked once a process; where there is no answer, again."""
    if not _known:
        found = config(timeout_s)
        seconds = re.match(r"\d+", found.get("MessageTimeout", ""))  # "10 sec"
        version = answers.parse_version(found.get("SLURM_VERSION", ""))
        _known.append(Identity(found.get("ClusterName"), version, float(seconds[0]) if seconds else None))
    return _known[0]


def check_answers(so: str = "") -> None:
    """Raise SchedulerUnreachable where Slurm gives no answer; `so` is what that means. Without scontrol nobody can be asked beforehand."""
    if slurm.can_ask():
        try:
            identity(ANSWER_S)
        except SchedulerUnreachable as error:
            message = f"Slurm gives no answer ({error.message}): {so}" if so else error.message
            raise SchedulerUnreachable(message, hint=error.hint) from None


def identity_if_known() -> Identity | None:
    """Return what was answered before, and ask nobody."""
    return _known[0] if _known else None


def config(timeout_s: float = slurm.TIMEOUT_S) -> dict[str, str]:
    """`scontrol show config` by key; "(null)" is ""."""
    done = slurm._run(["scontrol", "show", "config"], timeout_s)
    if done.returncode:
        raise slurm._unreachable(done)
    pairs = (line.partition("=") for line in done.stdout.splitlines() if "=" in line)
    return {key.strip(): "" if value.strip() == "(null)" else value.strip() for key, _, value in pairs}


def partitions(timeout_s: float = slurm.TIMEOUT_S) -> dict[str, dict[str, str]]:
    """`scontrol show partition`: each one's facts by name."""
    done = slurm._run(["scontrol", "show", "partition"], timeout_s)
    if done.returncode:
        raise slurm._unreachable(done)
    found = [dict(_PAIR.findall(part)) for part in done.stdout.split("\n\n")]
    return {facts["PartitionName"]: facts for facts in found if "PartitionName" in facts}


def accounts_problem(timeout_s: float = slurm.TIMEOUT_S) -> str:
    """Return why the accounts give no answer, in Slurm's words; empty where they answer."""
    if shutil.which("sacct") is None:
        return "sacct is not on PATH"
    try:
        return "" if slurm._sacct(["--starttime=now"], timeout_s) is not None else "sacct says that they are disabled"
    except SchedulerUnreachable as error:
        return error.message


def submit_script(script: Path, timeout_s: float = 30.0) -> str:
    """Hand a script to sbatch that is no run's; its job id."""
    done = slurm._run(["sbatch", "--parsable", str(script)], timeout_s)
    job_id = done.stdout.strip().partition(";")[0]
    if re.search(slurm.NO_ANSWER, done.stderr) and done.returncode:
        raise slurm._unreachable(done)
    if done.returncode or not job_id.isdigit():
        raise SchedulerRefused(f"sbatch refused the job: {slurm._said(done)}")
    return job_id
