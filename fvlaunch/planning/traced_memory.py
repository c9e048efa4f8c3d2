"""Owns the simulation of a plan's steps on a GPU that is not there, which another program makes in a process of its own. Must not estimate,
import that program, or end a submission where it fails.

FVLAUNCH_GPU_SIM names a folder that `python -m tests.gpu make` has made in a checkout of this project (tests/README.md, "Without a
GPU"). Its program `simulate` takes a recipe, and prints what it has measured as JSON.
"""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..config.strict_yaml import dump
from .gpu_memory import gb
from .plan import Plan

VARIABLE = "FVLAUNCH_GPU_SIM"
PROGRAM = "simulate"
_MAKE = "in a checkout of fvlaunch: python -m tests.gpu make --folder FOLDER (7 GB), then export FVLAUNCH_GPU_SIM=FOLDER"


class NotTraced(Exception):
    """A plan that is not simulated; the argument says why, and what helps."""


@dataclass(frozen=True)
class Traced:
    """What was measured of one rank, in bytes."""

    figures: dict[str, Any]
    """All of it, as the program printed it."""

    @property
    def versions(self) -> str:
        return ", ".join(f"{name} {version}" for name, version in self.figures["versions"].items())

    @property
    def kept(self) -> dict[str, int]:
        """What each role takes all the time."""
        return {role: sum(parts.values()) for role, parts in self.figures["roles"].items()}

    @property
    def reserved(self) -> dict[str, int]:
        """The most that torch's allocator took from the device, by the kind of step."""
        return {kind: phase["reserved"] or 0 for kind, phase in self.figures["phases"].items()}


def program(plan: Plan) -> Path:
    """Return the program that simulates a plan. NotTraced where there is none, or nothing to simulate."""
    if "train" not in plan.recipe:
        raise NotTraced("only what trains is simulated")
    named = os.environ.get(VARIABLE)
    if not named:
        raise NotTraced(f"nothing here can simulate a GPU: {VARIABLE} is not set; {_MAKE}")
    path = Path(named).absolute() / PROGRAM
    if not path.is_file():
        raise NotTraced(f"{VARIABLE} names {named}, which has no program {PROGRAM}; {_MAKE}")
    return path


def trace(plan: Plan) -> Traced:
    """Simulate the steps of one rank of a plan that trains. Takes from half a minute to some minutes. NotTraced where that fails."""
    path = program(plan)
    with tempfile.TemporaryDirectory(prefix="fvlaunch-") as folder:
        recipe = Path(folder) / f"{plan.name}.yaml"
        recipe.write_text(dump(plan.recipe), encoding="utf-8")
        command = [str(path), str(recipe), "--ranks", str(plan.ranks), "--json"]
        try:
            done = subprocess.run(command, capture_output=True, text=True, check=False)
        except OSError as error:
            raise NotTraced(f"{path} does not start: {error}; {_MAKE}") from None
    try:
        (figures,) = json.loads(done.stdout)
        traced = Traced(figures)
        _ = traced.kept, traced.reserved, traced.versions
    except (ValueError, KeyError, TypeError, AttributeError):
        said = done.stderr.strip().splitlines()
        raise NotTraced(f"{path} ended with {done.returncode}: {said[-1] if said else 'it said nothing'}") from None
    return traced


def lines(needs: Any, traced: Traced) -> list[str]:
    """Return the estimate and the simulation side by side."""
    rows = [("", "estimated", "simulated")]
    for role in needs.roles:
        if role.role in traced.kept:
            known = "not known" if role.parameters is None else gb(role.kept - role.gradients)
            rows.append((f"{role.role}, between steps", known, gb(traced.kept[role.role])))
    at_most = max(traced.reserved.values(), default=0)
    rows.append(("at most", "not known" if needs.unknown else gb(needs.peak), gb(at_most)))
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    table = [f"  {name:<{widths[0]}}  {one:>{widths[1]}}  {other:>{widths[2]}}" for name, one, other in rows]
    each = ", ".join(f"{kind} {gb(size)}" for kind, size in traced.reserved.items())
    return [f"simulated on one rank, without a GPU ({traced.versions}); at most by kind of step: {each}", *table]
