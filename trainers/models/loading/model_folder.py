"""Owns where a model's files are on this machine: a folder, the Hugging Face cache, or the tiny Wan. Must never access the network."""

from __future__ import annotations

import hashlib
from pathlib import Path

from ...config import hub_cache
from ...errors import UserError
from . import tiny_wan

_TINY = {"tiny-wan": 1, "tiny-wan-a14b": 2}
"""The tiny Wans, and the number of experts of each."""


def resolve(reference: str, revision: str | None = None) -> Path:
    """Return the local folder of a model that is given as a folder, as "tiny-wan" or "tiny-wan-a14b", or as a hub id "org/name".

    A hub id is looked up in the Hugging Face cache at `revision` (a commit, branch or tag; None: the default branch as last downloaded).
    UserError says what is missing and where to put it.
    """
    if reference in _TINY:
        return _built(reference)
    folder = Path(reference).expanduser()
    if reference and folder.is_dir():
        return folder
    if not hub_cache.is_id(reference):
        raise UserError(
            f"there is no model folder {reference}",
            f"give a folder, a Hugging Face id such as Wan-AI/Wan2.1-T2V-1.3B-Diffusers, or one of {', '.join(_TINY)}",
        )
    try:
        return hub_cache.snapshot("model", reference, revision)
    except hub_cache.NotHere as missing:
        raise UserError(
            f"{missing}, and there is no such folder",
            "download it first, where there is internet, into that cache (HF_HOME moves it), or give a folder that holds it",
        ) from None


def _built(name: str) -> Path:
    """Return the tiny Wan's folder below the Hugging Face home, made on first use. Its name changes with the code that builds it, so that
    an old one is never used."""
    from huggingface_hub import constants

    made_by = hashlib.sha256(Path(tiny_wan.__file__).read_bytes()).hexdigest()[:12]
    folder = Path(constants.HF_HOME) / f"{name}-{made_by}"
    try:
        return tiny_wan.build(folder, experts=_TINY[name])
    except OSError as error:
        raise UserError(f"{name} cannot be made in {folder}: {error}", "set HF_HOME to a folder that can be written") from None
