"""Owns the simulated device from within the process that believes in it: launches, copies, and where the host waits.

Must not know what is run on it.
"""

from __future__ import annotations

import ctypes
import os
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from tests.gpu import waits
from tests.gpu.figures import Wait
from tests.support.paths import ROOT

_Hook = ctypes.CFUNCTYPE(None, ctypes.c_char_p)
_FOREIGN = (sys.prefix, sys.base_prefix, str(Path(__file__).parent), "<")
"""How the paths of code begin that is neither the trainers' nor a user's."""


class Device:
    """The library that stands for libcuda in this process."""

    def __init__(self) -> None:
        self._library = ctypes.CDLL(os.environ["LD_PRELOAD"])
        self._library.simulated_launches.restype = ctypes.c_size_t
        self._library.simulated_on_wait.argtypes = [_Hook]
        self._hook = _Hook(self._waited)  # kept here: ctypes does not
        self._waits: Counter[tuple[str, str, str]] | None = None
        self._library.simulated_on_wait(self._hook)

    @property
    def launches(self) -> int:
        """The number of kernels since `clear`."""
        return int(self._library.simulated_launches())

    def clear(self) -> None:
        self._library.simulated_clear()

    @property
    def copied(self) -> int:
        """The bytes of copy calls since `clear`."""
        return sum(bytes_ for kind, what, _, bytes_ in self.report() if kind == "call" and what.startswith("copy"))

    def report(self) -> list[tuple[str, str, int, int]]:
        """Return ("call" or "kernel", its name, how often, bytes) since `clear`."""
        with tempfile.NamedTemporaryFile() as file:
            self._library.simulated_report(file.name.encode())
            lines = [line.split("\t") for line in Path(file.name).read_text().splitlines()]
        return [(kind, name, int(times), int(size)) for kind, name, times, size in lines]

    @contextmanager
    def noting_waits(self) -> Iterator[list[Wait]]:
        """Note where the host waits inside; the list that is yielded is filled at the end."""
        noted: list[Wait] = []
        self._waits = found = Counter()
        try:
            yield noted
        finally:
            self._waits = None
            for (file, place, what), times in sorted(found.items()):
                noted.append(Wait(f"{file}:{place}", what, times, waits.reason(file, place.partition(" ")[2])))

    def _waited(self, what: bytes) -> None:
        """Note the place of a wait. Called in the thread that waits, by whatever made it wait."""
        if self._waits is not None:
            self._waits[(*_place(sys._getframe()), what.decode())] += 1


def _place(frame: FrameType | None) -> tuple[str, str]:
    """Return (file, "LINE FUNCTION") of the innermost frame in the trainers or a user's code."""
    while frame is not None and frame.f_code.co_filename.startswith(_FOREIGN):
        frame = frame.f_back
    if frame is None:
        return "a thread of the backward pass", "0 in no code of the trainers"
    return frame.f_code.co_filename.removeprefix(str(ROOT) + os.sep), f"{frame.f_lineno} {frame.f_code.co_name}"
