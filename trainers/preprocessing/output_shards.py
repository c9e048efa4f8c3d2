"""Owns the files of a preprocessing: parts, and the records that say which entries they settle. Must not encode.

A record is published after its parts, so what has no record was never written: a job that is cut short anywhere, by whatever, loses the
open parts and nothing else, and repeats nothing. Entries are numbered 0 … n - 1; a record settles a range of them.
"""

from __future__ import annotations

import itertools
import shutil
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from ..config.data_folder import HOLDOUT
from ..config.preprocess_output import HIDDEN, RECORDS, REPORT, SETTINGS, num_written
from ..config.preprocess_output import settings as stored_settings
from ..config.stored_json import is_count, read_file, read_object
from ..data.parquet_schema import FOLDER, PartFile, Storable
from ..errors import UserError, first_line
from ..files import new_folder, publish_folder, publish_json
from ..sources.entries import Rejected

__all__ = ["HIDDEN", "HOLDOUT", "RECORDS", "REPORT", "Record", "Shards", "claim", "remaining", "replace", "settled", "share", "summary"]

_OF_THE_LIST = ("entries", "listing")
"""Settings that tell one list of entries from another: how many there are, and a digest of them."""


@dataclass
class Record:
    """Entries `first` … `last`: the parts that hold them (path below the output -> bytes), and those that could not be used."""

    first: int
    last: int
    parts: dict[str, int] = field(default_factory=dict)
    written: int = 0
    holdout: int = 0
    problems: list[dict[str, str]] = field(default_factory=list)
    cropped: list[dict[str, Any]] = field(default_factory=list)
    latents: list[int] = field(default_factory=list)
    """Shape [C, T, H, W] of the first sample's latents, where samples are of clips."""

    def path(self, folder: Path) -> Path:
        """Return the record's own file in a folder of records."""
        return folder / f"{self.first:08d}-{self.last:08d}.json"


_RECORD = TypeAdapter(Record)


class Shards:
    """One rank's output, entry by entry in rising order. `before_publish` may end the process: a later attempt has taken over."""

    def __init__(self, output: Path, worker: int, rows_per_file: int, before_publish: Callable[[], None] = lambda: None) -> None:
        self._output, self._rows_per_file, self._before_publish = output, rows_per_file, before_publish
        self._folder = Path(FOLDER) / f"worker_{worker:04d}"
        self._open: Record | None = None
        self._parts: dict[bool, tuple[Path, PartFile]] = {}
        self.records: list[Record] = []

    def write(self, index: int, sample: Storable, *, holdout: bool = False) -> None:
        record = self._at(index)
        if holdout not in self._parts:
            below = self._free((Path(HOLDOUT) if holdout else Path()) / self._folder, record.first)
            self._parts[holdout] = below, PartFile(self._output / below, sample.schema)
        row = sample.row()
        self._parts[holdout][1].write(row)
        sizes = row.get("vae_latent_shape")
        if isinstance(sizes, list) and not record.latents:
            record.latents = sizes
        record.written, record.holdout = record.written + 1, record.holdout + holdout
        if record.written == self._rows_per_file:
            self.publish()

    def _free(self, folder: Path, first: int) -> Path:
        """Return the name of a part; where a list was mended, the entries that had this number before may have one of that name."""
        names = (f"part-{first:08d}{suffix}.parquet" for suffix in itertools.chain([""], (f"-{n}" for n in itertools.count(2))))
        return next(folder / name for name in names if not (self._output / folder / name).exists())

    def reject(self, index: int, name: str, problem: Rejected) -> None:
        self._at(index).problems.append({"name": name, "reason": problem.reason, "text": problem.text})

    def note_crop(self, index: int, name: str, kept: float) -> None:
        self._at(index).cropped.append({"name": name, "kept": round(kept, 3)})

    def _at(self, index: int) -> Record:
        """Return the open record, which from now on settles the entry, too."""
        if self._open is not None and index > self._open.last + 1:
            self.publish()
        if self._open is None:
            self._open = Record(index, index)
        self._open.last = index
        return self._open

    def publish(self) -> None:
        """Publish what is open: first the parts, then the record that counts them."""
        if self._open is None:
            return
        self._before_publish()
        record, self._open = self._open, None
        record.parts = {below.as_posix(): part.publish() for below, part in self._parts.values()}
        self._parts = {}
        publish_json(record.path(self._output / HIDDEN / RECORDS), asdict(record))
        self.records.append(record)

    def abandon(self) -> None:
        for _, part in self._parts.values():
            part.abandon()
        self._open, self._parts = None, {}


def claim(output: Path, settings: dict[str, Any]) -> bool:
    """Claim the output for a preprocessing with these settings; UserError where it holds samples of another.

    Returns whether only the list of entries is another than that of the samples there: then `replace` claims it, with what still counts.
    """
    marker = output / HIDDEN / SETTINGS
    try:
        stored = read_object(marker)
    except FileNotFoundError:
        if any(output.rglob("*.parquet")):
            hint = "use another output, or remove it"
            raise UserError(f"the output {output} holds parquet files that this preprocessing did not write", hint) from None
        publish_json(marker, settings)
        return False
    except (ValueError, OSError) as error:
        raise UserError(f"{marker} is damaged: {first_line(error)}", "remove the output to make it anew") from error
    if not isinstance(stored.get("listing", ""), str):
        raise UserError(f"{marker} is damaged: it names no listing", "remove the output to make it anew")
    _finish_replacing(output, stored)
    if stored == settings:
        return False
    if not num_written(output):
        shutil.rmtree(output / HIDDEN / RECORDS, ignore_errors=True)
        publish_json(marker, settings)
        return False
    return is_mended(output, settings)


