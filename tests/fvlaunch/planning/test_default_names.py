"""Runs and pipelines without a name get one that is free, however many are submitted within a second."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest

from fvlaunch.commands.submit import SubmitRequest
from fvlaunch.errors import NameTaken
from fvlaunch.lifecycle import pipeline_submit
from fvlaunch.lifecycle import submit as submission
from fvlaunch.planning.pipeline_plan import plan_pipeline
from tests.support.commands import write
from tests.support.isolation import isolate


@pytest.fixture(autouse=True)
def _away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    isolate(tmp_path, monkeypatch)


def _request(recipe: str, name: str | None = None) -> SubmitRequest:
    return SubmitRequest(recipe, "local", [], name, None, None, None, {})


def test_pipelines_that_are_planned_within_a_second_lie_in_folders_of_their_own(tmp_path: Path) -> None:
    write("two.yaml", {"stages": [{"name": "one", "recipe": "shapes-finetune"}, {"name": "two", "recipe": "shapes-finetune"}]})
    made = []
    for _ in range(3):
        plan: Any = plan_pipeline("./two.yaml", "local", sets=[], name=None, sbatch={}, runs_dir=None)
        made.append(pipeline_submit._made(plan, False, {}))
        assert all(stage.path.parent == plan.path and stage.pipeline == plan.name for stage in plan.stages)
    assert len({one.name for one in made}) == 3 and all(len(one.stages) == 2 for one in made)


def test_of_those_who_plan_one_name_at_once_each_makes_a_run(tmp_path: Path) -> None:
    request, names, start = _request("shapes-finetune"), list[str](), threading.Barrier(4)

    def shell() -> None:
        met: list[bool] = []

        def submit() -> str:
            _, plan = request.plan()
            if not met:
                met.append(True)
                start.wait(timeout=60)  # all have planned before one makes its folder
            return submission.prepare(plan, take_snapshot=False, request={}).name

        names.append(request.under_a_free_name(submit))

    shells = [threading.Thread(target=shell) for _ in range(4)]
    for one in shells:
        one.start()
    for one in shells:
        one.join()
    assert len(set(names)) == 4 and len(list((tmp_path / "runs").iterdir())) == 4


def test_a_name_that_was_asked_for_is_refused_where_it_is_taken() -> None:
    request = _request("shapes-finetune", "mine")
    _, plan = request.plan()
    submission.prepare(plan, take_snapshot=False, request={})
    with pytest.raises(NameTaken, match="a run named 'mine' exists already"):
        request.under_a_free_name(lambda: submission.prepare(plan, take_snapshot=False, request={}))
