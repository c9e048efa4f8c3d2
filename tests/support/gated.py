"""Finetuning that waits at a gate which a test opens. Copied into a workspace as a person's own file, so it imports nothing of the tests.

A rank waits before each step that the file `gate` of its run's directory does not allow, and rank 0 publishes no checkpoint while the
file `gate.saves` is there; tests/support/gates.py writes both. They lie in the folder `gate.elsewhere`, where there is one.
A stop notice to any rank opens both: the step that waits is made, and is the attempt's last.
The numbers are those of `finetune`.
"""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from trainers.errors import UserError
from trainers.methods.finetune import FineTuneMethod

TESTS_PID = 0
"""Of the process whose tests open the gate, written in when this file is copied: a run that nobody can let go on any more ends."""
LOOK_S = 0.02
NO_RESTART = 76


class GatedFineTune(FineTuneMethod):
    """What `method` may also say: `refuse`, a file that ends the run as long as it is there; `pace_s`, a pause before each step;
    `raise_at`, a step that fails at every attempt; `freeze`, the {rank, step} at which the first attempt stops by SIGSTOP; `deaf`, that
    the attempts up to this one wait at their gate also when a stop notice has come.
    """

    def __init__(self, cfg: Any, role_models: Any) -> None:
        self.own = cfg.method.model_extra
        if Path(self.own.get("refuse", "/nowhere")).exists():
            raise UserError("the gate is shut", "open it")
        self.rank, self.attempt = int(os.environ["RANK"]), int(os.environ["TRAINER_ATTEMPT"])
        known = {"weighting_scheme": "uniform", "precondition_outputs": False}
        super().__init__(cfg.model_copy(update={"method": cfg.method.model_copy(update=known)}), role_models)

    def on_train_start(self) -> None:
        super().on_train_start()
        publish = os.rename

        def rename(source: Any, target: Any, **more: Any) -> None:
            if Path(source).name.startswith(".step-"):
                self._wait(
                    "save", int(Path(source).name.split("-")[1].split(".")[0]), lambda: not _folder().joinpath("gate.saves").exists()
                )
            publish(source, target, **more)

        os.rename = rename  # how a checkpoint gets its name

    def single_train_step(self, batch: Any, iteration: int) -> Any:
        if iteration == self.own.get("raise_at"):
            raise ValueError(f"boom at iteration {iteration}")
        if self.attempt == 1 and self.own.get("freeze") == {"rank": self.rank, "step": iteration}:
            os.kill(os.getpid(), signal.SIGSTOP)
        time.sleep(self.own.get("pace_s", 0))
        self._wait("step", iteration, lambda: iteration <= _last_allowed())
        return super().single_train_step(batch, iteration)

    def _wait(self, what: str, step: int, is_open: Callable[[], bool]) -> None:
        """Until the gate is open or a stop notice has come; leaves word that it waits."""
        if is_open():
            return
        there = _folder() / "gate.reached"
        there.mkdir(exist_ok=True)
        word = there / f".{what}-{self.attempt}-{self.rank}"
        word.write_text(json.dumps(step))
        word.replace(there / word.name[1:])
        noticed = there / f"notice-{self.attempt}"
        while not is_open() and not noticed.exists():
            if _notice_came() and self.attempt > self.own.get("deaf", 0):
                noticed.touch()  # it may have come to this rank alone: the others must make the step with it
            if not Path(f"/proc/{TESTS_PID}").exists():
                os._exit(NO_RESTART)
            time.sleep(LOOK_S)


def _folder() -> Path:
    """Of a run on a disk that becomes full it is a link to another disk."""
    elsewhere = Path("gate.elsewhere")
    return elsewhere if elsewhere.exists() else Path()


def _saves_are_let() -> bool:
    return not (_folder() / "gate.saves").exists()


def _last_allowed() -> float:
    """No file: no step yet."""
    try:
        return float((_folder() / "gate").read_text())
    except FileNotFoundError:
        return 0


def _notice_came() -> bool:
    """The handler that every rank has for SIGTERM is a method of its trainers.control.Control."""
    return bool(signal.getsignal(signal.SIGTERM).__self__.stop_requested)  # type: ignore[union-attr]
