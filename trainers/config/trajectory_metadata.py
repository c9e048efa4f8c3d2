"""Owns what a cache of a teacher's trajectories says of itself, and whether it is the one that a run asks for. Must not import torch.

CACHE/metadata.json is written before the first trajectory, CACHE/COMPLETE after the last; samples/NNNNNNNN.parquet are whole or not
there. What makes trajectories what they are must agree; where the prompts lie, and who trains on the cache, may change.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from . import hub_cache
from .stored_json import is_count, read_object

METADATA, COMPLETE, SAMPLES = "metadata.json", "COMPLETE", "samples"
FORMAT = 1
_CHUNKS, _CHUNK_BYTES = 256, 4096


class NoCache(Exception):
    """A cache that cannot be read; the text says why."""


def read(folder: Path) -> dict[str, Any] | None:
    """Return the metadata; None where there is no cache yet; NoCache where it cannot be read."""
    try:
        metadata = read_object(folder / METADATA)
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise NoCache(f"{folder / METADATA} cannot be read: {error}") from None
    if metadata.get("format") != FORMAT:
        raise NoCache(f"{folder / METADATA} is not of this version")
    steps = metadata.get("timesteps")
    counts = [metadata.get("total"), metadata.get("prompts"), *(steps if isinstance(steps, list) else [None])]
    if not all(map(is_count, counts)):
        raise NoCache(f"{folder / METADATA} is damaged: it tells no timesteps, or not how many trajectories there are")
    return metadata


def is_complete(folder: Path) -> bool:
    return (folder / COMPLETE).is_file()


def count(folder: Path) -> int:
    """Return the number of trajectories that are there."""
    return sum(1 for path in (folder / SAMPLES).glob("*.parquet") if not path.name.startswith("."))


def differences(stored: Mapping[str, Any], required: Mapping[str, Any]) -> str:
    """Return what does not agree, in one line; "" where the cache is the required one. A None in `required` requires nothing."""
    wrong = [
        f"{key} {_shown(stored.get(key))}, not {_shown(value)}"
        for key, value in required.items()
        if value is not None and key not in ("timesteps", "source") and stored.get(key) != value
    ]
    if absent := [t for t in required.get("timesteps") or () if t not in stored.get("timesteps", ())]:
        wrong.append(f"states at timesteps {stored.get('timesteps')}, not at {', '.join(map(str, absent))}")
    return "; ".join(wrong)


def _shown(value: Any) -> str:
    return value[:12] if isinstance(value, str) and len(value) == 64 else str(value)


def teacher_digest(*folders: Path) -> str:
    """Return a digest that tells one teacher's weights from another's, wherever they lie: descriptions, sizes, and bytes from all over the
    files.

    The folders are those of what it starts from, and of what its experts start from where they have their own.
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
    """Return the digest of models (name, revision) that are all on this machine; None where one is not, or is yet to be made."""
    folders = [hub_cache.local_model(*reference) for reference in references]
    local = [folder for folder in folders if folder is not None]
    try:
        return teacher_digest(*local) if local and len(local) == len(folders) else None
    except OSError:
        return None
