"""Owns what a simulation measures, as plain data that is written and compared. Must not import torch. Memory is in bytes."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Kept:
    """What a role takes all the time, on one rank."""

    weights: int
    optimizer: int = 0
    average: int = 0

    @property
    def total(self) -> int:
        return self.weights + self.optimizer + self.average


@dataclass(frozen=True)
class Wait:
    """A place where the host waits for the device."""

    place: str
    """FILE:LINE FUNCTION, of the innermost frame of the trainers or a user's code."""
    what: str
    """The call that waits."""
    times: int
    reason: str | None = None
    """Why it may; None: it is not declared."""


@dataclass(frozen=True)
class Phase:
    """One step of a kind: "critic", "student", or "step" where all are alike."""

    step: int
    """The step's number, which decides what is drawn for all ranks."""
    peak: int | None = None
    """The most that was allocated at once; None where there was no allocator."""
    reserved: int | None = None
    """The most that the allocator had taken from the device."""
    peaks: dict[str, int] = field(default_factory=dict)
    """The peak within each stage of the step, by its name."""
    launches: int | None = None
    copied: int | None = None
    """Bytes that were copied on the device, or between it and the host, by calls and not by kernels."""
    flops: int = 0
    flops_by: dict[str, int] = field(default_factory=dict)
    """By operator, as torch counts them: the backward pass of attention with what its kernel computes again."""
    passes: dict[str, int] = field(default_factory=dict)
    """Forward passes by network, and whether with gradient."""
    waits: list[Wait] = field(default_factory=list)
    host_s: float = 0.0


@dataclass(frozen=True)
class Figures:
    """What one simulation measured on one rank."""

    preset: str
    ranks: int
    device: str
    kept: int | None
    """All that is allocated between steps; None where there was no allocator."""
    roles: dict[str, Kept]
    building: int | None
    """The most that was allocated while the networks were built."""
    phases: dict[str, Phase]
    versions: dict[str, str]
    digests: dict[str, str]

    def plain(self) -> dict[str, Any]:
        return asdict(self)

    def write(self, path: Path) -> None:
        path.write_text(json.dumps(self.plain(), indent=1) + "\n")

    @classmethod
    def of(cls, content: dict[str, Any]) -> Figures:
        """Parse what `plain` gave."""
        roles = {role: Kept(**kept) for role, kept in content["roles"].items()}
        phases = {name: Phase(**{**phase, "waits": [Wait(**one) for one in phase["waits"]]}) for name, phase in content["phases"].items()}
        return cls(**{**content, "roles": roles, "phases": phases})

    @property
    def undeclared(self) -> list[Wait]:
        """Return the waits on the steps' path that nobody has given a reason for."""
        return [wait for phase in self.phases.values() for wait in phase.waits if wait.reason is None]