def is_mended(output: Path, settings: dict[str, Any]) -> bool:
    """Return whether an output holds samples of another list of entries, made by the same settings; UserError where it is by others."""
    stored = stored_settings(output)
    if stored is None or not num_written(output):
        return False
    differ = sorted(key for key in {*stored, *settings} if stored.get(key) != settings.get(key))
    if others := [key for key in differ if key not in _OF_THE_LIST]:
        changes = ", ".join(f"{key} was {stored.get(key)!r}, is now {settings.get(key)!r}" for key in others)
        raise UserError(f"the output {output} was begun with other settings: {changes}", "use another output, or remove it")
    return bool(differ)


def whole_records(output: Path) -> list[Record]:
    """Return the records whose parts are whole, by first entry; changes nothing."""
    found = (_record(path) for path in sorted((output / HIDDEN / RECORDS).glob("*.json")))
    return [record for record in found if record is not None and _whole(output, record)]


def replace(output: Path, records: Iterable[Record], settings: dict[str, Any]) -> None:
    """Put other records of the same parts in the place of those that are there, and the settings that they belong to; whole or not at
    all."""
    folder = output / HIDDEN
    with new_folder(folder / "made") as made:
        for record in records:
            publish_json(record.path(made), asdict(record))
        shutil.rmtree(_replacement(folder, settings), ignore_errors=True)
        publish_folder(made, _replacement(folder, settings))
    publish_json(folder / SETTINGS, settings)
    _finish_replacing(output, settings)


def _replacement(folder: Path, settings: dict[str, Any]) -> Path:
    return folder / f"{RECORDS}-{settings.get('listing', '')[:16]}"


def _finish_replacing(output: Path, settings: dict[str, Any]) -> None:
    """Put new records in their place where the settings that they belong to are there; others were never claimed, and are dropped."""
    folder = output / HIDDEN
    for made in sorted(folder.glob(f"{RECORDS}-*")):
        if made != _replacement(folder, settings):
            shutil.rmtree(made)
            continue
        shutil.rmtree(folder / RECORDS, ignore_errors=True)
        made.rename(folder / RECORDS)


def settled(output: Path, warn: Callable[[str], None]) -> list[Record]:
    """Return the records that hold, by first entry. Parts that no record counts are removed, and so is a record whose parts are not
    whole."""
    for made in (output / HIDDEN).glob(".made.*"):
        shutil.rmtree(made)
    for path in (*output.glob(".*.tmp"), *(output / HIDDEN).rglob(".*.tmp")):
        path.unlink()  # a job was killed before the name was right
    kept: list[Record] = []
    for path in sorted((output / HIDDEN / RECORDS).glob("*.json")):
        record = _record(path)
        if record is None or (kept and record.first <= kept[-1].last) or not _whole(output, record):
            warn(f"{path.stem.replace('-', ' to ')}: parts are missing or damaged, and made again")
            path.unlink()
        else:
            kept.append(record)
    counted = {output / part for record in kept for part in record.parts}
    for folder in (output / FOLDER, output / HOLDOUT / FOLDER):
        for path in (*folder.rglob("part-*.parquet"), *folder.rglob(".part-*.parquet.tmp")):
            if path not in counted:
                path.unlink()
    return kept


def _record(path: Path) -> Record | None:
    """Return a record; None where it is damaged, and what it told of is made again."""
    try:
        record = _RECORD.validate_json(read_file(path), strict=True)
    except (OSError, ValueError):
        return None
    numbers = (record.first, record.last, record.written, record.holdout, *record.parts.values())
    folders = (f"{FOLDER}/", f"{HOLDOUT}/")
    inside = all(part.startswith(folders) and ".." not in Path(part).parts and "\0" not in part for part in record.parts)
    whole = inside and all(map(is_count, numbers)) and all("reason" in problem for problem in record.problems)
    return record if whole and record.first <= record.last and record.path(path.parent) == path else None


def _whole(output: Path, record: Record) -> bool:
    try:
        return all((output / part).stat().st_size == size for part, size in record.parts.items())
    except FileNotFoundError:
        return False


def remaining(total: int, records: Iterable[Record]) -> list[int]:
    """Return the entries that no record settles."""
    done = bytearray(total)
    for record in records:
        done[record.first : record.last + 1] = b"\1" * (record.last + 1 - record.first)
    return [index for index in range(total) if not done[index]]


def share(indices: list[int], rank: int, world_size: int) -> list[int]:
    """Return a rank's share: neighbours stay together, as they stand in one file or row group."""
    return indices[len(indices) * rank // world_size : len(indices) * (rank + 1) // world_size]


def summary(total: int, records: Iterable[Record]) -> dict[str, Any]:
    """Return the content of report.json."""
    by_place = sorted(records, key=lambda record: record.first)
    problems = [problem for record in by_place for problem in record.problems]
    return {
        "entries": total,
        "written": sum(record.written for record in by_place),
        "holdout": sum(record.holdout for record in by_place),
        "rejected": dict(sorted(Counter(problem["reason"] for problem in problems).items())),
        "problems": problems,
        "heavy_crops": [crop for record in by_place for crop in record.cropped],
        "latents": next((record.latents for record in by_place if record.latents), None),
    }
