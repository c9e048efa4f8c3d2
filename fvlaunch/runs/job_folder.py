"""Owns a job's folder in the run directory: its token, and the files by which agents and the batch script leave messages for each other.

Must not submit or requeue anything.
"""

from __future__ import annotations

import contextlib
import os
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


FINISHED_WORDLESS = 90
_WORDLESS = {
    ContinuationRequest.NOTHING: 91,
    ContinuationRequest.REQUEUE: 92,
    ContinuationRequest.RESUBMIT: 93,
    ContinuationRequest.ASK: 94,
}
"""Exit codes of a head agent that could not leave its word on the disk: the batch script reads the word from them."""


def reserve_word(folder: Path, job_id: str, restart_count: int) -> None:
    """Take the room for the word that comes at the end: the disk may be full by then. Where there is none now, the exit code says it."""
    with contextlib.suppress(OSError):
        publish_text(_reserved(folder, job_id, restart_count), "\n" * 2048)


def leave_word(
    folder: Path,
    job_id: str,
    restart_count: int,
    request: ContinuationRequest = ContinuationRequest.NOTHING,
    exclude: Sequence[str] = (),
    *,
    code: int = 1,
) -> int:
    """Leave the head agent's word that it ended in order, in this life of the job, and return the code that it has to end with: `code`, or
    one that says the same to the batch script where no file can.

    `request`: what the batch script has to do then; `exclude`: nodes that the next job stays away from.
    """
    text, reserved = f"{request.value}\n{','.join(exclude)}\n", _reserved(folder, job_id, restart_count)
    with contextlib.suppress(OSError):
        (folder / "wordless").unlink(missing_ok=True)
    try:
        if reserved.is_file():
            with reserved.open("r+b", buffering=0) as file:
                file.write(text.encode()[:2047])
                os.fsync(file.fileno())
            reserved.rename(folder / f"said.{job_id}.{restart_count}")
        else:
            publish_text(folder / f"said.{job_id}.{restart_count}", text)
    except OSError:
        return FINISHED_WORDLESS if code == 0 else _WORDLESS[request]
    return code


def _reserved(folder: Path, job_id: str, restart_count: int) -> Path:
    return folder / f".said.{job_id}.{restart_count}"


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
