"""Tries the versions that we admit: `python -m tests.versions [NAME ...]` makes environments, runs the short suite in each, prints a table.

Ends with 1 if one fails, with 3 if none does and one could not be downloaded. An environment takes some GB (PyPI's torch is a CUDA build)
and is deleted after its trial, unless --folder says where to keep it. Must not judge versions itself: the short suite does.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from tests.versions.environments import ENVIRONMENTS, ROOT, NotAtHand, NotDownloaded, make, versions

EXIT_NOT_DOWNLOADED = 3
_NOT_DOWNLOADED = "not downloaded"
_SHOWN = ("torch", "diffusers", "transformers", "peft", "pydantic", "typer", "pyarrow", "submitit", "numpy", "av")


def main(arguments: Sequence[str] | None = None) -> int:
    """Try the named environments, or all; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.versions", description="Try the versions that pyproject.toml admits.")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"{', '.join(ENVIRONMENTS)}; default: all")
    parser.add_argument("--folder", type=Path, help="make them there and keep them, one folder each; default: a temporary folder")
    parser.add_argument("--make", action="store_true", help="only make them")
    given = parser.parse_args(arguments)
    if unknown := [name for name in given.names if name not in ENVIRONMENTS]:
        parser.error(f"there is no {', '.join(unknown)}")
    with tempfile.TemporaryDirectory() as temporary:
        rows = [_row(name, given.folder or Path(temporary), given.make, given.folder is not None) for name in given.names or ENVIRONMENTS]
    print(f"\n| environment | python | {' | '.join(_SHOWN)} | made | tried | verdict |\n{'|---' * (len(_SHOWN) + 5)}|")
    print("\n".join(rows))
    if any("FAILS" in row for row in rows):
        return 1
    return EXIT_NOT_DOWNLOADED if any(_NOT_DOWNLOADED in row for row in rows) else 0


def _row(name: str, parent: Path, only_made: bool, keep: bool) -> str:
    """Make the environment and try it; return its row of the table."""
    print(f"== {name}", flush=True)
    environment, folder, started = ENVIRONMENTS[name], parent / name, time.monotonic()
    try:
        python = make(environment, folder)
    except (NotAtHand, NotDownloaded, RuntimeError) as error:
        print(error, file=sys.stderr)
        verdicts = {NotAtHand: "not at hand", NotDownloaded: _NOT_DOWNLOADED}
        verdict = verdicts.get(type(error), "**FAILS** to be made")
        return f"| {name} | {environment.python} |{' |' * (len(_SHOWN) + 2)} {verdict} |"
    made = time.monotonic()
    verdict = "made" if only_made else "**FAILS**" if run_short_suite(python) else "holds"
    tried, installed = time.monotonic(), versions(python)
    if not keep:
        shutil.rmtree(folder)
    shown = [installed[package] for package in ("python", *_SHOWN)]
    cells = [name, *shown, f"{made - started:.0f} s", f"{tried - made:.0f} s", verdict]
    return f"| {' | '.join(cells)} |"


def run_short_suite(python: Path) -> int:
    """Run the short suite by that interpreter and return pytest's exit code. What its packages warn of is not ours to mend."""
    command = [str(python), "-m", "pytest", "-W", "default", "--disable-warnings", "-n", "2", "tests/versions/short_suite.py"]
    environment = {**os.environ, "PATH": f"{python.parent}{os.pathsep}{os.environ['PATH']}", "HF_HUB_OFFLINE": "1"}
    return subprocess.run(command, cwd=ROOT, env=environment, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
