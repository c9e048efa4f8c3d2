"""Owns what of an output still counts once its source was mended: samples that the source still lists as they were written.

Written samples are known by what their rows say of themselves, so that it does not matter where in the list they stood. What was rejected
is tried again. Must not write files, nor know how sources are read.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ..config.data_folder import HOLDOUT
from ..errors import UserError, first_line
from .output_shards import Record

Key = tuple[str | None, str | None]
"""The id and the caption of an entry; the id is None where it only says at which place of the list the entry stands."""
_SHOWN = 5


@dataclass(frozen=True)
class _Sample:
    key: Key
    name: str
    held_out: bool


def carried_over(output: Path, records: Sequence[Record], keys: Sequence[Key]) -> list[Record]:
    """Return records of the same parts by the entries' new numbers; what they leave out is to be made. `keys`: those of the new entries.

    Raises UserError that names each sample which the source does not list as it was written.
    """
    places: dict[Key, deque[int]] = defaultdict(deque)
    for number, key in enumerate(keys):
        places[key].append(number)
    kept: list[Record] = []
    changed: list[_Sample] = []
    for parts, together in _by_parts(records).items():
        settled: dict[int, _Sample] = {}
        for sample in _samples(output, parts, by_place=all(key[0] is None for key in keys)):
            if places[sample.key]:
                settled[places[sample.key].popleft()] = sample
            else:
                changed.append(sample)
        kept += _runs(settled, together)
    if changed:
        raise _refusal(output, changed, keys)
    return sorted(kept, key=lambda record: record.first)


def without_mended(
    records: list[Record], names: Sequence[str], rejected_s: Callable[[Record], float], is_newer: Callable[[float, int], bool]
) -> list[Record]:
    """Return the records without those rejected entries that have become other ones since; the same list where there are none.

    `is_newer` says so of an entry by the time, in seconds, of its rejection and its number.
    """
    kept = [piece for record in records for piece in _split(record, names, rejected_s, is_newer)]
    return records if len(kept) == len(records) and all(new is old for new, old in zip(kept, records, strict=True)) else kept


def _split(
    record: Record, names: Sequence[str], rejected_s: Callable[[Record], float], is_newer: Callable[[float, int], bool]
) -> list[Record]:
    """Return the record itself, or the pieces of it between the rejected entries that are to be tried again."""
    problems = dict(_numbered_problems(record, names))
    then = rejected_s(record) if problems else 0.0
    stale = {number for number in problems if is_newer(then, number)}
    if not stale or len(problems) != len(record.problems):
        return [record]
    pieces = _consecutive(number for number in range(record.first, record.last + 1) if number not in stale)
    return [_piece(record, first, last, problems, holds_all=first == pieces[0][0]) for first, last in pieces]


def _piece(record: Record, first: int, last: int, problems: dict[int, dict[str, str]], *, holds_all: bool) -> Record:
    """Return a piece of a record, with its parts; what is known of the whole alone stays with one piece."""
    inside = [problems[number] for number in range(first, last + 1) if number in problems]
    held_out, cropped = (record.holdout, record.cropped) if holds_all else (0, [])
    return Record(first, last, record.parts, last + 1 - first - len(inside), held_out, inside, cropped, record.latents)


def _numbered_problems(record: Record, names: Sequence[str]) -> Iterator[tuple[int, dict[str, str]]]:
    """Yield each problem with its entry's number: they stand in rising order, each under its entry's name."""
    number = record.first
    for problem in record.problems:
        while number <= record.last and names[number] != problem["name"]:
            number += 1
        if number > record.last:
            return
        yield number, problem
        number += 1


def _by_parts(records: Iterable[Record]) -> dict[tuple[str, ...], list[Record]]:
    groups: dict[tuple[str, ...], list[Record]] = {}
    for record in records:
        if record.written:
            groups.setdefault(tuple(sorted(record.parts)), []).append(record)
    return groups


def _runs(settled: dict[int, _Sample], together: Sequence[Record]) -> Iterator[Record]:
    """Yield a record for each run of consecutive numbers. They share the parts; what was noted of crops stays with the first."""
    for first, last in _consecutive(sorted(settled)):
        held_out = sum(settled[number].held_out for number in range(first, last + 1))
        cropped = [crop for record in together for crop in record.cropped] if first == min(settled) else []
        parts, latents = together[0].parts, together[0].latents
        yield Record(first, last, parts, written=last + 1 - first, holdout=held_out, cropped=cropped, latents=latents)


def _consecutive(numbers: Iterable[int]) -> list[tuple[int, int]]:
    """Return the first and last of each run of rising numbers without a gap."""
    runs: list[tuple[int, int]] = []
    for number in numbers:
        if runs and runs[-1][1] == number - 1:
            runs[-1] = (runs[-1][0], number)
        else:
            runs.append((number, number))
    return runs


def _samples(output: Path, parts: Iterable[str], *, by_place: bool) -> Iterator[_Sample]:
    for part in parts:
        try:
            with pq.ParquetFile(output / part) as file:
                columns = [name for name in ("id", "caption", "file_name") if name in file.schema_arrow.names]
                rows = file.read(columns=columns, use_threads=False).to_pylist()
        except (OSError, pa.ArrowException) as error:
            raise UserError(f"{output / part} cannot be read: {first_line(error)}", "remove it: its samples are then made again") from error
        for row in rows:
            caption = row.get("caption")  # earlier versions kept spaces around it, which encoders leave out
            key = (None if by_place else row.get("id"), caption.strip() if isinstance(caption, str) else caption)
            yield _Sample(key, row.get("file_name") or row.get("id") or "a sample", Path(part).parts[0] == HOLDOUT)


def _refusal(output: Path, changed: Sequence[_Sample], keys: Sequence[Key]) -> UserError:
    captions = {name: caption for name, caption in keys if name is not None}
    told = "; ".join(_change(sample, captions) for sample in changed[:_SHOWN])
    more = f"; and {len(changed) - _SHOWN} more" if len(changed) > _SHOWN else ""
    return UserError(
        f"the source has changed where {output} holds samples of it already: {told}{more}",
        "list them as they were, or use another output; what was not written yet may change",
    )


def _change(sample: _Sample, captions: dict[str, Any]) -> str:
    name, caption = sample.key
    if name is None or not captions.get(name):
        return f"{_short(caption) if name is None else sample.name} is not listed any more"
    return f"{sample.name} was {_short(caption)}, is now {_short(captions[name])}"


def _short(caption: str | None) -> str:
    text = repr(caption or "")
    return text if len(text) <= 80 else f"{text[:78]}…'"
