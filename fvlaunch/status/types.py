"""Owns what a run's status is: the object that `status --json` prints. Must not know how it is found out."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ..runs.directory import FINAL_STATES

STATES = ("submitting", "queued", "running", "requeued", "stopped", "finished", "failed", "cancelled", "lost", "broken")


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
        return asdict(self)


def role_of(loss: str) -> str:
    """Return the role that a method's loss trains."""
    name = loss.removesuffix("_loss")
    return "student" if name == "generator" else name
