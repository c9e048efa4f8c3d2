"""Owns what worker processes of a rank have in common: signals for the rank do not end them, and they end with it.

Must not know what the processes work on. Must not import torch.
"""

from __future__ import annotations

import atexit
import multiprocessing.util  # noqa: F401  its exit handler must be registered before the one below, which then runs first
import signal
import weakref
from multiprocessing.process import BaseProcess

from .control import SIGNALS

_processes: weakref.WeakSet[BaseProcess] = weakref.WeakSet()


def ignore_rank_signals() -> None:
    """Ignore the signals that are sent to the whole process group: they are for the rank, which still needs its workers to finish."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)


def kill_at_exit(process: BaseProcess) -> None:
    """Kill the process when this one exits: multiprocessing itself sends SIGTERM, which workers ignore, and then waits for ever."""
    _processes.add(process)


@atexit.register
def _kill_all() -> None:
    for process in _processes:
        if process.is_alive():
            process.kill()
