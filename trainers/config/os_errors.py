"""Owns what the operating system's refusals mean for a person: what is in the way, whose it is, what to ask for. Must not touch files.

The programs of both packages print it in place of a traceback: a folder that may not be written in is no fault of the program.
"""

from __future__ import annotations

import errno
import os
import pwd
import sqlite3
import stat
from pathlib import Path
from typing import NamedTuple

_ENDS_HERE = frozenset({errno.EBADF, errno.ECHILD, errno.EFAULT, errno.ENOTSOCK, errno.EINVAL, errno.ENOEXEC, errno.EDEADLK})
"""Without a file's name these are mistakes of a program, not of a person or a machine."""
_FULL = {errno.ENOSPC: "there is no space left on the device", errno.EDQUOT: "the disk quota is used up"}
_SITE_FAULTS = frozenset(
    {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.ESTALE, errno.EREMOTEIO, errno.ENODEV, errno.ENXIO, errno.ENOTCONN}
    | {errno.EACCES, errno.EPERM, errno.EFBIG, errno.ETIMEDOUT, errno.ENOMEDIUM}
)
"""What a disk says that is full, used up, taken away or broken, or that an account has lost: it may be there again later."""


class Refusal(NamedTuple):
    """What is wrong, in a line, and what helps."""

    message: str
    hint: str = ""
    owner: str = ""
    """Whose it is, where that is why."""


def explain(error: OSError) -> Refusal | None:
    """Return what an error of the operating system means; None where only a mistake in the program leads to it."""
    names = [os.fsdecode(name) for name in (error.filename, error.filename2) if isinstance(name, (str, bytes, os.PathLike))]
    if error.errno is None or (error.errno in _ENDS_HERE and not names):
        return None
    if not names:
        return _without_name(error)
    if error.errno in (errno.EACCES, errno.EPERM):
        return _not_permitted(Path(names[-1]) if len(names) > 1 and _readable(Path(names[0])) else Path(names[0]))
    return _named(error, Path(names[0]))


