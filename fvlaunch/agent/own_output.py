"""Owns what an agent prints to the job's own output. Must not fail, nor lose a line: that file lies on the disk of the records.

What cannot be printed is kept, and comes before the next line that can.
"""

from __future__ import annotations

import os

_MOST_BYTES = 65536
_kept = b""


def say(text: str) -> None:
    """Print a line of the agent's."""
    global _kept
    _kept = (_kept + f"agent: {text}\n".encode("utf-8", errors="backslashreplace"))[-_MOST_BYTES:]
    catch_up()


def catch_up() -> None:
    """Print what could not be printed yet, as far as there is room."""
    global _kept
    try:
        while _kept:
            _kept = _kept[os.write(2, _kept) :]
    except OSError:
        return
