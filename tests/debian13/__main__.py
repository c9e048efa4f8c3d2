"""Runs the Slurm tests in a Debian 13 system, whose Slurm is 24.11: `python -m tests.debian13 [--folder DIR] [PYTEST ARGUMENTS]`.

The system is made in a folder by debootstrap, 1 GB, and deleted after the tests unless --folder says where to keep it. Ends with pytest's
exit code, or with 3 where the system cannot be made. Must not decide which tests there are: the marker `slurm` does.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from tests.debian13.root import CannotBeMade, make, run, slurm_version

EXIT_NOT_MADE = 3
_PYTEST = (sys.executable, "-m", "pytest", "-p", "no:cacheprovider")
_EVERYDAY = ("-n", "2", "-m", "slurm and not long", "-k", "not accounts", "tests")
"""Not with accounts: Debian 13's slurmdbd and its MariaDB client library do not go together."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Make the system, run pytest in it and return its exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.debian13", description="Run the Slurm tests in Debian 13, on Slurm 24.11.")
    parser.add_argument("--folder", type=Path, help="make the system there and keep it; default: a temporary folder")
    given, chosen = parser.parse_known_args(arguments)
    with tempfile.TemporaryDirectory(prefix="debian13-", ignore_cleanup_errors=True) as temporary:
        root = (given.folder or Path(temporary)).absolute()
        try:
            print(f"== Debian 13 in {root}", flush=True)
            make(root)
            print(f"== Slurm {slurm_version(root)}", flush=True)
        except CannotBeMade as error:
            print(error, file=sys.stderr)
            return EXIT_NOT_MADE
        return run(root, [*_PYTEST, *(chosen or _EVERYDAY)])


if __name__ == "__main__":
    sys.exit(main())
