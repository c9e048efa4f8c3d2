"""Owns the loader processes: how they start, which signals they ignore, how their errors come back. Must not know what they load.

They are spawned, not forked: a rank has threads and sockets by the time it loads data, and a forked copy of the sockets would keep
the connections to other ranks open after the rank has died.
"""

from __future__ import annotations

import atexit
import ctypes
import multiprocessing
import os
import signal
import weakref
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from multiprocessing import resource_tracker
from multiprocessing.process import BaseProcess
from typing import Any, TypeVar

import torch
from torch.utils.data import DataLoader, Dataset

from ..errors import UserError

Batch = TypeVar("Batch")

_PREFETCH = 4
"""Items that each process has ready."""
_FOR_THE_RANK = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2)
"""A notice that is sent to the whole process group is for the rank, which still needs its loader to finish the step."""


def load(dataset: Dataset[Batch], keys: Iterable[Any], *, workers: int) -> Iterator[Batch]:
    """dataset[key] for each key, in order. Processes start now; dropping the iterator ends them.

    To be called in the main thread: the processes die with the thread that started them.
    """
    options: dict[str, Any] = {}
    if workers:
        options = {
            "num_workers": workers,
            "multiprocessing_context": "spawn",
            "prefetch_factor": _PREFETCH,
            "worker_init_fn": _Started(os.getpid()),
        }
    # its own generator: the loader draws a seed, and taking it from the global one would change the run's numbers
    generator = torch.Generator().manual_seed(0)
    loader = DataLoader(_Caught(dataset), batch_size=None, sampler=keys, collate_fn=_as_is, generator=generator, **options)
    return _Loading(loader)


class _Loading(Iterator[Any]):
    """A DataLoader's iterator whose processes are surely gone when the rank exits.

    multiprocessing ends its daemons at exit by SIGTERM and then waits for them, which would be for ever: they ignore it.
    """

    def __init__(self, loader: DataLoader[Any]) -> None:
        others = set(multiprocessing.active_children())
        resource_tracker.ensure_running()  # it would unblock SIGTERM when it starts
        with _blocked(_FOR_THE_RANK):
            self._iterator: Iterator[Any] = iter(loader)
        _processes.update(set(multiprocessing.active_children()) - others)

    def __next__(self) -> Any:
        item = next(self._iterator)
        if isinstance(item, UserError):
            self._iterator = iter(())  # ends the processes
            raise item
        return item


_processes: weakref.WeakSet[BaseProcess] = weakref.WeakSet()


@atexit.register  # runs before multiprocessing's own, which was registered when torch was imported above
def _end_all() -> None:
    alive = [process for process in _processes if process.is_alive()]
    if alive:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # torch's handler would call it a failure
    for process in alive:  # they only read: nothing is lost, and asking them to end takes seconds
        process.kill()


def _as_is(item: Any) -> Any:
    return item


class _Caught(Dataset[Any]):
    """Hands back a UserError as if it were an item: raised in a process of its own it would come back as a page of traceback."""

    def __init__(self, dataset: Dataset[Any]) -> None:
        self._dataset = dataset

    def __getitem__(self, key: Any) -> Any:
        try:
            return self._dataset[key]
        except UserError as error:
            return error.with_traceback(None)


class _Started:
    """Runs first in each loader process, which was started with the rank's signals blocked."""

    def __init__(self, parent: int) -> None:
        self._parent = parent

    def __call__(self, _worker: int) -> None:
        for number in _FOR_THE_RANK:
            signal.signal(number, signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _FOR_THE_RANK)
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG: never outlive the rank
        if os.getppid() != self._parent:
            os._exit(1)


@contextmanager
def _blocked(signals: Iterable[signal.Signals]) -> Iterator[None]:
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
