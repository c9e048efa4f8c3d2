"""Owns a pipeline that tests can break, hold and mend: two tiny stages, the second trained from the weights of the first."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

from tests.support import gates
from tests.support.launcher import RECIPE, Workspace

PIPELINE: dict[str, Any] = {
    "description": "A gated stage, then one that starts from its weights",
    "stages": [
        {"name": "first", "recipe": "gated"},
        {
            "name": "second",
            "recipe": "small",
            "set": {"train.models.student.architecture": None, "train.models.student.init_from": {"stage": "first", "export": "ema"}},
        },
    ],
}


class Chain:
    """A workspace with the pipeline `chain` in it. Its first stage fails while the file `refuse` is there, else it waits at its gate."""

    def __init__(self, workspace: Workspace, *, steps: int = 12) -> None:
        self.workspace = workspace
        self.refuse = workspace.folder / "refuse"
        small = copy.deepcopy(RECIPE)
        small["resources"]["ranks"] = 1
        small["train"].update(max_steps=4, tracking={"tensorboard": False}, checkpoint={"every_steps": 4, "every_minutes": None})
        gated = copy.deepcopy(small)
        gated["train"].update(max_steps=steps, method={**gates.METHOD, "refuse": str(self.refuse)})
        workspace.write("templates/recipes/small.yaml", small)
        workspace.write("templates/recipes/gated.yaml", gated)
        workspace.write("templates/pipelines/chain.yaml", PIPELINE)

    def first(self, name: str) -> gates.Gate:
        """The gate of the first stage."""
        return self.workspace.gate(f"{name}/first")

    def path(self, name: str, stage: str) -> Path:
        return self.workspace.runs / name / stage

    def record(self, name: str, stage: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.path(name, stage) / "run.json").read_text())
        return found

    def states(self, name: str) -> tuple[str, str, str]:
        """Of the whole, of the first and of the second stage."""
        whole = self.workspace.status(name)
        first, second = whole["stages"]
        return whole["state"], first["state"], second["state"]

    def started_from(self, name: str) -> dict[str, Any]:
        """What the second stage's weights were exported from."""
        found: dict[str, Any] = json.loads((self.path(name, "first") / "export-ema/training.json").read_text())
        return found
