"""Owns what a run's status is: the object that `status --json` prints. Must not know how it is found out."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ..errors import counted
from ..runs.directory import FINAL_STATES

STATES = ("submitting", "queued", "running", "requeued", "stopped", "finished", "failed", "cancelled", "lost", "broken")


_REASONS = 4
"""So many reasons of rejection are shown."""


@dataclass(frozen=True)
class RunStatus:
    run: str
    recipe: str
    cluster: str
    state: str
    reason: str
    step: int
    max_steps: int
    job_id: str | None
    job_ids: tuple[str, ...]
    attempts: int
    last_checkpoint_step: int | None
    updated_at: float
    path: str
    phase: str | None = None
    loss: float | None = None
    losses: dict[str, float] = field(default_factory=dict)
    """The method's own, by name: student and critic apart."""
    step_s: float | None = None
    eta_s: float | None = None
    allocation_left_s: float | None = None
    stale_s: float | None = None
    """The scheduler could not be asked: seconds since this was last known."""
    blocked: str | None = None
    """Its job waits and does not start by itself: `held` until somebody releases it, `never` as long as it asks for what it asks."""
    entries: dict[str, Any] | None = None
    """Of a preprocessing that is over: `entries` of its source, those `used`, of these `holdout`, `rejected`, and their number by
    `reasons`, the commonest first."""

    owed: str = ""
    """What nobody could do when the scheduler gave no answer, and it gives answers now: `adopt`, `stop` or `cancel`. Not told."""

    @property
    def is_over(self) -> bool:
        return self.state in (*FINAL_STATES, "lost", "broken")

    @classmethod
    def broken(cls, name: str, path: Path, reason: str) -> RunStatus:
        """Return the status of a run or pipeline whose record cannot be read: nothing is known but why."""
        return cls(
            run=name, recipe="", cluster="", state="broken", reason=reason, step=0, max_steps=0, job_id=None, job_ids=(), attempts=0,
            last_checkpoint_step=None, updated_at=0.0, path=str(path),
        )  # fmt: skip

    def dump(self) -> dict[str, Any]:
        return {key: value for key, value in asdict(self).items() if key != "owed"}


def entries_of(told: dict[str, Any] | None) -> dict[str, Any] | None:
    """Return what a preprocessing's own file says of its entries as `RunStatus.entries`; None where it says nothing that can be read."""
    try:
        reasons = sorted(((str(reason), int(count)) for reason, count in told["rejected"].items()), key=lambda one: (-one[1], one[0]))  # type: ignore[index]
        numbers = {"entries": int(told["entries"]), "used": int(told["written"]), "holdout": int(told["holdout"])}  # type: ignore[index]
    except (TypeError, KeyError, ValueError, AttributeError):
        return None
    return {**numbers, "rejected": sum(count for _, count in reasons), "reasons": dict(reasons)}


def entries_text(entries: dict[str, Any]) -> str:
    """Return in a line how many entries were used, and how many not for which of the commonest reasons."""
    held = f" ({entries['holdout']} of them held out)" if entries["holdout"] else ""
    reasons = [f"{count} {reason}" for reason, count in entries["reasons"].items()]
    more = f", {len(reasons) - _REASONS} more" if len(reasons) > _REASONS else ""
    why = f": {', '.join(reasons[:_REASONS])}{more}" if reasons else ""
    return f"{entries['used']} of {counted(entries['entries'], 'entry', 'entries')} used{held}, {entries['rejected']} rejected{why}"


def role_of(loss: str) -> str:
    """Return the role that a method's loss trains."""
    name = loss.removesuffix("_loss")
    return "student" if name == "generator" else name
