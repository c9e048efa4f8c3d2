"""Owns where a model's files are on this machine: a folder, the Hugging Face cache, or the tiny Wan. Must never go to the network."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

from ..errors import UserError
from . import tiny

_TINY = {"tiny-wan": 1, "tiny-wan-a14b": 2}
"""Experts of each."""
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


def resolve(reference: str, revision: str | None = None) -> Path:
    """The local folder of a model that is written as a folder, as "tiny-wan" or "tiny-wan-a14b", or as a hub id "org/name".

    A hub id is looked up in the Hugging Face cache at `revision` (a commit, branch or tag; null: the default branch as last
    downloaded). UserError says what is missing and where to put it.
    """
    if reference in _TINY:
        return _built(reference)
    folder = Path(reference).expanduser()
    if reference and folder.is_dir():
        return folder
    if not _HUB_ID.fullmatch(reference) or "--" in reference:
        raise UserError(
            f"there is no model folder {reference}",
            f"give a folder, a Hugging Face id such as Wan-AI/Wan2.1-T2V-1.3B-Diffusers, or one of {', '.join(_TINY)}",
        )
    return _downloaded(reference, revision)


def _downloaded(reference: str, revision: str | None) -> Path:
    from huggingface_hub import constants, snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(reference, revision=revision, local_files_only=True))
    except (LocalEntryNotFoundError, HFValidationError, FileNotFoundError):
        wanted = reference if revision is None else f"{reference} at revision {revision}"
        raise UserError(
            f"the model {wanted} is neither a folder here nor in the Hugging Face cache ({constants.HF_HUB_CACHE})",
            "download it first, where there is internet, into that cache (HF_HOME moves it), or give a folder that holds it",
        ) from None


def _built(name: str) -> Path:
    """Below the Hugging Face home, made on first use. Its name changes with the builder, so an old one is never taken for it."""
    from huggingface_hub import constants

    made_by = hashlib.sha256(Path(tiny.__file__).read_bytes()).hexdigest()[:12]
    folder = Path(constants.HF_HOME) / f"{name}-{made_by}"
    try:
        return tiny.build(folder, experts=_TINY[name])
    except OSError as error:
        raise UserError(f"{name} cannot be made in {folder}: {error}", "set HF_HOME to a folder that can be written") from None
