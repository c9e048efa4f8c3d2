"""Owns what the tests of the command line share: calling a command in this process, and judging an answer that is one clear error."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from fvlaunch.runs.directory import Run, create
from tests.support.records import record


@dataclass(frozen=True)
class Answer:
    """What a command printed, and its exit code."""

    code: int
    out: str
    err: str


Call = Callable[..., Answer]


def write(name: str, value: Any) -> Path:
    """Write a file below the working directory: a text as it is, anything else as YAML."""
    path = Path(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(value if isinstance(value, str) else yaml.safe_dump(value))
    return path


def make_run(name: str = "old", **changes: Any) -> Run:
    """Make a run as a submission leaves it, without a job."""
    return create(Path("runs") / name, record(name, **{"cluster": "local", **changes}))


def refused(answer: Answer, what: str, where: str = "", hint: str = "") -> None:
    """Assert one error with what, where and a hint, exit code 1, nothing on stdout, no traceback."""
    assert answer.code == 1, answer
    assert answer.out == ""
    assert "Traceback" not in answer.err
    assert answer.err.count("error: ") == 1 and answer.err.startswith("error: ")
    message, _, rest = answer.err.partition("\n")
    assert what in message
    assert where in rest.partition("hint: ")[0]
    assert hint in rest.partition("hint: ")[2] and "hint: " in rest


def nothing_made() -> None:
    """Assert that a command left neither runs nor data nor records of the person's."""
    assert not Path("runs").exists() and not Path("data").exists()
    assert not Path("home/state").exists()
