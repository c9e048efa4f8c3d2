"""Owns `fvlaunch logs`: chooses ranks and attempts, and prints their lines with the run's secrets taken out.

Must not know how logs are merged by time: runs/rank_logs.py does.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from ..errors import UsageError
from ..runs.directory import Run
from . import output as printing
from .selection import find


def logs(word: str, *, rank: str, attempt: str | None, follow: bool, grep: str | None, agent: bool, runs_dir: Path | None) -> None:
    from ..runs import rank_logs as reading
    from ..runs.last_words import without_secrets
    from .progress import rarely_over

    if follow and (agent or attempt is not None):
        raise UsageError("--follow shows the newest attempt of a rank", hint="leave out --attempt and --agent, or --follow")
    run, ranks = find(word, runs_dir), reading.wanted_ranks(rank)
    hide = without_secrets(run)
    if agent:
        _of_jobs(run, grep, hide)
    elif follow:
        for line in reading.follow(run, ranks, grep, rarely_over(run)):
            printing.out_now(hide(line))
    else:
        _logs(run, ranks, attempt, grep, hide)


def _of_jobs(run: Run, grep: str | None, hide: Callable[[str], str]) -> None:
    """Print what the run's jobs printed themselves: agents, batch scripts and the profile's setup."""
    from ..runs import rank_logs as reading

    for path in reading.agent_logs(run):
        printing.say(f"==> {path} <==")
        for line in reading.lines(path, grep):
            printing.out(hide(line))


def _logs(run: Run, ranks: tuple[int, ...] | None, attempt: str | None, grep: str | None, hide: Callable[[str], str]) -> None:
    """Print the lines of one attempt's logs, or of all attempts'."""
    from ..runs import rank_logs as reading

    numbers = reading.wanted_attempts(run, attempt)
    if numbers is None:
        newest = reading.newest_files(run, ranks)
        shown = [newest] if newest is not None else []
    else:
        shown = [(number, files) for number in numbers if (files := reading.log_files(run, number, ranks))]
    if not shown and not reading.agent_logs(run):
        printing.say(f"{run.name} has no log: nothing of it has run yet; fvlaunch status {run.name} says why")
    elif not shown:
        printing.say(f"{run.name} has no log of a rank; this is what its job printed itself, as --agent shows it")
        _of_jobs(run, grep, hide)
    num_lines = 0
    for number, files in shown:
        if len(shown) > 1:
            printing.say(f"==> attempt-{number:04d} <==")
        for line in reading.merged(files, grep):
            printing.out(hide(line))
            num_lines += 1
    if shown and not num_lines and grep is None:
        printing.say(f"nothing was logged; {run.metrics_file} has every step, --agent shows what the job printed")
