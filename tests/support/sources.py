"""Owns what the tests of sources share: empty files in the place of clips, and what was found said briefly."""

from __future__ import annotations

from pathlib import Path

from trainers.sources.entries import Entry


def touch(folder: Path, *names: str) -> Path:
    """Make empty files, with their folders, and return `folder`."""
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return folder


def told(found: list[Entry]) -> list[tuple[str, str, str | None]]:
    """Return (name, caption, reason of the problem or None) of each entry."""
    return [(entry.name, entry.caption, entry.problem.reason if entry.problem else None) for entry in found]


def captions(found: list[Entry]) -> dict[str, str]:
    """Return the caption of each video that can be used, by its file name; each must be there."""
    usable = [entry for entry in found if entry.problem is None]
    assert all(isinstance(entry.video, Path) and entry.video.is_file() for entry in usable)
    return {entry.video.name: entry.caption for entry in usable if isinstance(entry.video, Path)}
