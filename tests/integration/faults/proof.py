"""Owns proofs that distilling works: students of the stored shapes teacher, trained and measured as a person would do it.

Must not judge what was measured: which figures are enough is for the tests to say.

The teacher was made by `fvlaunch submit shapes-finetune --set train.max_steps=2500 --name teacher --wait` and
`fvlaunch export teacher --weights ema --to tests/fixtures/shapes_teacher`.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from tests.support.launcher import Workspace
from tests.support.paths import SHAPES_TEACHER

SHORT = {"resources.threads_per_rank": 1, "train.data.prepare.repeats": 2}
Table = dict[str, dict[str, Any]]
"""evaluation.json: figures by row."""


class Proof:
    """A workspace with the stored teacher in models/shapes-teacher."""

    def __init__(self, folder: Path) -> None:
        self.workspace = Workspace(folder)
        shutil.copytree(SHAPES_TEACHER, folder / "models/shapes-teacher")

    def train(self, name: str, recipe: str, **changes: Any) -> None:
        """Train a run to its end; `changes` are keys of the recipe's train block."""
        values = {**SHORT, **{f"train.{key}": value for key, value in changes.items()}}
        words = (word for key, value in values.items() for word in ("--set", f"{key}={json.dumps(value)}"))
        self.workspace.submit(name, *words, recipe=recipe, cluster="local")
        assert self.workspace.finish(name, timeout_s=1500)["state"] == "finished", self.workspace.told()

    def export(self, name: str) -> str:
        """Export a run's averaged weights to models/NAME; return that folder."""
        self.workspace.call("export", name, "--weights", "ema", "--to", f"models/{name}")
        return f"{self.workspace.folder}/models/{name}"

    def measure(self, *students: str, without: tuple[str, ...], **evaluate: Any) -> Table:
        """Measure runs' averaged weights beside the rows of shapes-evaluate but those left out; `evaluate` are keys of its block."""
        rows = {name: {"source": f"runs/{name}", "weights": "ema"} for name in students}
        block = {"rows": {**dict.fromkeys(without), **rows}, **evaluate}
        self.workspace.write("measure.yaml", {"extends": "shapes-evaluate", "evaluate": block})
        done = self.workspace.call("submit", "./measure.yaml", "--cluster", "local", "--name", "measure", "--wait", timeout_s=900)
        assert f"| {students[0]} | 4 |" in done.stderr  # a person sees the table
        assert (self.workspace.runs / "measure/evaluation.png").is_file()
        found: Table = json.loads((self.workspace.runs / "measure/evaluation.json").read_text())
        print(json.dumps(found, indent=1))
        return found
