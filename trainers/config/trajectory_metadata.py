"""Owns what a cache of a teacher's trajectories says of itself, and whether it is the one that a run asks for. Must not import torch.

CACHE/metadata.json is written before the first trajectory, CACHE/COMPLETE after the last; samples/NNNNNNNN.parquet are whole or not
there. What makes trajectories what they are must agree; where the prompts lie, and who trains on the cache, may change.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from . import hub_cache

METADATA, COMPLETE, SAMPLES = "metadata.json", "COMPLETE", "samples"
FORMAT = 1
_CHUNKS, _CHUNK_BYTES = 256, 4096


class NoCache(Exception):
    """A cache that cannot be read; the text says why."""


def read(folder: Path) -> dict[str, Any] | None:
    """The metadata; None where there is no cache yet."""
    try:
        found = json.loads((folder / METADATA).read_text())
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise NoCache(f"{folder / METADATA} cannot be read: {error}") from None
    if not isinstance(found, dict) or found.get("format") != FORMAT:
        raise NoCache(f"{folder / METADATA} is not of this version")
    return found


def is_complete(folder: Path) -> bool:
    return (folder / COMPLETE).is_file()


def count(folder: Path) -> int:
    """Trajectories that are there."""
    return sum(1 for path in (folder / SAMPLES).glob("*.parquet") if not path.name.startswith("."))


def differences(found: Mapping[str, Any], wanted: Mapping[str, Any]) -> str:
    """What does not agree, in one line; "" where the cache is the one asked for. A None among `wanted` asks for nothing."""
    wrong = [
        f"{key} {_shown(found.get(key))}, not {_shown(value)}"
        for key, value in wanted.items()
        if value is not None and key not in ("timesteps", "source") and found.get(key) != value
    ]
    if absent := [t for t in wanted.get("timesteps") or () if t not in found.get("timesteps", ())]:
        wrong.append(f"states at timesteps {found.get('timesteps')}, not at {', '.join(map(str, absent))}")
    return "; ".join(wrong)


def _shown(value: Any) -> str:
    return value[:12] if isinstance(value, str) and len(value) == 64 else str(value)


def teacher_digest(*folders: Path) -> str:
    """Tells one teacher's weights from another's, wherever they lie: descriptions, sizes, and bytes from all over the files.

    Of what it starts from, and of what its experts start from where that is said apart.
    """
    digest = hashlib.sha256()
    for folder in folders:
        root = folder / "transformer" if (folder / "transformer").is_dir() else folder
        for network in (root, *([folder / "transformer_2"] if (folder / "transformer_2").is_dir() else [])):
            for path in [network / "config.json", *sorted(network.glob("*.safetensors"))]:
                _add(digest, path)
    return digest.hexdigest()


def _add(digest: Any, path: Path) -> None:
    size = path.stat().st_size
    digest.update(f"{path.suffix} {size}\n".encode())
    with path.open("rb") as opened:
        for start in _places(size):
            opened.seek(start)
            digest.update(opened.read(_CHUNK_BYTES))


def _places(size: int) -> Sequence[int]:
    if size <= _CHUNKS * _CHUNK_BYTES:
        return range(0, size, _CHUNK_BYTES)
    return [number * (size - _CHUNK_BYTES) // (_CHUNKS - 1) for number in range(_CHUNKS)]


def local_digest(references: Sequence[tuple[str, str | None]]) -> str | None:
    """Of (model, revision) that are all on this machine; None where one is not, or is yet to be made."""
    folders = [hub_cache.local_model(*reference) for reference in references]
    found = [folder for folder in folders if folder is not None]
    try:
        return teacher_digest(*found) if found and len(found) == len(folders) else None
    except OSError:
        return None
