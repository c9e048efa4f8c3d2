"""Owns a pipeline that tests can break and mend: two tiny stages, the second trained from the weights of the first."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

from tests.support.launcher import RECIPE, Workspace

GATED = '''
"""Finetuning that refuses to begin while a file says so, and takes its time."""
import time
from pathlib import Path

from trainers.errors import UserError
from trainers.methods.finetune import FineTuneMethod


class Gated(FineTuneMethod):
    def __init__(self, cfg, role_models):
        own = cfg.method.model_extra
        if Path(own["gate"]).exists():
            raise UserError("the gate is shut", "open it")
        self.pace_s = own["pace_s"]
        known = {"weighting_scheme": "uniform", "precondition_outputs": False}
        super().__init__(cfg.model_copy(update={"method": cfg.method.model_copy(update=known)}), role_models)

    def single_train_step(self, batch, iteration):
        time.sleep(self.pace_s)
        return super().single_train_step(batch, iteration)
'''
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
    """A workspace with the pipeline `chain` in it."""

    def __init__(self, workspace: Workspace, *, pace_s: float = 0.2, steps: int = 12) -> None:
        self.workspace = workspace
        self.gate = workspace.folder / "gate"
        small = copy.deepcopy(RECIPE)
        small["resources"]["ranks"] = 1
        small["train"].update(max_steps=4, tracking={"tensorboard": False}, checkpoint={"every_steps": 4, "every_minutes": None})
        gated = copy.deepcopy(small)
        gated["train"].update(max_steps=steps, method={"kind": "./gated.py:Gated", "pace_s": pace_s, "gate": str(self.gate)})
        workspace.write("gated.py", GATED)
        workspace.write("templates/recipes/small.yaml", small)
        workspace.write("templates/recipes/gated.yaml", gated)
        workspace.write("templates/pipelines/chain.yaml", PIPELINE)

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
