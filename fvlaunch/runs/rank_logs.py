"""Owns showing the ranks' logs: which attempts, which ranks, several merged by time, followed or searched. Must only read.

A line that begins with a time (the trainers' own, or one of torch's C++ parts) begins an entry; the lines after it, a traceback's for
instance, belong to it. Entries of several ranks are merged by their times, which are those of each rank's own node.
"""

from __future__ import annotations

import heapq
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from ..errors import FvlaunchError
from .directory import Run

CHUNK = 1 << 20
POLL_S = 0.3
_TIME = re.compile(r"(?:\[rank\d+\]:)?(?:(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d)[,.](\d{3})|\[[EWIF](\d\d)(\d\d) (\d\d:\d\d:\d\d)\.(\d{3}))")
_MOST_AT_ONCE, _MOST_CHARACTERS = 256, 1 << 20
"""Of one entry, in lines and in all; what never says a time must not be held in memory whole."""
LONGEST_LINE = 1 << 20
"""Bytes of a line; a longer one, such as the hole in a sparse file, is shown in pieces."""


@dataclass(frozen=True)
class Entry:
    """Lines that belong together; `at` sorts as text."""

    at: str
    rank: int
    lines: tuple[str, ...]


# --- which


def wanted_ranks(text: str) -> tuple[int, ...] | None:
    """Return the ranks that --rank names: 3, or 0,5, or 0-7; None for all."""
    if text == "all":
        return None
    ranks: list[int] = []
    for part in text.split(","):
        match = re.fullmatch(r"(\d{1,6})(?:-(\d{1,6}))?", part.strip())
        if not match:
            raise FvlaunchError(f"--rank {text!r} names no ranks", hint="as in --rank 3, --rank 0,5, --rank 0-7 or --rank all")
        first, last = int(match[1]), int(match[2] or match[1])
        if last - first > 100_000:
            raise FvlaunchError(f"--rank {text!r} names too many ranks", hint="--rank all")
        ranks += range(first, last + 1)
    return tuple(dict.fromkeys(ranks))


def wanted_attempts(run: Run, text: str | None) -> list[int] | None:
    """Return the attempts that --attempt names, one or all; without it the newest that has a log of the named ranks."""
    numbers = run.attempt_numbers()
    if text is None or text == "all":
        return None if text is None else numbers
    if not text.isdigit() or int(text) not in numbers:
        raise FvlaunchError(f"{run.name} has no attempt {text}", hint=f"its attempts: {_spans(numbers) or 'none yet'}, or all")
    return [int(text)]


def log_files(run: Run, attempt: int, ranks: tuple[int, ...] | None) -> dict[int, Path]:
    """Return by rank the logs that the named ranks have in an attempt."""
    if ranks is not None and len(ranks) <= 8:
        paths = [(rank, run.rank_log(attempt, rank)) for rank in ranks]
        return {rank: path for rank, path in paths if path.is_file()}
    names = sorted(run.rank_log(attempt, 0).parent.glob("rank-*.log"))
    every = {int(path.stem[5:]): path for path in names if path.stem[5:].isdigit() and path.is_file()}
    return every if ranks is None else {rank: every[rank] for rank in ranks if rank in every}


def newest_files(run: Run, ranks: tuple[int, ...] | None) -> tuple[int, dict[int, Path]] | None:
    """Return the newest attempt in which a named rank has a log, and the logs; None where there is none yet."""
    numbers = run.attempt_numbers()
    for number in reversed(numbers):
        if files := log_files(run, number, ranks):
            return number, files
    if numbers and ranks is not None and (every := log_files(run, numbers[-1], None)):
        listed = _spans(sorted(ranks))
        raise FvlaunchError(f"{run.name} has no log of rank {listed}", hint=f"its ranks: {_spans(sorted(every))}")
    return None


def agent_logs(run: Run) -> list[Path]:
    """Return the files in which jobs themselves printed: agents and batch scripts."""
    return sorted((path for path in run.job.glob("*/*_log.out") if path.is_file()), key=lambda path: path.stat().st_mtime)


# --- reading


def lines(path: Path, pattern: str | None) -> Iterator[str]:
    """Yield the lines of a log, those that match if a regular expression is given."""
    return _matching(_lines_of(path), _pattern(pattern))


def merged(files: Mapping[int, Path], pattern: str | None) -> Iterator[str]:
    """Yield lines of several ranks' logs by time, each with its rank before it; of a single rank as they are."""
    if len(files) == 1:
        yield from lines(next(iter(files.values())), pattern)
        return
    regex, width = _pattern(pattern), len(str(max(files, default=0)))
    for entry in heapq.merge(*(_entries(rank, _lines_of(path)) for rank, path in files.items()), key=lambda entry: entry.at):
        yield from _with_ranks(entry, width, regex)


def _with_ranks(entry: Entry, width: int, regex: re.Pattern[str] | None) -> Iterator[str]:
    return (f"[{entry.rank:>{width}}] {line}" for line in _matching(entry.lines, regex))


