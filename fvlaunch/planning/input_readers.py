"""Owns asking the trainers' own readers what a run will read, in a child process with a time limit. Must not judge their answers.

Whatever goes wrong with the asking is no fault of the inputs: it becomes a reason why they were not looked at.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..runs import code_snapshot
from ..schedulers.python_processes import module_command, python_path

LIMIT_S = 20.0
"""A person waits for `submit`: what takes longer to look at is left to the job."""


@dataclass(frozen=True)
class NotAnswered:
    """Why nobody could say what the inputs hold."""

    reason: str


def ask(module: str, request: Mapping[str, Any], environment: Mapping[str, str], limit_s: float = LIMIT_S) -> dict[str, Any] | NotAnswered:
    """Return what `python -m MODULE FILE` prints as JSON, FILE holding the request. `environment` is laid over this process' own."""
    with tempfile.TemporaryDirectory(prefix="fvlaunch-") as folder:
        file = Path(folder) / "request.json"
        file.write_text(json.dumps(request), encoding="utf-8")
        try:
            return _answer(module_command(sys.executable, module, str(file)), environment, limit_s)
        except (OSError, ValueError) as error:
            return NotAnswered(str(error))


def _answer(command: list[str], environment: Mapping[str, str], limit_s: float) -> dict[str, Any] | NotAnswered:
    child = subprocess.Popen(
        command,
        env={**os.environ, **environment, "PYTHONPATH": python_path(code_snapshot.source_root())},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        answer, errors = child.communicate(timeout=limit_s)
    except subprocess.TimeoutExpired:
        return NotAnswered(f"reading took longer than {limit_s:g} s")
    finally:
        if child.poll() is None:
            _end(child)
    if child.returncode != 0:
        return NotAnswered((errors.strip() or f"exit code {child.returncode}").splitlines()[-1])
    value = json.loads(answer)
    return value if isinstance(value, dict) else NotAnswered("the answer is no mapping")


def _end(child: subprocess.Popen[str]) -> None:
    """Kill the child; one that waits for a dead disk ends when the disk answers, and nobody waits for that."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)
    with contextlib.suppress(subprocess.TimeoutExpired):
        child.communicate(timeout=1)
