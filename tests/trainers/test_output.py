"""Promises of what a rank prints: a log that cannot be written ends nothing, and what it lacks is named in it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.paths import ROOT
from tests.support.small_disk import small_disk

PRINTS = """
import os, sys, warnings
from pathlib import Path
sys.path.insert(0, {root!r})
from trainers.output import outlive_full_disk
outlive_full_disk()
import logging
logging.basicConfig(stream=sys.stderr, format="%(message)s", force=True)
def everything(number):
    print("printed", number)
    sys.stdout.write("written %d\\n" % number)
    print("no line", end="\\r", flush=True)
    logging.warning("logged %d", number)
    warnings.warn("warned %d" % number)
"""
UNTIL_FULL = """
import tests.support.disk as disks
everything(1)
filler = Path("filler")
disks.fill(filler)
for number in range(2, int(sys.argv[1])):
    everything(number)
filler.unlink()
everything(0)
"""


def run(folder: Path, program: str, log: Path, *arguments: str) -> subprocess.CompletedProcess[bytes]:
    with log.open("ab") as stream:
        return subprocess.run(
            [sys.executable, "-c", PRINTS.format(root=str(ROOT)) + program, *arguments],
            stdout=stream,
            stderr=stream,
            cwd=folder,
            check=False,
        )


@pytest.mark.parametrize("log", ["/dev/full", "/dev/null"])
def test_a_log_that_takes_nothing_ends_nothing(tmp_path: Path, log: str) -> None:
    program = "for number in range(2000): everything(number)\nassert sys.stderr.fileno() == 2 and not sys.stdout.isatty()\nsys.exit(7)"
    assert run(tmp_path, program, Path(log)).returncode == 7


def test_a_full_disk_keeps_the_newest_output_back_until_there_is_room(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", kb=400) as disk:
        few, many = disk.path / "few", disk.path / "many"
        assert run(disk.path, UNTIL_FULL, few, "100").returncode == 0
        lines = few.read_text().replace("\r", "\n").splitlines()
        assert [line for line in lines if line.startswith(("printed", "logged"))][:4] == ["printed 1", "logged 1", "printed 2", "logged 2"]
        assert {f"printed {number}" for number in range(100)} <= set(lines) and not [line for line in lines if "missing" in line]
        few.unlink()
        assert run(disk.path, UNTIL_FULL, many, "3000").returncode == 0
        text = many.read_text()
        assert text.count("bytes of output are missing here") == 2  # one for each of standard output and error
        assert all(f"{what} {number}\n" in text for what in ("printed", "written", "logged") for number in (1, 2999, 0))
