"""Owns what is made of a run's weights: `export` and `sample` start the trainers' own programs. Must not import torch.

They run here, with the interpreter that the run's cluster names; the programs check what they are asked for and tell what is wrong.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from . import index
from .config.compose import compose
from .errors import FvlaunchError
from .runs import Run

Value = str | int | float | bool | Path | list[str] | None


def export(word: str, options: Mapping[str, Value], runs_dir: Path | None) -> int:
    """A run's weights as a folder for stock diffusers; the program's exit code."""
    run = _run(word, runs_dir)
    return _start("trainers.export", _python(run), run.path, options)


def sample(word: str, options: Mapping[str, Value], runs_dir: Path | None) -> int:
    """Videos from a run, or from a folder that was exported or downloaded; the program's exit code."""
    folder = Path(word)
    if folder.is_dir() and not (folder / "run.json").is_file():
        return _start("trainers.sample", sys.executable, folder, options)
    run = _run(word, runs_dir)
    return _start("trainers.sample", _python(run), run.path, options)


def arguments(options: Mapping[str, Value]) -> list[str]:
    """Options by name as an argument list: None and False are left out, a list is an option for each item."""
    argv: list[str] = []
    for name, value in options.items():
        flag = f"--{name.replace('_', '-')}"
        if value is True:
            argv.append(flag)
        elif isinstance(value, list):
            argv += [f"{flag}={item}" for item in value]
        elif value is not None and value is not False:
            argv.append(f"{flag}={value}")  # with =, a value may begin with a dash
    return argv


def _run(word: str, runs_dir: Path | None) -> Run:
    return index.find(word, [index.runs_dir_option(runs_dir) or Path("runs")])


def _python(run: Run) -> str:
    return compose(str(run.config_file)).cluster.python or sys.executable


def _start(module: str, python: str, source: Path, options: Mapping[str, Value]) -> int:
    try:
        return subprocess.run([python, "-m", module, str(source), *arguments(options)], check=False).returncode
    except OSError as error:
        raise FvlaunchError(
            f"cannot start {python}: {error.strerror}", hint="`python` of the cluster profile names the interpreter"
        ) from None
