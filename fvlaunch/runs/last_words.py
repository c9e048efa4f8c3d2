"""Owns what is left of a job whose agents could not say how it ended: what its batch script wrote down, and what it printed last.

Must only read, and must not judge. Secrets of the run are taken out.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ..errors import FvlaunchError
from ..files import read_bytes
from .directory import Record, Run
from .job_folder import GIVEN_UP

_NUM_LINES = 6
_TAIL_BYTES = 16384
_NOISE = re.compile(
    r"^(submitit (INFO|WARNING)|fvlaunch: requeueing|srun: (Terminating|Job step|job \d+ queued)|srun: error: .*: (Exited with|Killed))"
)
_SAYS_WHY = re.compile(
    r"error|cannot|could not|no such|denied|not found|killed|out of memory|unrecognized|invalid|fvlaunch:", re.IGNORECASE
)
_TERMINAL = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]|[^\t\n -~\u00a0-\U0010ffff]")
"""Colours, and what else a terminal would take for a command: another program's output may be anything."""


@dataclass(frozen=True)
class LastWords:
    given_up: str = ""
    """Why the job does not go on, by its own batch script."""
    lines: tuple[str, ...] = ()
    """The end of what the job printed."""
    printed: bool = True
    """Whether there is a file that the job printed to: one that never started has none."""

    @property
    def why(self) -> str:
        """The line that says most, of those printed last."""
        return next((line for line in reversed(self.lines) if _SAYS_WHY.search(line)), self.lines[-1] if self.lines else "")


def last_words(run: Run, record: Record) -> LastWords:
    """Return what a run's last job left in its folder."""
    folder = run.job / record.token
    log = _log(folder, record.job_id)
    hide = without_secrets(run)
    lines = [hide(line) for line in _tail(log)] if log is not None else []
    return LastWords(hide(_text(folder / GIVEN_UP).strip()), tuple(lines), log is not None)


def death(run: Run, job_id: str, restart_count: int) -> tuple[str, str] | None:
    """Return (cause, the line that told it) where a job's batch script saw its agents end without a word in that life of the job."""
    for path in run.job.glob(f"*/died.{job_id}.{restart_count}"):
        cause, _, why = _text(path).strip().partition("\n")
        return cause, without_secrets(run)(why)
    return None


def without_secrets(run: Run) -> Callable[[str], str]:
    """Return a function that takes the secrets of a run's profile out of a line: a log is masked only once its attempt is over."""
    from ..config import secrets as secret_values
    from ..config.strict_yaml import read

    try:
        names = read(run.config_file).plain["cluster"]["secrets"]
        values = secret_values.values(name for name in names if isinstance(name, str))
    except (FvlaunchError, OSError, KeyError, TypeError):
        values = {}
    return lambda line: secret_values.redact(line, values)


def _log(folder: Path, job_id: str | None) -> Path | None:
    """Return where the job's first node printed; of several jobs that followed each other the newest."""
    own = folder / f"{job_id}_0_log.out"
    if own.is_file():
        return own
    logs = [path for path in folder.glob("*_0_log.out") if path.is_file()]
    return max(logs, key=lambda path: path.stat().st_mtime, default=None)


def _tail(path: Path) -> list[str]:
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - _TAIL_BYTES))
            text = _TERMINAL.sub("", file.read().decode("utf-8", errors="replace").replace("\r", "\n"))
    except OSError:
        return []
    return [line.rstrip()[:400] for line in text.splitlines() if line.strip() and not _NOISE.match(line)][-_NUM_LINES:]


def _text(path: Path) -> str:
    try:
        return _TERMINAL.sub("", read_bytes(path).decode(errors="replace"))
    except OSError:
        return ""
