"""What is told before a job waits in a queue, when a run goes on, and at its end."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from fvlaunch.planning import planner
from fvlaunch.runs.directory import Run
from tests.support.launcher import RECIPE, Workspace
from tests.support.world import row


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """A folder with recipes of the smallest size and a local cluster."""
    workspace = Workspace(tmp_path_factory.mktemp("told"))
    workspace.slurm_cluster()
    schedule = {"kind": "cosine"}
    train = {"max_steps": 4, "optimizers": {"student": {"kind": "adamw", "lr": 1e-3, "schedule": schedule}}}
    workspace.write("templates/recipes/short.yaml", _with(RECIPE, {"resources": {"ranks": 1}, "train": train}))
    return workspace


def _with(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """Return `base` with `over` laid over it; a mapping of optimizers replaces that of the base."""
    merged = {**base, **{key: value for key, value in over.items() if not isinstance(value, dict) or key == "optimizers"}}
    deeper = {key: value for key, value in over.items() if isinstance(value, dict) and key != "optimizers"}
    return {**merged, **{key: _with(base.get(key, {}), value) for key, value in deeper.items()}}


def _rates(run: Path) -> list[float]:
    return [json.loads(line)["lr"] for line in (run / "metrics.jsonl").read_text().splitlines()]


@row("38", "resume with more steps under a cosine schedule")
@pytest.mark.long
def test_a_learning_rate_that_jumps_is_told_at_resume_with_both_numbers(here: Workspace) -> None:
    run = here.submit("cosine", "--wait", recipe="short")
    assert "learning rate" not in here.call("resume", "cosine", "--set", "train.max_steps=4", check=False).stderr
    said = here.call("resume", "cosine", "--set", "train.max_steps=8", "--wait").stderr
    before, after = _rates(run)[3:5]
    assert after > 2 * before
    assert f"step 4 had {before:.2e}".replace("e-0", "e-")[:-4] in said and "step 5 gets 5e-4" in said and after == pytest.approx(5e-4)


@row("38", "resume with more steps under a cosine schedule")
def test_a_resume_that_is_only_planned_holds_both_numbers(here: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(here.folder)
    run = Run(here.submit("planned", "--prepare", recipe="short", cluster="real"))
    (run.checkpoints / "step-00000004").mkdir(parents=True)
    (run.checkpoints / "step-00000004/MANIFEST.json").touch()
    plan = planner.plan_resume(run, None, sets=["train.max_steps=8"], ranks=None, sbatch={})
    assert "step 4 had 1.46e-4, step 5 gets 5e-4" in plan.notes[0]