def _lines_of(path: Path) -> Iterator[str]:
    return _Tail(path).last_lines()


def _entries(rank: int, texts: Iterable[str], at: str = "") -> Iterator[Entry]:
    """`at`: the time of lines that come before the first that tells one."""
    held: list[str] = []
    size = 0
    for line in texts:
        said = _time_of(line, at)
        if held and (said or len(held) >= _MOST_AT_ONCE or size + len(line) > _MOST_CHARACTERS):
            yield Entry(at, rank, tuple(held))
            held, size = [], 0
        at = max(at, said or at)  # a clock that is set back must not break the order of a log
        held.append(line)
        size += len(line)
    if held:
        yield Entry(at, rank, tuple(held))


def _time_of(line: str, before: str) -> str | None:
    """Return the time of a line as "2026-01-31 12:00:00.123"; C++ parts leave out the year."""
    match = _TIME.match(line)
    if match is None:
        return None
    day, thousandths, month, of_month, clock, more = match.groups()
    return f"{day}.{thousandths}" if day else f"{before[:4] or time.strftime('%Y')}-{month}-{of_month} {clock}.{more}"


# --- following


def follow(run: Run, ranks: tuple[int, ...] | None, pattern: str | None, is_over: Callable[[], bool]) -> Iterator[str]:
    """Yield lines as they come, going on to the next attempt's logs; ends when the run is over and all was shown."""
    regex, attempt = _pattern(pattern), 0
    tails: dict[int, _Tail] = {}
    while True:
        over = is_over()  # asked first: what is written before the end is then read after it
        number, files = newest_files(run, ranks) or (0, {})
        if number != attempt:
            yield from _matching_of(tails, regex, ranks, last=True)
            tails, attempt = {}, number
            yield f"==> attempt-{number:04d} {_named(ranks)} <=="
        tails.update({rank: _Tail(path) for rank, path in files.items() if rank not in tails})
        yield from _matching_of(tails, regex, ranks, last=over)
        if over:
            return
        time.sleep(POLL_S)


def _named(ranks: tuple[int, ...] | None) -> str:
    return "all ranks" if ranks is None else f"rank {_spans(sorted(ranks))}"


def _matching_of(tails: Mapping[int, _Tail], regex: re.Pattern[str] | None, ranks: tuple[int, ...] | None, last: bool) -> Iterator[str]:
    """Yield lines that came since the last call; those of several ranks by time."""
    if ranks is not None and len(ranks) == 1:
        for tail in tails.values():
            yield from _matching(tail.last_lines() if last else tail.lines(), regex)
        return
    width = len(str(max(tails, default=0)))
    new = [_entries(rank, tail.last_lines() if last else tail.lines(), tail.at) for rank, tail in tails.items()]
    for entry in heapq.merge(*new, key=lambda entry: entry.at):
        tails[entry.rank].at = entry.at
        yield from _with_ranks(entry, width, regex)


def _matching(texts: Iterable[str], regex: re.Pattern[str] | None) -> Iterator[str]:
    return (line for line in texts if regex is None or regex.search(line))


class _Tail:
    """A file that grows, read line by line."""

    def __init__(self, path: Path) -> None:
        self.path, self._offset, self._rest = path, 0, b""
        self.at = ""
        """The time that was last told in it."""

    def lines(self) -> Iterator[str]:
        """Yield whole lines that came since the last call; a progress bar's states are lines too, though no line feed ends them."""
        with self.path.open("rb") as file:
            file.seek(self._offset)
            while data := file.read(CHUNK):
                self._offset += len(data)
                lines = (self._rest + data).splitlines(keepends=True)
                self._rest = b"" if lines[-1].endswith(b"\n") else lines.pop()
                if len(self._rest) > LONGEST_LINE:
                    end = self._rest.rfind(b" ") + 1 or len(self._rest)  # between words: a secret must stay whole to be known as one
                    lines.append(self._rest[:end])
                    self._rest = self._rest[end:]
                yield from map(_text, lines)

    def last_lines(self) -> Iterator[str]:
        """Yield all that is left of a file that nobody writes any more, its unended last line too."""
        yield from self.lines()
        if self._rest:
            yield _text(self._rest)
            self._rest = b""


def _text(line: bytes) -> str:
    return line.rstrip(b"\r\n").decode("utf-8", errors="replace")


def _pattern(pattern: str | None) -> re.Pattern[str] | None:
    try:
        return re.compile(pattern) if pattern is not None else None
    except re.error as error:
        hint = "escape (, [, *, ? and the like with a backslash to mean themselves"
        raise FvlaunchError(f"--grep {pattern!r} is not a regular expression: {error}", hint=hint) from None


def _spans(numbers: list[int]) -> str:
    """Return numbers as text: [1, 2, 3, 7] as "1-3, 7"."""
    spans: list[list[int]] = []
    for number in numbers:
        if spans and spans[-1][-1] == number - 1:
            spans[-1][1:] = [number]
        else:
            spans.append([number])
    return ", ".join("-".join(str(n) for n in span) for span in spans)
