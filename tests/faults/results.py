"""Owns the table of faults as text, and the last one of the long form, which RESULTS.md keeps with its day and machine. Judges nothing."""

from __future__ import annotations

import os
import platform
import re
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

import torch

from tests.faults.scenarios import SCENARIOS
from tests.integration.slurm.cluster_files import missing_programs, search_path
from tests.support.row_table import Line

PAGE = Path(__file__).with_name("RESULTS.md")
HEAD = ["| row | injected | trials | figure | verdict |", "|---|---|---:|---|---|"]
NO_TEST, NOT_RUN = "**NO TEST**", "not run yet"


def text(lines: Sequence[Line], rows: Sequence[str]) -> str:
    """Return the table of these rows: for each its scenario with what must hold, and below it what was injected with its figures."""
    parts = [part for number in rows for part in _row(number, [_line(line) for line in lines if line.number == number], NO_TEST)]
    return "\n".join([*HEAD, *parts])


def keep(lines: Sequence[Line], rows: Sequence[str]) -> None:
    """Put these rows into the kept table, and leave the others as they were measured."""
    kept = _kept()
    own = f"{time.strftime('%Y-%m-%d', time.gmtime())}: {machine()}"
    for number in rows:
        if new := [f"{_line(line)} {own} |" for line in lines if line.number == number and line.num_run]:
            kept[number] = new
    parts = [part for number in SCENARIOS for part in _row(number, kept.get(number, []), NOT_RUN, " |")]
    head = PAGE.read_text().partition("| row |")[0]
    PAGE.write_text("\n".join([f"{head}{HEAD[0]} when and where |", f"{HEAD[1]}---|", *parts]) + "\n")


def machine() -> str:
    """Return what the figures depend on: cores, memory and versions; no name of a host and no path."""
    memory_gb = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    facts = f"{len(os.sched_getaffinity(0))} cores, {memory_gb:.0f} GB, Python {platform.python_version()}, torch {torch.__version__}"
    if missing_programs():
        return f"{facts}, no Slurm"
    said = subprocess.run(["slurmctld", "-V"], env={**os.environ, "PATH": search_path()}, capture_output=True, text=True, check=True).stdout
    return f"{facts}, {said.strip()}"


def _row(number: str, lines: list[str], otherwise: str, end: str = "") -> list[str]:
    scenario, must_hold = SCENARIOS[number]
    return [f"| **{number}** | **{scenario}**: {must_hold} | | | {'' if lines else otherwise} |{end}", *lines]


def _line(line: Line) -> str:
    return f"| {line.number} | {line.given} | {line.num_trials or ''} | {line.figure()} | {line.verdict} |"


def _kept() -> dict[str, list[str]]:
    """number -> lines of the kept table; without the scenarios, which are written anew."""
    found: dict[str, list[str]] = {}
    for line in PAGE.read_text().splitlines():
        if match := re.match(r"\| (H?\d+) \|", line):
            found.setdefault(match[1], []).append(line)
    return found
