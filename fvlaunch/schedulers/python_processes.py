"""Owns command lines and environments of Python processes that run a given copy of the code. Must not start them."""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping, MutableMapping, Sequence
from pathlib import Path

from .setup_lines import guarded

OFF_THE_WORKING_DIRECTORY = "import sys; sys.path[:] = [part for part in sys.path if part]; "
"""The first line of a program that Python gets with -c. Python puts the working directory first on the module path, so that what a user
called `signal` or `yaml` there would be run in place of the module that is meant. (-P forbids it from Python 3.11 on; 3.10 has nothing.)"""
RUN_MODULE = f"{OFF_THE_WORKING_DIRECTORY}name = sys.argv.pop(1); import runpy; runpy.run_module(name, run_name='__main__', alter_sys=True)"
"""What `python -m NAME` does, but without the working directory on the module path: with -m it would come before PYTHONPATH, and a
checkout that one works in would be run instead of the copy that belongs to a run."""


def module_command(python: str, module: str, *arguments: str, unbuffered: bool = False) -> list[str]:
    """Return the command that runs a module from PYTHONPATH and never from the working directory."""
    return [python, *(["-u"] if unbuffered else []), "-c", RUN_MODULE, module, *arguments]


def python_path(code: Path, environment: Mapping[str, str] | None = None) -> str:
    """Return a PYTHONPATH with the code first, then what the environment (this process' own by default) has there."""
    before = (os.environ if environment is None else environment).get("PYTHONPATH", "")
    return os.pathsep.join([str(code), *_parts(before)])


def settle(environment: MutableMapping[str, str]) -> None:
    """Make what the environment says to Python mean the same wherever a process is started with it.

    A relative part of PYTHONPATH becomes absolute. An empty one (as `export PYTHONPATH=$PYTHONPATH:/lib` leaves it) goes, because to
    Python it is the working directory. PYTHONINSPECT goes, because with it a program that failed ends with 0.
    """
    environment.pop("PYTHONINSPECT", None)
    if parts := _parts(environment.get("PYTHONPATH", "")):
        environment["PYTHONPATH"] = os.pathsep.join(parts)
    else:
        environment.pop("PYTHONPATH", None)


def _parts(python_path: str) -> list[str]:
    return [os.path.abspath(part) for part in python_path.split(os.pathsep) if part]  # noqa: PTH100  Path keeps the dots


def after_setup(
    setup: str, argv: Sequence[str], *, given_up: Path | None = None, cwd: Path | None = None, code: Path | None = None
) -> list[str]:
    """Return the command that runs a profile's shell lines (in `cwd`) and then becomes `argv`; just `argv` where there is nothing to do.

    A line that fails ends it, as `setup_lines.guarded` says; `given_up`: the file that is then written. `code` comes first on PYTHONPATH
    whatever the lines have made of that.
    """
    there = f"cd {shlex.quote(str(cwd))} || exit" if cwd is not None else ""
    first = f"export PYTHONPATH={shlex.quote(str(code))}${{PYTHONPATH:+:$PYTHONPATH}}" if code is not None and setup.strip() else ""
    lines = "\n".join(part for part in (there, guarded(setup, given_up), first) if part)
    if not lines:
        return list(argv)
    # What is sourced without arguments sees those of the shell: `source conda/bin/activate` would take ours for an environment's name.
    return ["bash", "-c", f'_fvlaunch_argv=("$@")\nset --\n{lines}\nexec "${{_fvlaunch_argv[@]}}"', "bash", *argv]
