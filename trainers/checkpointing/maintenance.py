"""Owns looking after the checkpoints of a run that is not being trained: `python -m trainers.checkpointing.maintenance verify|prune RUN`.

Each line of output is a JSON object about one checkpoint; the last, {"checkpoints": N}, counts them and says that nothing is missing.
Must not import torch, and must not run beside a rank 0, which prunes itself.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from . import manifest as manifests
from . import store
from .manifest import BadManifest, NewerFormat


def verify(folder: Path, step: int | None = None) -> list[dict[str, Any]]:
    """Read every byte of each checkpoint, oldest first, and return a report for each: files, bytes, problems."""
    return [_verified(store.folder_of(folder, candidate), candidate) for candidate in store.steps(folder) if step in (None, candidate)]


def _verified(folder: Path, step: int) -> dict[str, Any]:
    report: dict[str, Any] = {"step": step, "files": 0, "bytes": 0, "problems": []}
    try:
        manifest = manifests.read(folder)
        report["files"], report["bytes"] = len(manifest.files), sum(entry.size for entry in manifest.files.values())
        report["world_size"] = manifest.world_size
        report["problems"] = manifests.wrong_files(folder, manifest, manifest.files)
    except (BadManifest, NewerFormat) as error:
        report["problems"] = [str(error)]
    except OSError as error:
        report["problems"] = [f"cannot be read now: {error.strerror}"]
    return report


def prune(folder: Path, *, keep_last: int, keep_every: int | None, bad: bool, preview_only: bool) -> list[dict[str, Any]]:
    """Delete all complete checkpoints but the newest `keep_last` and the multiples of `keep_every`; with `preview_only` only say which.

    The newest complete one always stays, and nothing is deleted before every byte of it was read and found right.
    """
    complete = [step for step in store.steps(folder) if manifests.is_complete(store.folder_of(folder, step))]
    kept = complete[-max(1, keep_last) :]
    if not kept:
        return []
    if problems := _verified(store.folder_of(folder, kept[-1]), kept[-1])["problems"]:
        return [
            {"step": kept[-1], "deleted": False, "bytes": 0, "problems": [f"the newest is damaged, so nothing is deleted: {problems[0]}"]}
        ]
    stale = [step for step in complete if step < kept[0] and not (keep_every and step % keep_every == 0)]
    doomed: list[tuple[Path, int | None]] = [(store.folder_of(folder, step), step) for step in stale]
    doomed += [(folder / name, None) for name in store.quarantined(folder)] if bad else []
    return [_deleted(path, step, preview_only) for path, step in doomed]


def _deleted(path: Path, step: int | None, preview_only: bool) -> dict[str, Any]:
    size = sum(file.stat().st_size for file in path.iterdir() if file.is_file())
    problems = [] if preview_only else store.delete(path)
    return {"name": path.name, "step": step, "bytes": size, "deleted": not preview_only and not problems, "problems": problems}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return 1 where something is wrong, else 0."""
    parser = argparse.ArgumentParser(
        prog="python -m trainers.checkpointing.maintenance", description="Verify or prune the checkpoints of a run."
    )
    parser.add_argument("what", choices=("verify", "prune"))
    parser.add_argument("run", type=Path)
    parser.add_argument("--step", type=int)
    parser.add_argument("--keep-last", type=int, default=3)
    parser.add_argument("--keep-every", type=int)
    parser.add_argument("--bad", action="store_true", help="damaged ones, *.bad, too")
    parser.add_argument("--look", action="store_true", help="only say what would be deleted")
    given = parser.parse_args(argv)
    folder = given.run / "checkpoints"
    try:
        if given.what == "verify":
            lines = verify(folder, given.step)
        else:
            lines = prune(folder, keep_last=given.keep_last, keep_every=given.keep_every, bad=given.bad, preview_only=given.look)
    except OSError as error:
        sys.stderr.write(f"error: cannot read {error.filename or folder}: {error.strerror}\n")
        return 2
    for line in [*lines, {"checkpoints": len(lines)}]:
        print(json.dumps(line))  # noqa: T201
    return 1 if any(line["problems"] for line in lines) else 0


if __name__ == "__main__":
    sys.exit(main())
