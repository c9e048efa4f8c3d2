"""Owns secrets: a profile names them, their values come from the environment or from a file that only their owner can read.

A value is never written down: not into a script, run.yaml, a record or a message. `redact` takes it out of text that others made.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from ..errors import FvlaunchError

_SHORTEST = 6
"""A shorter value would be found in words that have nothing to do with it."""
_MOST_BYTES = 65536
_PIECE = 1 << 22
HIDDEN = "[secret]"


def file(name: str) -> Path:
    """Return the file in which a secret's value may lie: ~/.config/fvlaunch/secrets/NAME."""
    base = os.environ.get("XDG_CONFIG_HOME")
    return (Path(base) if base else Path.home() / ".config") / "fvlaunch" / "secrets" / name


def where(name: str) -> str | None:
    """Say in words where a secret is set; None where it is nowhere. FvlaunchError where its file can be read by others."""
    if os.environ.get(name):
        return "in the environment"
    return f"in {file(name)}" if _read(name) is not None else None


def values(names: Iterable[str]) -> dict[str, str]:
    """Return the values of those secrets that are set: the environment's, else the file's."""
    texts = {name: os.environ.get(name) or _read(name) for name in names}
    return {name: value for name, value in texts.items() if value}


def redact(text: str, secrets: Mapping[str, str]) -> str:
    """Return the text without any of these values, the longest first: one may be part of another."""
    for value in sorted(secrets.values(), key=len, reverse=True):
        if len(value) >= _SHORTEST:
            text = text.replace(value, HIDDEN)
    return text


def redacted(value: Any, secrets: Mapping[str, str]) -> Any:
    """Return nested data with the values taken out of every text."""
    if isinstance(value, str):
        return redact(value, secrets)
    if isinstance(value, dict):
        return {key: redacted(item, secrets) for key, item in value.items()}
    return type(value)(redacted(item, secrets) for item in value) if isinstance(value, (list, tuple)) else value


def mask(path: Path, secrets: Mapping[str, str]) -> None:
    """Overwrite the values in a file that a program wrote, in place and as long as they were: whoever reads along stays where he is.

    A file that cannot be changed is left as it is: this is the last line of defence, not the first.
    """
    encoded = sorted((value.encode() for value in secrets.values() if len(value) >= _SHORTEST), key=len, reverse=True)
    with suppress(OSError):
        if encoded and path.is_file() and not path.is_symlink():
            with path.open("r+b", buffering=0) as opened:
                for value in encoded:
                    _mask(opened.fileno(), value)


def _mask(handle: int, value: bytes) -> None:
    """Overwrite a value piece by piece, each with the beginning of the next: it may lie across.

    Not through a mapping: where the disk takes no write, that would kill the process.
    """
    at = 0
    while piece := os.pread(handle, _PIECE + len(value) - 1, at):
        if value in piece:
            os.pwrite(handle, piece.replace(value, b"*" * len(value)), at)
        at += _PIECE


def _read(name: str) -> str | None:
    path = file(name)
    try:
        handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise FvlaunchError(f"{path} cannot be read: {error.strerror}", hint=f"it holds the value of {name}") from None
    try:
        status = os.fstat(handle)
        if not stat.S_ISREG(status.st_mode) or status.st_uid != os.geteuid() or status.st_mode & 0o077:
            raise FvlaunchError(f"{path} is not a file that only you can read", hint=f"chmod 600 {path}")
        text = os.read(handle, _MOST_BYTES).decode("utf-8", "replace").strip()
    finally:
        os.close(handle)
    if "\n" in text or "\0" in text:
        raise FvlaunchError(f"{path} holds more than one line", hint=f"the value of {name}, and nothing else")
    return text or None
