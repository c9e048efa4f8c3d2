"""Owns every error that a person is shown, and how it is written. Must import nothing of ours and nothing heavy.

FvlaunchError               1  the user can fix it: what is wrong, where, and a hint
├── UsageError              1  a wrong command line
├── ConfigError             1  a recipe, cluster or --set is wrong; holds all that was found, printed all at once
├── NotFound                1  no recipe, cluster or run of that name
├── NameTaken                1  a run of that name exists already
├── RunConflict             1  somebody else owns the run, or its state does not allow this
├── JobUnrecorded           1  the job was taken, and its id could not be written down
├── SchedulerRefused        1  the scheduler understood and said no
├── SchedulerUnreachable    3  the scheduler gave no answer
├── Interrupted           130  Ctrl-C, where something goes on that the person should know of
└── InternalError           2  what should not happen
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import NamedTuple

EXIT_OK = 0
EXIT_USER = 1
EXIT_UNEXPECTED = 2
EXIT_SCHEDULER = 3
EXIT_INTERRUPTED = 130


class Place(NamedTuple):
    """Where a value was written. `line` 0: not in a file, `file` then says it all, as in "--set train.seed=x"."""

    file: str
    line: int = 0
    column: int = 0

    def __str__(self) -> str:
        return f"{self.file}:{self.line}" if self.line else self.file

    @property
    def origin(self) -> str:
        """The layer that a value came from: "file:line", "--set", "command line" or "default"."""
        return "--set" if not self.line and self.file.startswith("--set ") else str(self)


class Problem(NamedTuple):
    """One thing that is wrong: `key` is dotted and as it would be given to --set."""

    message: str
    where: Place | None = None
    key: str = ""
    hint: str = ""


class FvlaunchError(Exception):
    """Something a person can mend: one line that says what, the place, and what to do about it."""

    exit_code = EXIT_USER

    def __init__(self, message: str, *, where: Place | None = None, key: str = "", hint: str = "") -> None:
        super().__init__(message)
        self.message, self.where, self.key, self.hint = message, where, key, hint

    def __reduce__(self) -> tuple[object, ...]:
        return _restore, (type(self), self.args, self.__dict__)

    @property
    def problems(self) -> tuple[Problem, ...]:
        return (Problem(self.message, self.where, self.key, self.hint),)

    def __str__(self) -> str:
        return render(self)


class UsageError(FvlaunchError):
    """A wrong command line."""


class ConfigError(FvlaunchError):
    """All that is wrong with what was written in files and on the command line."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self._problems = tuple(problems)
        first = self._problems[0]
        super().__init__(first.message, where=first.where, key=first.key, hint=first.hint)

    @classmethod
    def one(cls, message: str, where: Place | None = None, key: str = "", hint: str = "") -> ConfigError:
        return cls([Problem(message, where, key, hint)])

    @property
    def problems(self) -> tuple[Problem, ...]:
        return self._problems


class NotFound(FvlaunchError):
    """No recipe, cluster, pipeline or run of that name."""


class NameTaken(FvlaunchError):
    """A run or pipeline of that name exists in that folder."""


class RunConflict(FvlaunchError):
    """Somebody else owns the run, or its state does not allow this."""


class JobUnrecorded(FvlaunchError):
    """The job was taken, and its id could not be written down."""


class SchedulerRefused(FvlaunchError):
    """The scheduler understood and said no."""


class SchedulerUnreachable(FvlaunchError):
    """The scheduler gave no answer: nothing is known, so nothing is concluded."""

    exit_code = EXIT_SCHEDULER


class Interrupted(FvlaunchError):
    """Ctrl-C, where something goes on that the person should know of."""

    exit_code = EXIT_INTERRUPTED


class InternalError(FvlaunchError):
    """What should not happen."""

    exit_code = EXIT_UNEXPECTED


def render(error: FvlaunchError) -> str:
    """Plain text for a terminal or a log: every problem with its place and hint. Nothing in it can control a terminal."""
    return "\n\n".join(_render(problem) for problem in error.problems)


def _render(problem: Problem) -> str:
    lines = [f"error: {printable(problem.message)}"]
    where = ": ".join(part for part in (str(problem.where or ""), problem.key) if part)
    if where:
        lines.append(f"  --> {printable(where)}")
    if problem.hint:
        lines.append(f"hint: {printable(problem.hint)}")
    return "\n".join(lines)


def counted(number: int, noun: str, nouns: str = "") -> str:
    """Return a number with its noun, as messages have it; `nouns` is the plural where that is not the noun and an s."""
    return f"{number} {noun if number == 1 else nouns or f'{noun}s'}"


def printable(text: str) -> str:
    """Text with everything that could move a cursor or hide itself written as an escape; line ends stay."""
    return re.sub(r"[^\n]", lambda m: m[0] if m[0].isprintable() else m[0].encode("unicode_escape").decode(), text)


def _restore(kind: type[FvlaunchError], args: tuple[object, ...], state: dict[str, object]) -> FvlaunchError:
    error = kind.__new__(kind, *args)
    error.args = args
    error.__dict__.update(state)
    return error
