"""What people really have, row by row with its verdict: `python -m tests.world [--long] [anything that pytest takes]`.

Runs the tests of this folder, each of which stands for one reported input or site, and prints a markdown table of them. Ends as pytest
ends: with 1 if a row does not hold. It must not judge anything itself; the tests do.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from tests.support import row_table
from tests.support.rows import WORLD

FOLDER = Path(__file__).resolve().parent


def text(lines: Sequence[row_table.Line]) -> str:
    """Return the table in the order of the rows' numbers; a row of several tests fails with the first that does."""
    rows = [f"| {line.number} | {line.given} | {line.verdict}{_several(line)} |" for line in lines]
    return "\n".join(["| row | input | verdict |", "|---|---|---|", *rows])


def _several(line: row_table.Line) -> str:
    return f" ({line.num_run} tests)" if line.num_run > 1 else ""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the folder's tests and print the table. Returns pytest's exit code."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    code, lines = row_table.run(WORLD, [str(FOLDER), *("--long-form" if word == "--long" else word for word in given)])
    print(f"\n{text(lines)}")
    return code


if __name__ == "__main__":
    sys.exit(main())
