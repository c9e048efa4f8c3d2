"""Owns the entries of a preprocessing's source as a job and its continuation know them. Must not decode or encode."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..config.programs.preprocess import MAY_CHANGE, Config, RewriteConfig, TextConfig
from ..sources import listing
from ..sources.entries import Entry
from . import mended_source
from .rewrite_task import Rewrite

_NOT_CONTENT = {"output", "source", *MAY_CHANGE}
"""Settings that do not change what a sample holds; the list of entries is compared by itself."""


class SourceEntries:
    """The entries of a source, and a digest of them: a continuation must not take others for the same."""

    def __init__(self, config: Config) -> None:
        """Read the source; UserError where it is not there, or is no list of clips or prompts."""
        self.source = listing.locate(config.source, config.source_revision)
        self._config = config
        self.entries: list[Entry] = []
        self.remarks: list[str] = []
        """What of the source may not be meant, a line each for a person."""
        self.task: Rewrite | None = None
        if isinstance(config, RewriteConfig):
            self.task = Rewrite(self.source)
            self.names: Sequence[str] = self.task.names
            described: Any = self.names
        else:
            found = listing.read(self.source, listing.columns(config))
            self.entries, self.remarks = found.entries, found.remarks
            self.names = [entry.name for entry in self.entries]
            described = ([entry.id, entry.caption] for entry in self.entries)
        hasher = hashlib.sha256()
        for entry in described:
            hasher.update(repr(entry).encode())
        self.digest = hasher.hexdigest()

    def settings(self) -> dict[str, Any]:
        """Return what samples of one output must have in common."""
        return {**self._config.model_dump(mode="json", exclude=_NOT_CONTENT), "entries": len(self.names), "listing": self.digest}

    def keys(self) -> list[mended_source.Key]:
        """Return what the entries are known by in what is written; a prompt's id is its place in the list, which others may take."""
        if self.task is not None:
            return self.task.keys()
        return [(None if isinstance(self._config, TextConfig) else entry.id, entry.caption) for entry in self.entries]

    def is_newer(self, rejected_s: float, number: int) -> bool:
        """Return whether an entry's video has come or changed since it was rejected, at that time in seconds."""
        entry = self.entries[number] if self.entries else None
        if entry is None or entry.problem is not None or not isinstance(entry.video, Path):
            return False
        try:
            return entry.video.stat().st_ctime > rejected_s
        except OSError:
            return False
