"""Owns the keys of a profile's `reliability`: how often a cluster interrupts a run, and what that costs. Must not compute with them.

What is null here has a measured figure or a default, which planning/recovery_figures.py names.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from trainers.config.section import Section

NonNegative = Annotated[float, Field(ge=0, le=1e9)]
Speed = Annotated[float, Field(ge=1e-3, le=1e6)]


class Reliability(Section):
    """How often this cluster interrupts a run, and what that costs: for `fvlaunch show --ettr` and `checkpoint.every_minutes: auto`."""

    failures_per_node_day: NonNegative | None = None
    """Failures that end a run, for each of its nodes and day. null: 0.0065, as measured on Meta's RSC-1 (arXiv:2410.21680)."""
    preemptions_per_day: NonNegative | None = None
    """How often a day a job is preempted, however many nodes it has. null: 0."""
    preemption_notice_s: NonNegative | None = None
    """Time that a preempted job is given to save (GraceTime). null: enough."""
    detection_s: NonNegative | None = None
    """From a node's failure until the job gives its nodes back. null: limits.head_silence_s."""
    requeue_wait_s: NonNegative | None = None
    """From giving the nodes back until the job starts again. null: as measured in the run's records, else 120, Slurm's own delay."""
    start_s: NonNegative | None = None
    """From the job's start to its first new step. null: until the checkpoint was loaded, as measured in the run's records, else 300."""
    save_gb_per_s: Speed | None = None
    """Speed at which all ranks together write a checkpoint. null: as measured in the run's records, else 1."""
    stage_gb_per_s: Speed | None = None
    """Speed at which one rank copies its part of a checkpoint to the host; training stands still for it. null: as measured in the run's
    records, else 5."""
