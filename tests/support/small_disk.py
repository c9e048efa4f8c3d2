"""Owns small file systems of a test's own, which it fills up, empties, makes read-only and takes away while a run writes on them.

Must not touch a file system that others use: what is mounted here is mounted in the test's folder, and taken away at its end.
An ordinary user may not mount: the tests skip, and say how to run them (`unshare -rm`, a user and mount namespace).
"""

from __future__ import annotations

import contextlib
import ctypes
import ctypes.util
import os
import platform
import struct
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.disk import fill

SKIPPED = "NO SMALL DISK HERE, so nothing is tested on a full one: mounting needs root, or a namespace (unshare -rm tests/run)"


class SmallDisk:
    """A tmpfs of a few megabytes at `path`. Writes by path and through files that are open already fail as on any full disk."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._filler = path / ".filler"
        self._covered = 0

    def fill(self, *, leave: int = 0) -> None:
        """Take all the room, or all but `leave` bytes. What has blocks already may still be overwritten, up to its last page."""
        fill(self._filler)
        if leave:
            os.truncate(self._filler, max(0, self._filler.stat().st_size - leave))

    def empty(self) -> None:
        """Give the room back."""
        self._filler.unlink(missing_ok=True)

    def read_only(self) -> None:
        """Let nobody open a file for writing. Who has one open goes on with it: the kernel makes no busy file system read-only at once."""
        _run("mount", "--bind", str(self.path), str(self.path))
        self._covered += 1
        _run("mount", "-o", "remount,bind,ro", str(self.path))

    def gone(self) -> None:
        """Hide all that is in it behind an empty file system, as where a share is not mounted."""
        _run("mount", "-t", "tmpfs", "-o", "size=4k,ro", "tmpfs", str(self.path))
        self._covered += 1

    def back(self) -> None:
        """Undo `read_only` and `gone`."""
        while self._covered:
            _run("umount", "--lazy", str(self.path))
            self._covered -= 1


@contextlib.contextmanager
def small_disk(folder: Path, *, kb: int = 2048, inodes: int = 0) -> Iterator[SmallDisk]:
    """Mount a disk of so many kilobytes at a folder, made if need be. `inodes`: so many files and folders at most; 0: no such limit.

    Skips where this process may not mount, unless FVLAUNCH_REQUIRE_MOUNT=1: then that is a failure.
    """
    folder.mkdir(parents=True, exist_ok=True)
    options = f"size={kb}k,mode=0700,nr_inodes={inodes}"
    made = subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)], capture_output=True, text=True, check=False)
    if made.returncode:
        reason = f"{SKIPPED}: {made.stderr.strip()}"
        if os.environ.get("FVLAUNCH_REQUIRE_MOUNT") == "1":
            pytest.fail(reason, pytrace=False)
        pytest.skip(reason)
    disk = SmallDisk(folder)
    try:
        yield disk
    finally:
        disk.back()
        subprocess.run(["umount", "--lazy", str(folder)], check=False)


def refusing_writes(code: int) -> Callable[[], None]:
    """Return a `preexec_fn` after which the kernel refuses, with the error number `code`, to open any file that may have to be made.

    A seccomp filter: for the errors that no disk here can be made to give (EIO, ESTALE, EDQUOT), and it needs no privilege. What the
    process and its children have open already, pipes and terminals go on.
    """
    program = _filter_of_opens(code)
    libc = ctypes.CDLL(ctypes.util.find_library("c"), use_errno=True)

    def install() -> None:
        if libc.prctl(38, 1, 0, 0, 0) or libc.prctl(22, 2, ctypes.byref(program)):  # PR_SET_NO_NEW_PRIVS, PR_SET_SECCOMP
            os._exit(99)

    return install


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_void_p))


_NUMBERS = {"x86_64": {"open": 2, "creat": 85, "openat": 257}, "aarch64": {"openat": 56}}
_LOAD, _EQUAL, _ANY_BIT, _RETURN = 0x20, 0x15, 0x45, 0x06
_NUMBER_AT, _ARGUMENTS_AT = 0, 16
"""Of `struct seccomp_data`: the system call's number, and its arguments, eight bytes each."""


def _filter_of_opens(code: int) -> _Program:
    """Return the filter: open and openat that may make a file, and creat, give `code`."""
    refuse, allow = 0x00050000 | code, 0x7FFF0000
    flags_of = {"open": 1, "openat": 2}
    lines: list[bytes] = []
    for name, number in _NUMBERS[platform.machine()].items():
        lines.append(_line(_LOAD, _NUMBER_AT))
        if name in flags_of:
            lines += [
                _line(_EQUAL, number, 0, 3),
                _line(_LOAD, _ARGUMENTS_AT + 8 * flags_of[name]),
                _line(_ANY_BIT, os.O_CREAT, 0, 1),
                _line(_RETURN, refuse),
            ]
        else:
            lines += [_line(_EQUAL, number, 0, 1), _line(_RETURN, refuse)]
    lines.append(_line(_RETURN, allow))
    program = _Program(len(lines), None)
    program.lines = ctypes.create_string_buffer(b"".join(lines))  # type: ignore[attr-defined]  # kept as long as the program
    program.filter = ctypes.addressof(program.lines)  # type: ignore[attr-defined]
    return program


def _line(code: int, value: int, if_true: int = 0, if_false: int = 0) -> bytes:
    """Return an instruction of a filter: jumps count lines from the next one on."""
    return struct.pack("HBBI", code, if_true, if_false, value)


def _run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True)
