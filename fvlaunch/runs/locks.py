"""Owns locks in a run's or a pipeline's folder: the kernel's where the file system has them, else a file that names its holder.

Where nothing can be written (a full disk, a read-only mount) the lock is held on what is there: nobody is kept from ending a job.
The kernel gives a lock back when its process ends. A file stays, so one whose holder is gone is taken away by whoever comes next.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import time
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from ..errors import FvlaunchError
from ..schedulers.local_process import host_identity, local_job_id, local_pid

_NOT_WRITABLE = (errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.ESTALE)
FOREIGN_S = 3600.0
"""A file of another machine's process, of which nothing can be said here, counts for so long."""
_UNNAMED_S = 60.0
"""One that does not name its holder (it was killed just then) counts for so long."""


@contextlib.contextmanager
def held(path: Path, wait_s: float, busy: FvlaunchError) -> Iterator[None]:
    """Hold the lock `path`; `busy` is raised where somebody else has it for all of `wait_s` seconds."""
    with contextlib.ExitStack() as stack:
        kernel = FileLock(path, mode=0o600)
        try:
            kernel.acquire(timeout=wait_s)
            stack.callback(kernel.release)
        except Timeout:
            raise busy from None
        except NotImplementedError:  # a file system without flock
            marker = _marked(Path(f"{path}.soft"), wait_s, busy)
            stack.callback(marker.unlink, missing_ok=True)
        except OSError as error:
            if error.errno not in _NOT_WRITABLE:
                raise
            stack.callback(os.close, _without_writing(path, wait_s, busy))
        yield


def _without_writing(path: Path, wait_s: float, busy: FvlaunchError) -> int:
    """Lock the file that is there, or else its folder, without opening anything for writing; the descriptor holds the lock.

    Not held where the file system takes no lock that way (NFS): who cannot write has nothing to guard but the order of commands.
    """
    descriptor = os.open(path if path.is_file() else path.parent, os.O_RDONLY | os.O_CLOEXEC)
    until = time.monotonic() + wait_s
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return descriptor
        except BlockingIOError:
            if time.monotonic() >= until:
                os.close(descriptor)
                raise busy from None
        except OSError:
            return descriptor
        time.sleep(0.05)


def _marked(marker: Path, wait_s: float, busy: FvlaunchError) -> Path:
    """Make the file that says who holds the lock; at once, or when whoever has made it takes it away or is gone."""
    until = time.monotonic() + wait_s
    while True:
        try:
            descriptor = os.open(marker, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
        except FileExistsError:
            _take_away_if_left(marker)
        else:
            with os.fdopen(descriptor, "w") as file:
                file.write(f"{host_identity()} {local_job_id(os.getpid())}")
            return marker
        if time.monotonic() >= until:
            raise busy
        time.sleep(0.05)


def _take_away_if_left(marker: Path) -> None:
    """By rename, so that of two who find it only one does; a lock that was made anew meanwhile is put back."""
    holder = _holder(marker)
    if not _is_gone(marker, holder):
        return
    aside = marker.with_name(f"{marker.name}.{os.getpid()}")
    with contextlib.suppress(OSError):
        marker.rename(aside)
        if _holder(aside) != holder and not marker.exists():
            aside.rename(marker)
        aside.unlink(missing_ok=True)


def _holder(marker: Path) -> str:
    try:
        return marker.read_text()
    except OSError:
        return ""


def _is_gone(marker: Path, holder: str) -> bool:
    host, _, process = holder.partition(" ")
    try:
        age_s = time.time() - marker.stat().st_mtime
    except OSError:
        return False  # taken away already
    if not process:
        return age_s > _UNNAMED_S
    if host.split("/")[0] != host_identity().split("/")[0]:
        return age_s > FOREIGN_S
    return host != host_identity() or local_pid(process) is None
