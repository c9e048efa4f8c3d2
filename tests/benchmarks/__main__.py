"""All figures that need no GPU: `python -m tests.benchmarks [--quick] [NAME ...]` from a clone's root.

Runs every script of this folder but cuda.py, one after another, each in a process of its own. Prints one markdown document, progress
on stderr; ends with 1 if any script did. A script is a file with a `__main__` part; one that takes a number of rounds has ROUNDS = N.
"""

from __future__ import annotations

import argparse
import os
import platform
import re
import subprocess
import sys
import time
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

FOLDER = Path(__file__).resolve().parent
ROOT = FOLDER.parents[1]
NEEDS_A_GPU = "cuda.py"
_QUICK = 4
"""--quick: a so-manieth of the rounds."""


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    found = scripts(FOLDER)
    if unknown := sorted(set(options.names) - {path.stem for path in found}):
        _parser().error(f"no benchmark is called {', '.join(unknown)}; there are {', '.join(path.stem for path in found)}")
    chosen = [path for path in found if path.stem in options.names or not options.names]
    print(f"# Benchmarks on the CPU\n\n{_machine()}", flush=True)
    failed = [path.name for number, path in enumerate(chosen, 1) if not _run(path, options.quick, f"{number} of {len(chosen)}")]
    if failed:
        print(f"\n**Not kept:** {', '.join(failed)}")
    return int(bool(failed))


def scripts(folder: Path) -> list[Path]:
    """Those that run by themselves, by name."""
    others = ("__main__.py", NEEDS_A_GPU)
    return [path for path in sorted(folder.glob("*.py")) if path.name not in others and "\nif __name__ ==" in path.read_text()]


def rounds(source: str, quick: bool) -> list[str]:
    """The argument for a script's number of rounds: none where it takes none, or is to take its own."""
    found = re.search(r"^ROUNDS(?:: int)? = (\d+)", source, re.MULTILINE)
    return [str(max(1, int(found[1]) // _QUICK))] if quick and found else []


def _run(path: Path, quick: bool, which: str) -> bool:
    source = path.read_text()
    print(f"[{which}] {path.name} ...", file=sys.stderr, flush=True)
    started = time.monotonic()
    done = subprocess.run([sys.executable, str(path), *rounds(source, quick)], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    print(f"[{which}] {path.name}: exit {done.returncode} after {time.monotonic() - started:.0f} s", file=sys.stderr, flush=True)
    print(f"\n## {path.name}\n\n{_first_sentence(source)}\n\n{done.stdout.strip() or '(it printed nothing)'}", flush=True)
    if done.returncode:
        print(f"\n**Exit code {done.returncode}**", flush=True)
    return done.returncode == 0


def _first_sentence(source: str) -> str:
    found = re.match(r'"""(.+?)(?::|\.)? *(?:`|\n|""")', source)
    return f"{found[1].strip().rstrip(':.')}." if found else ""


def _machine() -> str:
    """What figures depend on, and whether others were using it."""
    load, cores = os.getloadavg()[0], os.cpu_count() or 1
    busy = f"busy machine: load {load:.1f} on {cores} cores at the start" if load > 0.2 * cores else f"idle at the start, {cores} cores"
    return f"{platform.machine()}, Python {platform.python_version()}, torch {version('torch')}; {busy}."


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description="The figures that need no GPU, as one document.")
    parser.add_argument("names", nargs="*", metavar="NAME", help="only these scripts, such as launcher")
    parser.add_argument("--quick", action="store_true", help=f"a {_QUICK}th of the rounds")
    return parser


if __name__ == "__main__":
    sys.exit(main())
