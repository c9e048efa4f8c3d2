"""Owns what the tests of runs on a real Slurm share: how a run ended, and what ended each attempt."""

from __future__ import annotations

from tests.support.launcher import Workspace, losses


def finished_as(workspace: Workspace, name: str, reference: list[tuple[int, float]]) -> None:
    """The run ended well, with each step once and every loss bitwise that of the reference."""
    status = workspace.finish(name)
    assert status["state"] == "finished", (status, workspace.told())
    assert losses(workspace.runs / name) == reference


def causes(workspace: Workspace, name: str) -> list[str]:
    return [a["cause"] for a in workspace.attempts(name)]


def job_of(workspace: Workspace, name: str) -> str:
    return str(workspace.status(name)["job_id"])
