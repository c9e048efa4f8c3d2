"""How long the command line takes, as a whole process: `python tests/benchmarks/launcher.py [ROUNDS]`.

Measured against a bare typer app of two commands in the same interpreter, by turns, so that a busy machine slows both. Prints
a table; ends with 1 where a ratio is above its limit.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
LIMIT = 1.5
ROUNDS = 21
BARE = """
import typer

app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)


@app.command()
def one(name: str = "x") -> None:
    "The first command."


@app.command()
def two(name: str = "x") -> None:
    "The second command."


app()
"""
"""Without rich, which typer's defaults load for --help: the lower bar would be three times as easy."""


@dataclass(frozen=True)
class Case:
    name: str
    ours: list[str]
    bare: list[str]


CASES = (
    Case("`fvlaunch --help`", ["--help"], ["--help"]),
    Case("`fvlaunch status`, no runs", ["status"], ["one"]),
)


def main(rounds: int) -> int:
    with tempfile.TemporaryDirectory() as folder:
        bare = Path(folder) / "bare.py"
        bare.write_text(BARE)
        rows = [(case.name, *_measure(case, bare, rounds)) for case in CASES]
    print("| command | fvlaunch | bare typer app | ratio | limit |\n|---|---:|---:|---:|---:|")
    for name, ours, theirs, ratio in rows:
        print(f"| {name} | {ours * 1000:.0f} ms | {theirs * 1000:.0f} ms | {ratio:.2f} | {LIMIT} |")
    print(f"\nmedians of {rounds} rounds by turns; the ratio is the median of the rounds' ratios")
    return int(any(row[-1] > LIMIT for row in rows))


def _measure(case: Case, bare: Path, rounds: int) -> tuple[float, float, float]:
    """(median of ours, of theirs, median of the rounds' ratios) in seconds, after a round that fills the caches."""
    ours, theirs = ["-m", "fvlaunch", *case.ours], [str(bare), *case.bare]
    pairs = [(_seconds(ours, bare.parent), _seconds(theirs, bare.parent)) for _ in range(rounds + 1)][1:]
    return (*(statistics.median(side) for side in zip(*pairs, strict=True)), statistics.median(a / b for a, b in pairs))  # type: ignore[return-value]


def _seconds(words: list[str], folder: Path) -> float:
    env = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")])),
        "XDG_STATE_HOME": str(folder),
        "XDG_CONFIG_HOME": str(folder),
    }
    env.pop("PYTHONDONTWRITEBYTECODE", None)
    env["PYTHONPYCACHEPREFIX"] = str(folder / "compiled")
    started = time.perf_counter()
    subprocess.run([sys.executable, *words], cwd=folder, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=True)
    return time.perf_counter() - started


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]) if len(sys.argv) > 1 else ROUNDS))
