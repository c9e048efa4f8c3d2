"""Owns the gates at which runs under test wait: the tests open them, so no test depends on how fast a machine is.

`Gate` is for whole runs of the method in gated.py; `hold_until_notice` for ranks that tests fork themselves.
"""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tests.support.launcher import Workspace

METHOD = {"kind": "./gated.py:GatedFineTune"}
OPEN = float("inf")


def source() -> str:
    """The text of gated.py, for a workspace of this process."""
    text = Path(__file__).with_name("gated.py").read_text()
    assert "TESTS_PID = 0" in text
    return text.replace("TESTS_PID = 0", f"TESTS_PID = {os.getpid()}")


class Gate:
    """Of one run: shut before its first step until a test says otherwise."""

    def __init__(self, workspace: Workspace, name: str) -> None:
        self._workspace, self.name, self.run = workspace, name, workspace.runs / name

    def move(self, folder: Path) -> None:
        """Keep the gate's files in another folder: the run's own is on a disk that will be full, or not there."""
        folder.mkdir(parents=True)
        (self.run / "gate.elsewhere").symlink_to(folder.resolve())

    @property
    def _folder(self) -> Path:
        elsewhere = self.run / "gate.elsewhere"
        return elsewhere.resolve() if elsewhere.exists() else self.run

    def let(self, step: float) -> None:
        """Allow steps up to this one."""
        _overwrite(self._folder / "gate", str(step))

    def open(self) -> None:
        self.let_saves()
        self.let(OPEN)

    def reach(self, step: int, *, attempt: int = 1, ranks: int = 1) -> int:
        """Allow steps up to this one, and wait until all ranks of the attempt have made it and wait at the gate.

        Returns the step that was made last: a later one where the attempt went on from a later one.
        """
        self.let(step)
        return self.waits(step, attempt=attempt, ranks=ranks)

    def waits(self, step: int = 0, *, attempt: int = 1, ranks: int = 1) -> int:
        """Wait until all ranks of the attempt have made a step and wait at the gate; returns the step that was made last."""

        def all_there() -> list[int]:
            steps = list(self._reached("step", attempt).values())
            return steps if len(steps) == ranks and min(steps) > step else []

        found = self._workspace.until(all_there, f"{self.name}: {ranks} ranks of attempt {attempt} wait after step {step}")
        return int(found[0]) - 1

    def hold_saves(self) -> None:
        """From now on no checkpoint is published."""
        (self._folder / "gate.saves").touch()

    def let_saves(self) -> None:
        (self._folder / "gate.saves").unlink(missing_ok=True)

    def save_waits(self, *, attempt: int = 1) -> int:
        """Return the step of a checkpoint that is written and waits to be published."""
        what = f"{self.name}: a checkpoint of attempt {attempt} waits to be published"
        found = self._workspace.until(lambda: self._reached("save", attempt), what)
        return int(found[0])

    def _reached(self, what: str, attempt: int) -> dict[int, int]:
        """rank -> step that it waits for, or waited for last."""
        words = (self._folder / "gate.reached").glob(f"{what}-{attempt}-*")
        return {int(path.name.rpartition("-")[2]): json.loads(path.read_text()) for path in words}


def hold_until_notice(phase: str, count: int, arrived: Path) -> None:
    """In a rank that a test forked: from `count` of `phase` on it waits for its stop notice; `arrived` appears when it does."""
    from trainers.control import Control

    progress = Control.progress

    def held(self: Control, now: str, reached: int, **details: Any) -> None:
        progress(self, now, reached, **details)
        if now == phase and reached >= count:
            arrived.touch()
            while not self.stop_requested:
                time.sleep(0.005)

    Control.progress = held  # type: ignore[method-assign]


def _overwrite(path: Path, text: str) -> None:
    """Whole or not at all: a rank may be reading it."""
    new = path.with_name(f".{path.name}.new")
    new.write_text(text)
    new.replace(path)
