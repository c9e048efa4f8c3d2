"""Owns how the rows of cuda.py are run: each in a process of its own with a time limit, within a budget, written down as it is done.

Must not know what a row measures, nor import torch. A row is a fork of this process, which has imported everything and touched no device:
one that hangs or crashes, or leaves the device unusable for its process, costs itself alone.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

from tests.benchmarks.cuda_rows import Check, Figure, tell

DONE, CUT = "", "cut off: no time left"
"""What a line says of a row that came to its end, and of one that did not get its time: this one is as good as not begun."""
_GRACE_S = 40.0
"""Beyond the budget: what the last row may take that has begun."""
_AT_ONCE = 6
_LAST_LINES = 4


@dataclass(frozen=True)
class Row:
    """Something to measure. `together`: it takes no times, and may run beside others of this kind."""

    name: str
    make: Callable[[], Sequence[Check | Figure]]
    limit_s: float = 60.0
    together: bool = False


@dataclass(frozen=True)
class Line:
    """What became of a row: a line of the results' file."""

    row: str
    stamp: str
    """Of which code, on which machine."""
    ended: str = DONE
    """Why it did not come to its end."""
    seconds: float = 0.0
    checks: list[Check] = field(default_factory=list)
    figures: list[Figure] = field(default_factory=list)

    def text(self) -> str:
        return json.dumps(asdict(self)) + "\n"

    @classmethod
    def of(cls, content: dict[str, Any]) -> Line:
        checks, figures = [Check(**one) for one in content["checks"]], [Figure(**one) for one in content["figures"]]
        return cls(**{**content, "checks": checks, "figures": figures})

    @property
    def right(self) -> bool:
        """Whether nothing of it has to be measured once more."""
        return self.ended == DONE and all(check.kept for check in self.checks)


def read(path: Path) -> dict[str, Line]:
    """Return the newest line of each row; {} where there is no file. A line that a cut has torn does not count."""
    found: dict[str, Line] = {}
    for text in path.read_text().splitlines() if path.exists() else []:
        with suppress(ValueError, TypeError, KeyError):
            line = Line.of(json.loads(text))
            found[line.row] = line
    return found


def pending(rows: Sequence[Row], known: dict[str, Line], stamp: str) -> list[Row]:
    """Return the rows that are to be measured, in their order: first those of which this code and machine know nothing, then those that
    did not end well."""
    fresh = [row for row in rows if row.name not in known or known[row.name].stamp != stamp or known[row.name].ended == CUT]
    again = [row for row in rows if row not in fresh and not known[row.name].right]
    return fresh + again


class Runner:
    """Runs rows until `deadline`, by time.monotonic(): afterwards none is begun. Their lines go into `results`, what they say into
    `logs`."""

    def __init__(self, results: Path, logs: Path, stamp: str, deadline: float, show: Callable[[Line], None] = lambda line: None) -> None:
        self._results, self._logs, self._stamp, self._deadline, self._show = results, logs, stamp, deadline, show
        self._running: list[_Running] = []
        self._number = 0
        logs.mkdir(parents=True, exist_ok=True)
        _mend_end(results)

    def run(self, rows: Sequence[Row]) -> list[str]:
        """Run them in their order; return the names of those that are left for want of time."""
        waiting, cut = list(rows), list[str]()
        try:
            while self._running or (waiting and time.monotonic() < self._deadline):
                while waiting and time.monotonic() < self._deadline and self._may_begin(waiting[0]):
                    self._begin(waiting.pop(0))
                cut += [line.row for line in self._ended() if line.ended == CUT]
        finally:  # also where somebody stops this process
            for running in self._running:
                running.kill()
        return cut + [row.name for row in waiting]

    def _may_begin(self, row: Row) -> bool:
        if not self._running:
            return True
        return row.together and all(one.row.together for one in self._running) and len(self._running) < _AT_ONCE

    def _begin(self, row: Row) -> None:
        tell(row.name)
        self._number += 1
        place = self._logs / f"{self._number:02d}"
        self._running.append(_Running(row, place, min(time.monotonic() + row.limit_s, self._deadline + _GRACE_S)))

    def _ended(self) -> list[Line]:
        """Wait for the next row that ends or has used up its time; return the lines of all such, which are written."""
        until = min(running.deadline for running in self._running)
        wait([running.process.sentinel for running in self._running], timeout=max(0.0, until - time.monotonic()))
        over = [one for one in self._running if not one.process.is_alive() or time.monotonic() >= one.deadline]
        lines = [one.line(self._stamp) for one in over]
        self._running = [one for one in self._running if one not in over]
        for line in lines:
            _append(self._results, line)
            self._show(line)
        return lines


class _Running:
    """A row under way. Its process is the first of a group, which is ended as a whole."""

    def __init__(self, row: Row, place: Path, deadline: float) -> None:
        self.row, self.deadline, self._started = row, deadline, time.monotonic()
        self._outcome, self._log = place.with_suffix(".json"), place.with_suffix(".log")
        self.process: Any = multiprocessing.get_context("fork").Process(target=_measure, args=(row, self._outcome, self._log))
        self.process.start()

    def line(self, stamp: str) -> Line:
        """End what is left of it; return what became of it."""
        in_time = not self.process.is_alive()
        self.kill()
        seconds = round(time.monotonic() - self._started, 1)
        if in_time and self._outcome.exists():
            content = json.loads(self._outcome.read_text())
            return Line.of({"row": self.row.name, "stamp": stamp, "seconds": seconds, **content})
        return Line(self.row.name, stamp, self._why(in_time, seconds), seconds)

    def _why(self, in_time: bool, seconds: float) -> str:
        if not in_time and seconds < self.row.limit_s:
            return CUT
        said = self._log.read_text(errors="replace").splitlines()[-_LAST_LINES:] if self._log.exists() else []
        what = f"its process ended with {self.process.exitcode}" if in_time else f"not over after {self.row.limit_s:g} s"
        return " / ".join([what, *(text.strip()[:160] for text in said if text.strip())])

    def kill(self) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        with suppress(ProcessLookupError):  # it may not have made its group yet
            self.process.kill()
        self.process.join()


def _measure(row: Row, outcome: Path, log: Path) -> None:
    """In the process of its own: make the row, and put what is found into `outcome`, whole or not at all."""
    os.setpgid(0, 0)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    said = os.open(log, os.O_CREAT | os.O_WRONLY | os.O_TRUNC)
    os.dup2(said, 1)
    os.dup2(said, 2)
    sys.stdout = sys.stderr = os.fdopen(said, "w", buffering=1)  # whatever they were
    code = 1
    try:
        made, why = _made(row)
        checks, figures = ([asdict(one) for one in made if isinstance(one, kind)] for kind in (Check, Figure))
        new = outcome.with_suffix(".new")
        new.write_text(json.dumps({"ended": why, "checks": checks, "figures": figures}))
        new.replace(outcome)
        code = 0
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)  # teardown of a device may hang


def _made(row: Row) -> tuple[Sequence[Check | Figure], str]:
    from tests.benchmarks.cuda_rows import one_line

    try:
        return row.make(), DONE
    except BaseException as error:
        traceback.print_exc()
        return (), f"it raises {one_line(error)}"


def _append(path: Path, line: Line) -> None:
    with path.open("a") as file:
        file.write(line.text())
        file.flush()
        os.fsync(file.fileno())


def _mend_end(path: Path) -> None:
    """End a line that a cut has torn, so that the next one is whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.exists() and not path.read_bytes().endswith(b"\n") and path.stat().st_size:
        with path.open("a") as file:
            file.write("\n")
