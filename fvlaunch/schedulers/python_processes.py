"""Owns command lines and environments of Python processes that run a given copy of the code. Must not start them."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

RUN_MODULE = (
    "import sys; sys.path[:] = [part for part in sys.path if part]; name = sys.argv.pop(1); "
    "import runpy; runpy.run_module(name, run_name='__main__', alter_sys=True)"
)
"""What `python -m NAME` does, but without the working directory on the module path: with -m it would come before PYTHONPATH, and a
checkout that one works in would be run instead of the copy that belongs to a run. (-P does it too, from Python 3.11 on.)"""


def module_command(python: str, module: str, *arguments: str, unbuffered: bool = False) -> list[str]:
    """Return the command that runs a module from PYTHONPATH and never from the working directory."""
    return [python, *(["-u"] if unbuffered else []), "-c", RUN_MODULE, module, *arguments]


def python_path(code: Path, environment: Mapping[str, str] | None = None) -> str:
    """Return a PYTHONPATH with the code first, then what the environment (this process' own by default) has there."""
    before = (os.environ if environment is None else environment).get("PYTHONPATH", "")
    return os.pathsep.join(part for part in (str(code), before) if part)


def after_setup(setup: str, argv: Sequence[str]) -> list[str]:
    """Return the command that runs a profile's shell lines and then becomes `argv`; just `argv` where there are none."""
    return ["sh", "-c", f'set -e\n{setup.strip()}\nexec "$0" "$@"', *argv] if setup.strip() else list(argv)
