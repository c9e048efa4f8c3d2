"""Owns what of the Hugging Face hub is on this machine: is a model or data set there, and whole. Must not use the network or torch.

Repositories lie in the Hugging Face cache (HF_HOME moves it). One that was downloaded in part on purpose has a note beside it that
says which part, so that "incomplete" can be told from "as asked for".
"""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any, Literal

from .stored_json import read_object

Kind = Literal["model", "dataset"]
_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


class NotHere(Exception):
    """A repository that is missing, or in part; the text says what and where it is looked for."""


def is_id(reference: str) -> bool:
    """Return whether it reads like "org/name"."""
    return _ID.fullmatch(reference) is not None and "--" not in reference and ".." not in reference


def snapshot(kind: Kind, name: str, revision: str | None = None) -> Path:
    """Return the folder of a repository at a commit, branch or tag (None: the default branch as last downloaded); NotHere where it is
    missing."""
    from huggingface_hub import constants, snapshot_download
    from huggingface_hub.errors import HFValidationError, IncompleteSnapshotError, LocalEntryNotFoundError

    sought = f"{kind} {name}" if revision is None else f"{kind} {name} at revision {revision}"
    try:
        chosen = _noted(storage(kind, name), revision)
        return Path(snapshot_download(name, repo_type=kind, revision=revision, local_files_only=True, **chosen))
    except IncompleteSnapshotError:
        raise NotHere(f"the {sought} is in the Hugging Face cache ({constants.HF_HUB_CACHE}) in part only") from None
    except (LocalEntryNotFoundError, HFValidationError, FileNotFoundError):
        raise NotHere(f"the {sought} is not in the Hugging Face cache ({constants.HF_HUB_CACHE})") from None


def local_model(reference: str | None, revision: str | None = None) -> Path | None:
    """Return the folder of a model that is named as a folder or id; None for one that is not here, or is made on first use."""
    if reference is None:
        return None
    folder = Path(reference).expanduser()
    if folder.is_dir():
        return folder
    try:
        return snapshot("model", reference, revision) if is_id(reference) else None
    except (NotHere, OSError):
        return None


def storage(kind: Kind, name: str) -> Path:
    """Return the folder in which the cache keeps a repository: blobs, refs, snapshots."""
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE) / f"{kind}s--{name.replace('/', '--')}"


def note(kind: Kind, name: str, commit: str, chosen: dict[str, Any]) -> None:
    """Note, before a download, which files of the commit are chosen (allow_patterns, ignore_patterns; empty: all)."""
    _replace(storage(kind, name) / "wanted" / f"{commit}.json", json.dumps(chosen))


def point(kind: Kind, name: str, revision: str | None, commit: str) -> None:
    """Note, after a download, the commit that a branch or tag (None: the default branch) stands for from now on."""
    _replace(storage(kind, name) / "refs" / (revision or "main"), commit)


def _replace(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    temporary.write_text(text)
    temporary.rename(path)


def _noted(folder: Path, revision: str | None) -> dict[str, Any]:
    try:
        reference = folder / "refs" / (revision or "main")
        commit = reference.read_text().strip() if reference.is_file() else revision
        return read_object(folder / "wanted" / f"{commit}.json")
    except (OSError, ValueError):
        return {}
