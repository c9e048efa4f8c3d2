"""Owns how processes that a rank needs are started, and what they have in common: they end with it, and signals for it do not end them.

None of them looks for a module in the working directory. Must not know what the processes work on. Must not import torch.
"""

from __future__ import annotations

import atexit
import multiprocessing.util  # its exit handler must be registered before the one below, which then runs first
import signal
import sys
import weakref
from collections.abc import Sequence
from multiprocessing.process import BaseProcess
from typing import Any

from .control import SIGNALS
from .output import outlive_full_disk

_OFF_THE_WORKING_DIRECTORY = "import sys; sys.path[:] = [part for part in sys.path if part]; "
"""Python puts the working directory first on the module path of a program that it gets with -c (as it does with -m), so that what a user
called `signal` there would be run in place of Python's own. -P forbids it, from Python 3.11 on."""
_processes: weakref.WeakSet[BaseProcess] = weakref.WeakSet()
_spawn = multiprocessing.util.spawnv_passfds


def module_command(module: str, *arguments: str) -> list[str]:
    """Return the command that runs a module as `python -m` does, from this process' own code: never from the working directory."""
    program = "name = sys.argv.pop(1); import runpy; runpy.run_module(name, run_name='__main__', alter_sys=True)"
    return [sys.executable, "-c", _OFF_THE_WORKING_DIRECTORY + program, module, *arguments]


def _spawn_off_the_working_directory(path: bytes, args: Sequence[Any], passfds: Sequence[int]) -> int:
    """Start one of multiprocessing's own programs (a worker, its fork server, its resource tracker), all of which it starts with -c."""
    given = list(args)
    if "-c" in given:
        program = given.index("-c") + 1
        given[program] = _OFF_THE_WORKING_DIRECTORY + given[program]
    return _spawn(path, given, passfds)


multiprocessing.util.spawnv_passfds = _spawn_off_the_working_directory  # all of them go through this one; there is no option for it


def begin_as_helper() -> None:
    """Ignore the signals that are sent to the whole process group: they are for the rank, which still needs its workers to finish.

    Nor does a log that cannot be written end any of them.
    """
    outlive_full_disk()
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
