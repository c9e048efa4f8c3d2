"""Owns MANIFEST.json, which makes a folder of shards a checkpoint: size and digest of every file, and where it came from.

Must not import torch, choose between checkpoints, or rename or delete anything (store.py does). A reader has to tell "these bytes are
wrong" (then the checkpoint is put aside) from "these bytes cannot be read now" (an OSError, which proves nothing).
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ..config.stored_json import NotAFile, read_file
from ..files import FileEntry, digest_file, fsync_path
from .step_names import step_name

MANIFEST = "MANIFEST.json"
METADATA = ".metadata"
FORMAT = 1
REREAD_AFTER_S = 0.25
"""Seconds between a bad first reading and the second, which decides: a network file system may have shown an old page."""


class BadManifest(Exception):
    """A manifest that is there and wrong."""


class NewerFormat(Exception):
    """A manifest that a later version of this program wrote: not damaged, but this version cannot judge it."""


@dataclass(frozen=True)
class Manifest:
    """The record that makes a folder a checkpoint; `facts` decide whether a resume is bitwise (threads, CPU capability, device,
    versions)."""

    step: int
    world_size: int
    config_digest: str
    facts: dict[str, Any]
    files: dict[str, FileEntry]


def write(folder: Path, manifest: Manifest) -> None:
    """Write the manifest; when this returns, it and the folder's entries survive a power cut."""
    content = {"format": FORMAT, "algorithm": "blake2b-256", **asdict(manifest)}
    with (folder / MANIFEST).open("x") as stream:
        json.dump({**content, "self": _self_digest(content)}, stream, indent=1)
        stream.flush()
        os.fsync(stream.fileno())
    fsync_path(folder)


def read(folder: Path) -> Manifest:
    """Return the folder's manifest, read twice before BadManifest is raised; an OSError other than for a missing file passes through."""
    try:
        return _read_once(folder)
    except BadManifest:
        _forget_cached(folder / MANIFEST)
        time.sleep(REREAD_AFTER_S)
        return _read_once(folder)


def is_complete(folder: Path) -> bool:
    """Return whether there is a sound manifest and files of the right sizes; this is cheap and says nothing about their bytes."""
    try:
        files = _read_once(folder).files
        return all((folder / name).stat().st_size == entry.size for name, entry in files.items())
    except (OSError, BadManifest, NewerFormat):
        return False


def wrong_files(folder: Path, manifest: Manifest, names: Iterable[str], tick: Callable[[int], None] = lambda _bytes: None) -> list[str]:
    """Return a line for each of `names` that is missing, or of the wrong size or digest at both of two readings."""
    wrong = []
    for name in names:
        if _problem(folder / name, manifest.files[name], tick):
            _forget_cached(folder / name)
            time.sleep(REREAD_AFTER_S)
            if problem := _problem(folder / name, manifest.files[name], tick):
                wrong.append(f"{name}: {problem}")
    return wrong


def _problem(path: Path, expected: FileEntry, tick: Callable[[int], None]) -> str:
    try:
        size = path.stat().st_size
        if size != expected.size:
            return f"{size} bytes, not {expected.size}"
        return "" if digest_file(path, tick) == expected else "wrong digest"
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        return "missing"


def _read_once(folder: Path) -> Manifest:
    try:
        raw = read_file(folder / MANIFEST)
    except (FileNotFoundError, NotADirectoryError, NotAFile):
        raise BadManifest(f"{MANIFEST}: missing") from None
    try:
        content = json.loads(raw)
        claimed = content.pop("self")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise BadManifest(f"{MANIFEST}: not a manifest") from None
    if claimed != _self_digest(content):
        raise BadManifest(f"{MANIFEST}: wrong digest")
    if content.get("format") != FORMAT:
        raise NewerFormat(f"{MANIFEST}: format {content.get('format')}, this version knows {FORMAT}")
    return _parse(folder, content)


def _parse(folder: Path, content: dict[str, Any]) -> Manifest:
    """Return the manifest of a file whose digest is right, so only a program (or a person) can have written nonsense: BadManifest."""
    try:
        files = {name: FileEntry(int(entry["size"]), str(entry["digest"])) for name, entry in content["files"].items()}
        manifest = Manifest(int(content["step"]), int(content["world_size"]), str(content["config_digest"]), dict(content["facts"]), files)
    except (KeyError, TypeError, ValueError, AttributeError):
        raise BadManifest(f"{MANIFEST}: not a manifest") from None
    if any(Path(name).name != name for name in files):  # a name that leaves the folder
        raise BadManifest(f"{MANIFEST}: a file name with a path")
    if METADATA not in files:
        raise BadManifest(f"{MANIFEST}: {METADATA} is not listed")
    if not folder.name.startswith(".") and folder.name != step_name(manifest.step):
        raise BadManifest(f"{MANIFEST}: of step {manifest.step}, in {folder.name}")
    return manifest


def _self_digest(content: dict[str, Any]) -> str:
    """Return the digest of the values, whatever the spacing: a flipped digit in `facts` is noticed too."""
    return hashlib.blake2b(json.dumps(content, sort_keys=True).encode(), digest_size=32).hexdigest()


def _forget_cached(path: Path) -> None:
    """Drop the file's cached pages where the system can, so that the second reading comes from the disk."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK)  # a pipe under its name would be waited for
    except OSError:
        return
    try:
        os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
    except OSError:
        pass
    finally:
        os.close(handle)
