"""Owns the loader processes: how they start and end, and how items and errors come back. Must not know what they load.

They are spawned, not forked: a rank has threads and sockets by the time it loads data, and a forked copy of the sockets would keep
the connections to other ranks open after the rank has died. They import no torch (unless what they load does), so they start in a
fraction of a second and take little memory. Arrays come back through a pipe: shared memory is what containers keep small.
"""

from __future__ import annotations

import itertools
import multiprocessing
import os
import pickle
import queue
import signal
import threading
import traceback
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection
from typing import Any, Generic, Protocol, TypeVar

from ..control import SIGNALS, die_with_parent
from ..errors import UserError
from ..processes import begin_as_helper, kill_at_exit

Item = TypeVar("Item")
Loaded = TypeVar("Loaded", covariant=True)

_PREFETCH = 4
"""Number of items that each process has ready."""


class Source(Protocol[Loaded]):
    """Anything with items; picklable where processes load it."""

    def __getitem__(self, key: Any, /) -> Loaded: ...


def load(source: Source[Item], keys: Iterable[Any], *, workers: int) -> Iterator[Item]:
    """Yield source[key] for each key, in order. The processes start now; dropping the iterator ends them.

    Must be called in the main thread: the processes die with the thread that started them.
    """
    return _Loading(source, iter(keys), workers) if workers else (source[key] for key in keys)


class _Loading(Iterator[Item], Generic[Item]):
    """Gives key number k to process k modulo their number; each has `_PREFETCH` keys ahead."""

    def __init__(self, source: Source[Item], keys: Iterator[Any], workers: int) -> None:
        resource_tracker.ensure_running()  # it would unblock SIGTERM when it starts
        with _blocked(SIGNALS):
            self._workers = [_Worker(source) for _ in range(workers)]
        self._keys = keys
        self._turns = itertools.cycle(self._workers)
        for worker in self._workers * _PREFETCH:
            worker.request(self._keys)

    def __next__(self) -> Item:
        worker = next(self._turns)
        if not worker.awaited:
            self.close()
            raise StopIteration
        try:
            item: Item = worker.answer()
        except BaseException:
            self.close()
            raise
        worker.request(self._keys)
        return item

    def close(self) -> None:
        """End the processes at once: they only read, so nothing is lost."""
        self._keys = iter(())
        for worker in self._workers:
            worker.end()

    def __del__(self) -> None:
        for worker in getattr(self, "_workers", ()):
            worker.end()


class _Worker:
    """The rank's side of one process."""

    def __init__(self, source: Source[Any]) -> None:
        context = multiprocessing.get_context("spawn")
        (theirs, self._keys), (self._items, out) = context.Pipe(duplex=False), context.Pipe(duplex=False)
        self._process = context.Process(target=_serve, args=(source, theirs, out, os.getpid()), daemon=True)
        self._process.start()
        kill_at_exit(self._process)
        theirs.close()  # so that the death of the process is the end of its pipe
        out.close()
        self.awaited = 0

    def request(self, keys: Iterator[Any]) -> None:
        """Send the next key, if there is one."""
        for key in itertools.islice(keys, 1):
            with suppress(BrokenPipeError):  # it has died: raised when its answer is due
                self._keys.send(key)
            self.awaited += 1

    def answer(self) -> Any:
        """Receive the answer to the oldest key; a UserError is raised as it was raised in the process."""
        self.awaited -= 1
        try:
            item, error = receive(self._items)
        except (EOFError, OSError):
            self._process.join()
            raise RuntimeError(f"a loader process died (exit code {self._process.exitcode})") from None
        if isinstance(error, UserError):
            raise error
        if error is not None:
            raise RuntimeError(f"in a loader process:\n{error}")
        return item

    def end(self) -> None:
        self._process.kill()
        self._process.join()
        for pipe in (self._keys, self._items):
            pipe.close()


def send(pipe: Connection[Any, Any], item: Any) -> None:
    """Send an item, its arrays behind it, each as it lies in memory."""
    buffers: list[pickle.PickleBuffer] = []
    head = pickle.dumps(item, protocol=5, buffer_callback=buffers.append)
    raw = [buffer.raw() for buffer in buffers]
    pipe.send((head, [view.nbytes for view in raw]))
    for view in raw:
        if view.nbytes:
            pipe.send_bytes(view)


def receive(pipe: Connection[Any, Any]) -> Any:
    head, sizes = pipe.recv()
    buffers = [bytearray(size) for size in sizes]
    for buffer in buffers:
        if buffer:
            pipe.recv_bytes_into(buffer)
    return pickle.loads(head, buffers=buffers)


# --- the process's side


def _serve(source: Source[Any], keys: Connection[Any, Any], items: Connection[Any, Any], parent: int) -> None:
    """Answer keys until the rank closes the pipe; the process was started with the rank's signals blocked."""
    begin_as_helper()
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
    die_with_parent(parent)
    ready: queue.SimpleQueue[Any] = queue.SimpleQueue()  # holds no more items than were requested
    threading.Thread(target=_send_all, args=(ready, items), daemon=True).start()
    while True:
        try:
            key = keys.recv()
        except EOFError:
            return
        ready.put(_outcome(source, key))


def _outcome(source: Source[Any], key: Any) -> tuple[Any, UserError | str | None]:
    try:
        return source[key], None
    except UserError as error:
        return None, error.with_traceback(None)
    except Exception:
        return None, traceback.format_exc()


def _send_all(ready: queue.SimpleQueue[Any], items: Connection[Any, Any]) -> None:
    """Send answers as they get ready. A pipe holds little: the next item is loaded while this one waits to be taken."""
    while True:
        try:
            send(items, ready.get())
        except OSError:  # the rank takes no more
            return


@contextmanager
def _blocked(signals: Iterable[signal.Signals]) -> Iterator[None]:
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
