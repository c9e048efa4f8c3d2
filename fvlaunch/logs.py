"""Owns showing the ranks' logs: which attempt, which rank, followed or searched. Must only read."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from .errors import FvlaunchError
from .runs import Run

CHUNK = 1 << 20


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
        raise FvlaunchError(f"{run.name} has no log of rank {rank}", hint=f"its ranks: {_spans(ranks) or 'none yet'}")
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
    wanted, path, offset, rest = _pattern(pattern), None, 0, ""
    while True:
        over = is_over()
        newest = log_file(run, None, rank)
        if newest != path and newest is not None:
            path, offset, rest = newest, 0, ""
            yield f"==> {path.parent.name} {path.stem} <=="
        while path is not None:
            with path.open("rb") as file:
                file.seek(offset)
                data = file.read(CHUNK)
            offset += len(data)
            *whole, rest = (rest + data.decode("utf-8", errors="replace")).split("\n")
            yield from (line for line in whole if wanted is None or wanted.search(line))
            if len(data) < CHUNK:
                break
        if over:
            return
        time.sleep(0.3)


def _pattern(pattern: str | None) -> re.Pattern[str] | None:
    try:
        return re.compile(pattern) if pattern is not None else None
    except re.error as error:
        raise FvlaunchError(f"--grep {pattern!r} is not a regular expression: {error}") from None


def _spans(numbers: list[int]) -> str:
    """[1, 2, 3, 7] as "1-3, 7"."""
    spans: list[list[int]] = []
    for number in numbers:
        if spans and spans[-1][-1] == number - 1:
            spans[-1][1:] = [number]
        else:
            spans.append([number])
    return ", ".join("-".join(str(n) for n in span) for span in spans)
