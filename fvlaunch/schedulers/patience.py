"""Owns telling a person that a command waits for a scheduler which has not answered yet. Must not decide how long anything waits.

Agents wait too, and nobody looks at them: only the command line switches this on.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

QUIET_S = 5.0
"""So long a silence needs no word."""

tell: Callable[[str], None] | None = None
"""How a line is told; None: not at all."""


def to_stderr(line: str) -> None:
    """Write a line to stderr at once, whoever may have closed it."""
    with suppress(OSError, ValueError):
        sys.stderr.write(line + "\n")
        sys.stderr.flush()


@contextmanager
def waiting(silent: str, up_to_s: float) -> Iterator[None]:
    """Tell, once what is done inside has taken five seconds, who is silent ("Slurm has not answered squeue") and how long it waits."""
    if tell is None or up_to_s <= QUIET_S:
        yield
        return
    line = f"{silent} for {QUIET_S:g} s; waiting up to {up_to_s:.0f} s"
    timer = threading.Timer(QUIET_S, tell, [line])
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