def is_site_fault(error: BaseException) -> bool:
    """Return whether an error, or one that led to it, is a disk's refusal and no mistake of a program."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and cause.errno in _SITE_FAULTS:
            return True
        if isinstance(cause, sqlite3.OperationalError):
            return any(words in str(cause) for words in ("disk", "readonly", "unable to open"))
        cause = cause.__cause__ or cause.__context__
    return False


def not_readable(path: Path) -> Refusal | None:
    """Return whose a file or folder is that is there and cannot be read; None where it can be, or is not there."""
    try:
        found = path.stat()
    except PermissionError:
        return _not_permitted(path)
    except OSError:
        return None
    needed = os.R_OK | (os.X_OK if stat.S_ISDIR(found.st_mode) else 0)
    return None if os.access(path, needed) else _not_permitted(path)


def owner_of(path: Path) -> str:
    """Return the name of the account whose a file is; its number where it has none here. OSError where that cannot be seen."""
    number = path.lstat().st_uid
    try:
        return pwd.getpwuid(number).pw_name
    except KeyError:
        return f"user {number}"


def _without_name(error: OSError) -> Refusal:
    if error.errno == errno.ENOENT and not _there(Path()):
        return Refusal("the working directory does not exist any more", "cd into a folder that does")
    words = _FULL.get(error.errno or 0) or error.strerror or str(error)
    return Refusal(f"the operating system refuses: {words}", "make room, or write elsewhere" if error.errno in _FULL else "")


def _named(error: OSError, path: Path) -> Refusal:
    code = error.errno or 0
    if code in (errno.ENOENT, errno.EEXIST) and (dangling := _dangling(path)) is not None:
        return dangling
    if code == errno.ENOENT:
        return _missing(path)
    if code == errno.ENAMETOOLONG:
        return Refusal(f"the name is too long for this file system: {_short(path)}", "choose a shorter one")
    if code == errno.ENOTDIR:
        return Refusal(f"{_file_in_the_way(path)} is a file, where {path} needs a folder", "move it away, or choose another folder")
    if code == errno.EEXIST and path.is_file():
        return Refusal(f"{path} is a file that exists already", "choose another name, or move it away")
    if code in (errno.EISDIR, errno.EEXIST, errno.ENOTEMPTY):
        what = "is a folder" if os.path.isdir(path) else "exists already"  # noqa: PTH112
        return Refusal(f"{path} {what}", "choose another name, or move it away")
    if code == errno.EROFS:
        return Refusal(f"{path} is on a file system that can only be read", "choose another folder")
    if code == errno.ELOOP:
        return Refusal(f"{path} is a link that leads back to itself", "mend the link")
    if code in _FULL:
        return Refusal(f"{path} cannot be written: {_FULL[code]}", "make room, or choose another folder")
    return Refusal(f"{path}: {error.strerror or error}", "")


def _dangling(path: Path) -> Refusal | None:
    """Return which link on the way to a path leads nowhere."""
    part = next((part for part in [*reversed(path.parents), path] if _is_link(part) and not _there(part)), None)
    return None if part is None else Refusal(f"{part} is a link to {part.readlink()}, which does not exist", "mend the link")


def _missing(path: Path) -> Refusal:
    folder = next((part for part in reversed(path.parents) if not _there(part)), None)
    return Refusal(f"{folder or path} does not exist", "" if folder is None else f"it is needed for {path}")


def _not_permitted(path: Path) -> Refusal:
    """Name the first folder on the way that lets nobody else in, else the file itself, and its owner."""
    barrier = _barrier(path)
    try:
        mode, mine, owner = stat.filemode(barrier.stat().st_mode), barrier.stat().st_uid == os.geteuid(), owner_of(barrier)
    except OSError:
        return Refusal(f"{path}: permission denied", "choose a folder that is yours")
    verb = "read" if not _readable(barrier) else "written" if barrier.is_file() else "written in"
    for_that = "" if barrier == path else f" (for {path})"
    if mine:
        flag = "u+rwX" if verb == "read" else "u+wX"
        return Refusal(f"{barrier} may not be {verb}: its mode is {mode}{for_that}", f"chmod {flag} {barrier}, or choose another folder")
    ask = f"ask {owner} to open it to you (chmod -R g+rX {barrier})" if verb == "read" else "choose a folder that is yours"
    return Refusal(f"{barrier} is {owner}'s ({mode}) and may not be {verb} by you{for_that}", ask, owner)


def _barrier(path: Path) -> Path:
    """Return the first thing on the way to a path that cannot be entered, the path itself, or the folder that it would be made in."""
    whole = Path(os.path.abspath(path))  # noqa: PTH100  resolving would need the permission that is missing
    last = whole
    for part in [*reversed(whole.parents), whole]:
        try:
            found = part.stat()
        except OSError:
            return last
        last = part
        if stat.S_ISDIR(found.st_mode) and not os.access(part, os.X_OK):
            return part
    if os.access(whole, os.R_OK | os.W_OK) or (whole.is_file() and os.access(whole, os.R_OK) and not os.access(whole.parent, os.W_OK)):
        return whole.parent
    return whole


def _readable(path: Path) -> bool:
    return os.access(path, os.R_OK | (os.X_OK if os.path.isdir(path) else 0))  # noqa: PTH112


def _file_in_the_way(path: Path) -> Path:
    return next((part for part in reversed(path.parents) if _there(part) and not os.path.isdir(part)), path)  # noqa: PTH112


def _there(path: Path) -> bool:
    return os.path.exists(path)  # noqa: PTH110  it says no where pathlib raises


def _is_link(path: Path) -> bool:
    return os.path.islink(path)  # noqa: PTH114


def _short(path: Path) -> str:
    longest = max(path.parts, key=len, default="")
    return f"{longest[:40]}... ({len(os.fsencode(longest))} bytes)"
