"""Owns reading text that people wrote, the same way for captions, lists and prompts: UTF-8, any line ends, a byte-order mark or none.

Must not know what the lines say. A line ends at a line feed alone: U+2028, U+0085, a form feed are characters of it. Bytes that are not
UTF-8 are kept as surrogates, so that one of them spoils one entry and not the list.
"""

from __future__ import annotations

import codecs
from pathlib import Path

from ..errors import UserError
from .entries import Rejected

_UTF16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
_HEAD = 1024


def read(path: Path) -> str:
    """Return the text of a list, with line feeds at the ends of lines; UserError where it cannot be read, or is UTF-16 or no text."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error
    if data.startswith(_UTF16) or b"\0" in data[:_HEAD]:
        kind = "it is UTF-16" if data.startswith(_UTF16) else "it has NUL bytes, as UTF-16 has"
        raise UserError(f"{path} is not UTF-8 text: {kind}", f"iconv -f UTF-16 -t UTF-8 {path.name} > new-{path.name}")
    return _unified(data.decode("utf-8-sig", "surrogateescape"))


def read_caption(path: Path) -> tuple[str, Rejected | None]:
    """Return the text of a file beside a clip, and why it cannot be used, if so."""
    try:
        data = path.read_bytes()
    except OSError as error:
        return "", Rejected("unreadable", f"its caption {path.name} cannot be read: {error.strerror}")
    if data.startswith(_UTF16):
        return "", Rejected("not_utf8", f"its caption {path.name} is UTF-16, not UTF-8 text")
    return _unified(data.decode("utf-8-sig", "surrogateescape")).strip(), None


def lines(text: str) -> list[str]:
    """Return the lines without space around them; blank ones at the end are left out, others are not, so that a line keeps its number."""
    return [line.strip("\ufeff").strip() for line in text.rstrip().split("\n")] if text.strip() else []


def _unified(text: str) -> str:
    text = text.replace("\r\n", "\n")
    return text if "\n" in text else text.replace("\r", "\n")  # the line ends of old Macs
