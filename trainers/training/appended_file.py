"""Owns files to which records are appended on disks that may refuse at any moment: a record stands in the file whole, in order and once, or
is kept in memory.

Must not know what records say, and tells nobody: an error of the operating system is raised, and whoever catches it tries again later.
What was written counts only once it is synced: a network disk accepts bytes that it cannot store, and says so at the sync.
"""

from __future__ import annotations

import errno
import os
import threading
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

BOUND_BYTES = 64 << 20
"""How much is kept of what no disk takes: about 200,000 steps' losses."""
_NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
"""Errors after which an open file is still good; after any other one it is made anew."""

Make = Callable[[Sequence[bytes], int | None], tuple[Path, int]]
"""Makes the file anew with these records at its end, synced, and returns its path and descriptor (opened to append). The second argument is
the former descriptor, if there is one."""


class AppendedFile:
    """One such file, and the records that it lacks. `put` touches no disk; `write` and `sync` raise OSError and may be called again.

    gap: returns the record that stands for the steps of its two arguments, first to last, where more was lost than can be kept.
    last_step: the step up to which the file is whole already.
    bound: how many bytes are kept at most.
    """

    def __init__(
        self,
        make: Make,
        gap: Callable[[int, int], bytes] = lambda _first, _last: b"",
        *,
        last_step: int = 0,
        bound: int = BOUND_BYTES,
    ) -> None:
        self._make, self._gap, self._bound = make, gap, bound
        self._kept: deque[tuple[int, bytes]] = deque()  # what is not on the disk for certain: (step, record)
        self._kept_bytes, self._dropped_from = 0, 0  # the step from which the first of them is a gap; 0: it is none
        self._num_written = 0  # how many of them stand in the open file
        self._path, self._handle = Path(), -1
        self._end, self._durable = 0, 0  # sizes of the file: with all that was written, and with what was synced
        self._torn = False  # whether bytes may stand behind the end
        self._lock = threading.RLock()
        self._epoch = 0  # another one whenever the kept records are no longer what a sync in another thread has counted
        self.durable_step = last_step
        """The last step whose record is on the disk."""
        self.given_up: list[int] = []
        """The first and the last step of what was more than could be kept."""
        self.stale = False
        """Whether the file has to be made anew, because something in it is not as it should be."""

    def put(self, step: int, record: bytes) -> None:
        """Keep a record for the next `write`. Where too much is kept already, the oldest become a gap."""
        with self._lock:
            self._kept.append((step, record))
            self._kept_bytes += len(record)
            while self._kept_bytes > self._bound and len(self._kept) > 2 and not self._num_written:
                self._drop_oldest()

    def kept(self) -> list[tuple[int, bytes]]:
        """Return what is not on the disk for certain, as (step, record), without a gap."""
        with self._lock:
            return list(self._kept)[1 if self._dropped_from else 0 :]

    def write(self) -> None:
        """Write what is kept to the file; it may still be lost with the machine's power."""
        with self._lock:
            problem = self._make_if_needed()
            try:
                self._append()
            finally:
                if self._num_written and self._kept_bytes > self._bound // 2:
                    self._sync_in_place()
        if problem is not None:
            raise problem

    def sync(self) -> None:
        """Write what is kept and make it survive a power cut. The disk is waited for without the lock: other threads may go on writing."""
        with self._lock:
            problem = self._make_if_needed()
            self._append()
            handle, count, end, epoch = os.dup(self._handle), len(self._kept), self._end, self._epoch
        try:
            os.fsync(handle)
            in_place = _is_at(self._path, handle, end)
        except OSError as error:
            with self._lock:
                if epoch == self._epoch:
                    self._distrust(error)
            raise
        finally:
            os.close(handle)
        with self._lock:
            if epoch == self._epoch and in_place:
                self._settle(count, end)
            elif epoch == self._epoch:  # somebody moved, removed or cut it
                self.stale = True
                self._remake()
        if problem is not None:
            raise problem

    def close(self) -> None:
        with self._lock:
            self._forget()

    def _make_if_needed(self) -> OSError | None:
        """Make the file where it is not open, or is stale; return what prevents the latter: new records can be appended all the same."""
        if self._handle < 0:
            self._remake()
        elif self.stale:
            try:
                self._remake()
            except OSError as error:
                return error
        return None

    def _remake(self) -> None:
        former = self._handle
        self._path, self._handle = self._make([record for _, record in self._kept], former if former >= 0 else None)
        if former >= 0:
            _close(former)
        self._torn = self.stale = False
        self._settle(len(self._kept), os.fstat(self._handle).st_size)
        self._num_written, self._end = 0, self._durable

    def _append(self) -> None:
        if self._torn:
            os.ftruncate(self._handle, self._end)
            self._torn = False
        missing = b"".join(record for _, record in list(self._kept)[self._num_written :])
        self._torn = bool(missing)
        try:
            write_all(self._handle, missing)
        except OSError as error:
            with suppress(OSError):  # now, so that nobody reads half a record
                os.ftruncate(self._handle, self._end)
            if error.errno not in _NO_ROOM:
                self._forget()
            raise
        self._torn, self._end, self._num_written = False, self._end + len(missing), len(self._kept)

    def _sync_in_place(self) -> None:
        try:
            os.fsync(self._handle)
        except OSError as error:
            self._distrust(error)
            raise
        self._settle(self._num_written, self._end)

    def _settle(self, count: int, size: int) -> None:
        """Count the first `count` kept records, at which the file has this size, as on the disk."""
        self._epoch += 1
        for _ in range(count):
            self.durable_step, record = self._kept.popleft()
            self._kept_bytes -= len(record)
            self._dropped_from = 0
        self._num_written, self._durable = max(0, self._num_written - count), size

    def _distrust(self, error: OSError) -> None:
        """After a failed sync nobody knows which of the bytes since the last one are on the disk: they are written again."""
        self._epoch += 1
        self._num_written, self._end, self._torn = 0, self._durable, True
        if error.errno not in _NO_ROOM:
            self._forget()

    def _forget(self) -> None:
        if self._handle >= 0:
            _close(self._handle)
        self._handle, self._num_written = -1, 0
        self._epoch += 1

    def _drop_oldest(self) -> None:
        self._epoch += 1
        if self._dropped_from:
            self._kept_bytes -= len(self._kept.popleft()[1])
        step, record = self._kept.popleft()
        self._dropped_from = self._dropped_from or step
        self.given_up = [*self.given_up[:1], step]
        gap = self._gap(self._dropped_from, step)
        self._kept.appendleft((step, gap))
        self._kept_bytes += len(gap) - len(record)


def write_all(handle: int, data: bytes) -> None:
    """Write all of the data to an open file: a disk that gets full takes a part of it first."""
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(handle, rest) :]


def _is_at(path: Path, handle: int, size: int) -> bool:
    """Return whether a path still names the open file, and that is no shorter than it should be. OSError where that cannot be seen."""
    try:
        return os.path.samestat(path.stat(), opened := os.fstat(handle)) and opened.st_size >= size
    except FileNotFoundError:
        return False


def _close(handle: int) -> None:
    with suppress(OSError):
        os.close(handle)
