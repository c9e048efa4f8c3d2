"""Owns the environments in which the versions that we admit are tried: which there are, and how one is made.

What is admitted stands in pyproject.toml alone. Must not need more than the standard library and the program uv.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
_PROJECT = ROOT / "pyproject.toml"
_TOOLS = ("pytest", "pytest-timeout", "pytest-xdist")
"""What the short suite needs beside the project."""


class NotAtHand(Exception):
    """An environment that cannot be made on this machine; the argument says why."""


class NotDownloaded(Exception):
    """Packages that could not be got; what is said on stderr says why."""


@dataclass(frozen=True)
class Environment:
    """An interpreter, and which of the admitted versions are installed: the lowest of all, or the highest beside the pinned ones."""

    python: str
    lowest: bool = False
    pins: tuple[str, ...] = ()


ENVIRONMENTS = {
    "lowest": Environment("3.10", lowest=True),
    **{f"python-{version}": Environment(version) for version in ("3.10", "3.11", "3.12", "3.13")},
    **{f"torch-{version}": Environment("3.11", pins=(f"torch=={version}.*",)) for version in ("2.9", "2.10", "2.11", "2.12", "2.13")},
}


def make(environment: Environment, folder: Path) -> Path:
    """Make the environment in `folder`, where it is not there already as pyproject.toml says now, and return its interpreter.

    NotAtHand is raised where there is no such Python; for the lowest versions any will do, told in a line. NotDownloaded is raised where
    the network does not give a package. RuntimeError is raised where
    the lowest versions together are not those that pyproject.toml names: then one of its bounds promises too much.
    """
    interpreter = _interpreter(environment)
    wanted = hashlib.sha256("\n".join([_PROJECT.read_text(), str(environment), interpreter]).encode()).hexdigest()
    python, seal = folder / "bin/python", folder / ".installed"
    if seal.is_file() and seal.read_text() == wanted:
        return python
    shutil.rmtree(folder, ignore_errors=True)
    uv("venv", "--quiet", "--python", interpreter, folder)
    resolution = "lowest-direct" if environment.lowest else "highest"
    install(python, "--resolution", resolution, "--requirements", _PROJECT, *environment.pins)
    if environment.lowest:
        _check_bounds(versions(python))
    install(python, *_TOOLS)
    seal.write_text(wanted)
    return python


def versions(python: Path) -> dict[str, str]:
    """Return what is installed, by the normalized name of the package, and the interpreter's own as `python`."""
    listed = json.loads(uv("pip", "list", "--quiet", "--format", "json", "--python", python))
    release = subprocess.run([python, "-V"], capture_output=True, text=True, check=True).stdout.split()[1]
    return {"python": release, **{re.sub(r"[-_.]+", "-", entry["name"]).lower(): entry["version"] for entry in listed}}


def lower_bounds(text: str) -> dict[str, str]:
    """Return package -> lowest admitted version, of the dependencies in a pyproject.toml."""
    (block,) = re.findall(r"^dependencies = \[\n(.*?)^\]", text, re.MULTILINE | re.DOTALL)
    return dict(re.findall(r'^ *"([\w-]+)>=([\d.]+)', block, re.MULTILINE))


def _check_bounds(installed: dict[str, str]) -> None:
    bounds = lower_bounds(_PROJECT.read_text())
    wrong = [f"{name} {installed[name]}, not {low}" for name, low in bounds.items() if _numbers(installed[name]) != _numbers(low)]
    if wrong:
        raise RuntimeError(f"the lowest versions that go together are not pyproject.toml's bounds: {'; '.join(wrong)}")


def _numbers(version: str) -> list[int]:
    """Return [2, 9] for 2.9, 2.9.0 and 2.9.0+cpu."""
    parts = [int(part) for part in version.partition("+")[0].split(".")]
    while parts and parts[-1] == 0:
        parts.pop()
    return parts


def _interpreter(environment: Environment) -> str:
    found = next(_runnable(environment.python), None)
    if found is None and environment.lowest:
        print(f"no Python {environment.python} here: the lowest versions are tried with {sys.version.split()[0]}", file=sys.stderr)
        return sys.executable
    if found is None:
        raise NotAtHand(f"no Python {environment.python} here")
    return found


def _runnable(version: str) -> Iterator[str]:
    """Yield the interpreters of this version: on the path, then pyenv's, whose shims on the path do not run unless chosen."""
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))
    candidates = [shutil.which(f"python{version}"), *map(str, sorted(pyenv.glob(f"versions/{version}.*/bin/python")))]
    for candidate in filter(None, candidates):
        done = subprocess.run([candidate, "-c", "import venv, sys; print(sys.version)"], capture_output=True, text=True, check=False)
        if done.returncode == 0 and done.stdout.startswith(f"{version}."):
            yield candidate


def install(python: Path, *arguments: object) -> None:
    links = [word for folder in os.environ.get("PIP_FIND_LINKS", "").split() for word in ("--find-links", folder)]
    uv("pip", "install", "--quiet", "--python", python, *links, *arguments)


def uv(*arguments: object) -> str:
    """Run uv, which trusts the certificates that this machine does. NotDownloaded where it fails and no versions contradict each other."""
    environment = {"UV_NATIVE_TLS": "1", "UV_SYSTEM_CERTS": "1", "UV_HTTP_TIMEOUT": "120", **os.environ}
    done = subprocess.run([sys.executable, "-m", "uv", *map(str, arguments)], capture_output=True, text=True, check=False, env=environment)
    sys.stderr.write(done.stderr)
    if done.returncode:
        kind = RuntimeError if "No solution found" in done.stderr else NotDownloaded
        raise kind(f"uv {' '.join(map(str, arguments))} ended with {done.returncode}")
    return done.stdout
