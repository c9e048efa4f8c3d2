"""Owns a job's folder in the run directory: its token, and the files by which agents and the batch script leave messages for each other.

Must not submit or requeue anything.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Sequence
from enum import Enum
from pathlib import Path

from ..errors import FvlaunchError
from ..files import publish_text

GIVEN_UP = "given_up"
"""The file in which a job says why it does not go on, where no agent of it could."""


class ContinuationRequest(str, Enum):
    """What the batch script has to do once the agents have ended, because only it can: they may be in a container, or Slurm unreachable."""

    NOTHING = ""
    REQUEUE = "requeue"
    RESUBMIT = "resubmit"
    ASK = "ask"
    """Continue, unless the job is being ended."""


def leave_word(
    folder: Path,
    job_id: str,
    restart_count: int,
    request: ContinuationRequest = ContinuationRequest.NOTHING,
    exclude: Sequence[str] = (),
) -> None:
    """The head agent's word that it ended in order, in this life of the job.

    `request`: what the batch script has to do then; `exclude`: nodes that the next job stays away from.
    """
    publish_text(folder / f"said.{job_id}.{restart_count}", f"{request.value}\n{','.join(exclude)}\n")
    (folder / "wordless").unlink(missing_ok=True)


def handed_over(folder: Path, job_id: str) -> bool:
    """Return whether a job's batch script has said that it ends and another job goes on."""
    return (folder / f"handover.{job_id}").exists()


def take_back_handover(folder: Path, job_id: str) -> None:
    """A job that was requeued after all goes on itself: the one that it submitted must not."""
    (folder / f"handover.{job_id}").unlink(missing_ok=True)


def new_token() -> str:
    return secrets.token_hex(8)


def check_job_path(path: Path) -> None:
    """Refuse a run directory that a job could not use: Slurm expands %, a line end would run as shell code, PYTHONPATH parts at a colon."""
    if re.search(r"[%:\x00-\x1f\x7f]", str(path.absolute())):
        raise FvlaunchError(f"the run directory {str(path)!r} holds a %, a colon or a control character", hint="choose another --runs-dir")
