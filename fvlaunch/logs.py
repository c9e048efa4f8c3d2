"""Owns showing the ranks' logs: which attempt, which rank, followed or searched. Must only read."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from .errors import FvlaunchError
from .runs import Run

CHUNK = 1 << 20
POLL_S = 0.3


def log_file(run: Run, attempt: int | None, rank: int) -> Path | None:
    """The log of a rank in an attempt (None: the newest one that has it); None where there is none yet."""
    numbers = run.attempt_numbers()
    if attempt is not None and attempt not in numbers:
        raise FvlaunchError(f"{run.name} has no attempt {attempt}", hint=f"its attempts: {_spans(numbers) or 'none yet'}")
    for number in [attempt] if attempt is not None else reversed(numbers):
        path = run.rank_log(number, rank)
        if path.is_file():
            return path
    if numbers and rank != 0:
        ranks = sorted(int(p.stem[5:]) for p in run.rank_log(attempt or numbers[-1], 0).parent.glob("rank-*.log"))
        if ranks:
            raise FvlaunchError(f"{run.name} has no log of rank {rank}", hint=f"its ranks: {_spans(ranks)}")
    return None


def agent_logs(run: Run) -> list[Path]:
    """What the jobs themselves printed: the agents and the batch scripts."""
    return sorted(run.job.glob("*/*_log.out"), key=lambda p: p.stat().st_mtime)


def lines(path: Path, pattern: str | None) -> Iterator[str]:
    """Lines of a log, those that match if a regular expression is given."""
    wanted = _pattern(pattern)
    with path.open(encoding="utf-8", errors="replace") as file:
        for line in file:
            if wanted is None or wanted.search(line):
                yield line.rstrip("\n")


def follow(run: Run, rank: int, pattern: str | None, is_over: Callable[[], bool]) -> Iterator[str]:
    """Lines as they come, going on to the next attempt's log; ends when the run is over and all was shown."""
    wanted, tail = _pattern(pattern), None
    while True:
        over = is_over()  # asked first: what is written before the end is then read after it
        newest = log_file(run, None, rank)
        if newest is not None and (tail is None or newest != tail.path):
            yield from _matching(tail.last_lines() if tail else (), wanted)
            tail = _Tail(newest)
            yield f"==> {newest.parent.name} {newest.stem} <=="
        yield from _matching(tail.lines() if tail else (), wanted)
        if over:
            yield from _matching(tail.last_lines() if tail else (), wanted)
            return
        time.sleep(POLL_S)


def _matching(found: Iterable[str], wanted: re.Pattern[str] | None) -> Iterator[str]:
    return (line for line in found if wanted is None or wanted.search(line))


class _Tail:
    """A file that grows, read line by line."""

    def __init__(self, path: Path) -> None:
        self.path, self._offset, self._rest = path, 0, b""

    def lines(self) -> Iterator[str]:
        """Whole lines that came since the last call."""
        with self.path.open("rb") as file:
            file.seek(self._offset)
            while data := file.read(CHUNK):
                self._offset += len(data)
                *whole, self._rest = (self._rest + data).split(b"\n")
                yield from (line.decode("utf-8", errors="replace") for line in whole)

    def last_lines(self) -> Iterator[str]:
        """All that is left of a file that nobody writes any more, its unended last line too."""
        yield from self.lines()
        if self._rest:
            yield self._rest.decode("utf-8", errors="replace")
            self._rest = b""


def _pattern(pattern: str | None) -> re.Pattern[str] | None:
    try:
        return re.compile(pattern) if pattern is not None else None
    except re.error as error:
        hint = "escape (, [, *, ? and the like with a backslash to mean themselves"
        raise FvlaunchError(f"--grep {pattern!r} is not a regular expression: {error}", hint=hint) from None


def _spans(numbers: list[int]) -> str:
    """[1, 2, 3, 7] as "1-3, 7"."""
    spans: list[list[int]] = []
    for number in numbers:
        if spans and spans[-1][-1] == number - 1:
            spans[-1][1:] = [number]
        else:
            spans.append([number])
    return ", ".join("-".join(str(n) for n in span) for span in spans)
