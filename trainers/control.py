"""Owns a rank's contract with its launcher: stop notice, heartbeat, exit codes, and whether this attempt is still the current one.

Must not import torch (it runs first, while torch takes seconds to load), and must never wait: a signal handler only sets a
flag, and a heartbeat that does not fit into the pipe is dropped.

The launcher may set, for each rank:
  TRAINER_PROGRESS_FD  write end of a pipe; one JSON object a line, see `Control.progress` and `Control.report`
  TRAINER_PARENT_PID   the launcher's pid: the rank dies with it
  TRAINER_LISTEN_FD    rank 0 only: a listening socket for the process group's store at MASTER_ADDR:MASTER_PORT
  TRAINER_CURRENT      a JSON file whose (generation, attempt) must equal the next two while this attempt is the current one
  TRAINER_GENERATION, TRAINER_ATTEMPT
  TRAINER_UMASK        the umask of the person, in octal: the launcher's own keeps its records private, and data sets and exports are not
  TRAINER_GPUS         how many GPUs this node's ranks were given; 0: they compute on the CPU, whatever is there
Without them (torchrun) a rank just runs.
"""

from __future__ import annotations

import ctypes
import faulthandler
import json
import logging
import os
import signal
import sys
import time
from pathlib import Path
from types import FrameType
from typing import Any, Literal, get_args

EXIT_FINISHED = 0
EXIT_SAVED = 75
"""The work is saved but not finished: another attempt goes on from there."""
EXIT_NO_RESTART = 76
"""A restart cannot help: bad configuration, non-finite by policy, checkpoints exist and none verifies."""
EXIT_WRONG_NODE = 77
"""This node lacks what the job was given, such as a GPU that torch can use; another node may have it."""

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2)
"""Signals that a launcher may send. A rank may be started with them blocked, and takes them from `Control.start` on."""

Phase = Literal[
    "starting", "loading", "preparing", "caching", "warming", "stepping", "validating", "saving", "finishing",
    "preprocessing", "downloading", "evaluating",
]  # fmt: skip
PHASES: tuple[Phase, ...] = get_args(Phase)
"""Everything that a heartbeat may say a rank is doing. `preparing`: making data; `caching`: a teacher's trajectories; `warming`: the
first steps of an attempt, which may take much longer than the rest (`stepping`)."""


class StopRequested(Exception):
    """A stop notice ends the work in hand. Where ranks work together, all of them raise it at the same point."""


def die_with_parent(parent: int | None = None) -> None:
    """Have the kernel kill this process when its parent ends. `parent`: the pid that the parent had; exit at once where it is gone."""
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
    if parent is not None and os.getppid() != parent:  # it died before the line above
        os._exit(1)


class _Reporter(logging.Handler):
    def __init__(self, control: Control) -> None:
        super().__init__(logging.WARNING)
        self._control = control

    def emit(self, record: logging.LogRecord) -> None:
        if getattr(record, "reported", False):
            self._control.report("warning", text=record.getMessage())


class Control:
    """One rank's side of the contract. `start` installs the handlers; before it, nothing here touches the process."""

    def __init__(self, environment: dict[str, str] | None = None) -> None:
        env = dict(os.environ if environment is None else environment)
        self.rank = int(env.get("RANK", "0"))
        self.attempt = int(env.get("TRAINER_ATTEMPT", "1"))
        self.generation = int(env.get("TRAINER_GENERATION", "1"))
        self._current = Path(env["TRAINER_CURRENT"]) if env.get("TRAINER_CURRENT") else None
        self._umask = int(env["TRAINER_UMASK"], 8) if env.get("TRAINER_UMASK") else None
        self._parent = int(env["TRAINER_PARENT_PID"]) if env.get("TRAINER_PARENT_PID") else None
        self._pipe = int(env["TRAINER_PROGRESS_FD"]) if env.get("TRAINER_PROGRESS_FD") else None
        self.stop_requested = False
        self._last_sent = 0.0
        self._last_phase = ""
        self._step: int | None = None
        self._reached: dict[str, float] = {}

    def start(self) -> Control:
        """Install the signal handlers, tie this process's life to the launcher's, take the person's umask, send the first heartbeat."""
        signal.signal(signal.SIGTERM, self._on_stop)
        signal.signal(signal.SIGINT, self._on_stop)
        signal.signal(signal.SIGUSR2, signal.SIG_IGN)  # a scheduler may send it to every process of a job
        faulthandler.register(signal.SIGUSR1, file=sys.stderr, all_threads=True)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
        ctypes.CDLL(None).prctl(15, f"rank {self.rank}".encode())  # PR_SET_NAME: what ps and top show
        if self._parent is not None:
            die_with_parent(self._parent)
        if self._pipe is not None:
            os.set_blocking(self._pipe, False)
            os.set_inheritable(self._pipe, False)
        if self._umask is not None:
            os.umask(self._umask)
        self.reached("process")
        self.progress("starting", 0)
        return self

    def _on_stop(self, _signum: int, _frame: FrameType | None) -> None:
        self.stop_requested = True

    def progress(self, phase: Phase, count: int, **details: Any) -> None:
        """Send a heartbeat: `count` units of `phase` are done. At most ten a second within a phase, but always the one for max_steps.

        Raises ValueError for a phase that is not one of PHASES.
        """
        if phase not in PHASES:
            raise ValueError(f"a heartbeat's phase is one of {', '.join(PHASES)}, not {phase!r}")
        if phase in ("warming", "stepping"):
            self._step = count
        now = time.monotonic()
        if phase == self._last_phase and now - self._last_sent < 0.1 and count != details.get("max_steps"):
            return
        self._last_phase, self._last_sent = phase, now
        self._send({"kind": "progress", "phase": phase, "count": count, **details})

    def reached(self, stage: str) -> None:
        """Note that a stage of this start (`process`, `imports`, …) is over now: what the way back took is told by `report_start`."""
        self._reached.setdefault(stage, round(time.time(), 3))

    def report_start(self) -> None:
        """Send when each stage of this start was over (seconds since 1970), once its first step is made."""
        self.reached("first_step")
        self.report("begun", reached=self._reached)

    def report(self, kind: str, **details: Any) -> None:
        """Send what the launcher records: kind "checkpoint" (step, save_s, stall_s), "resumed" (step), "begun" (reached), "warning" or
        "failure" (text).

        A failure carries the last step done, too: the heartbeat may have left it out.
        """
        last_step = {"step": self._step} if kind == "failure" and self._step is not None else {}
        self._send({"kind": kind, **last_step, **details})

    def _send(self, message: dict[str, Any]) -> None:
        if self._pipe is None:
            return
        line = json.dumps({"rank": self.rank, "time": time.time(), **message})[:3900] + "\n"  # < PIPE_BUF: written whole
        try:
            os.write(self._pipe, line.encode("ascii"))
        except BrokenPipeError:  # the launcher is gone
            os._exit(1)
        except OSError:  # full; or no pipe but a file of somebody's, on a disk that refuses
            pass

    def report_warnings(self) -> None:
        """From now on send the launcher warnings that are logged with `extra={"reported": True}`, by modules that know of none."""
        logging.getLogger().addHandler(_Reporter(self))

    def is_current(self) -> bool:
        """Return whether no later attempt has taken over. A file that cannot be read right now says nothing, so: True."""
        if self._current is None:
            return True
        try:
            current = json.loads(self._current.read_text()) if self._current.is_file() else {}
            found = current["generation"], current["attempt"]
        except (OSError, ValueError, LookupError, TypeError, RecursionError):
            return True
        return found == (self.generation, self.attempt) or not all(type(number) is int for number in found)
