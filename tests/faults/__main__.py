"""All faults that the suite injects, row by row with figures: `python -m tests.faults [--long] [--keep] [-n N] [ROW ...] [-- PYTEST'S]`.

Runs the tests that stand for the rows of scenarios.py, wherever they lie, and prints a markdown table of them. Ends as pytest ends: with
1 if a row does not hold. It must not judge anything itself; the tests do.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from tests.faults import results
from tests.faults.scenarios import SCENARIOS
from tests.support import row_table
from tests.support.rows import FAULTS


def arguments_of(words: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
    """Return what a person wrote, and what is pytest's: all that stands after `--`."""
    parser = argparse.ArgumentParser("python -m tests.faults", description="Inject the faults and print what came of them.")
    parser.add_argument("rows", metavar="ROW", nargs="*", choices=[*SCENARIOS, []], help="only these: 1, 14, H3; all if there is none")
    parser.add_argument("--long", action="store_true", help="with the big counts and the slow ones")
    parser.add_argument("--keep", action="store_true", help="put the lines in the place of those of the same rows in RESULTS.md")
    parser.add_argument("-n", default="0", metavar="N", help="worker processes")
    end = list(words).index("--") if "--" in words else len(words)
    return parser.parse_args(words[:end]), list(words[end + 1 :])


def main(words: Sequence[str] | None = None) -> int:
    """Run the rows' tests and print the table. Returns pytest's exit code."""
    given, own = arguments_of(sys.argv[1:] if words is None else words)
    rows = [number for number in SCENARIOS if number in given.rows or not given.rows]
    long = ["--long-form"] if given.long else []
    spread = ["-n", given.n, "--dist", "loadfile", "--no-loadscope-reorder"]
    code, lines = row_table.run(FAULTS, [*row_table.files("fault"), "--rows", ",".join(rows), *long, *spread, *own])
    print(f"\n{results.text(lines, rows)}")
    if given.keep:
        results.keep(lines, rows)
    return code


if __name__ == "__main__":
    sys.exit(main())
