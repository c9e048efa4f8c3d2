"""Where the figures come from: what a person wrote, else what the run itself has measured there, else a named default."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from fvlaunch.config.compose import compose
from fvlaunch.config.json_schema import schema
from fvlaunch.files import append_line
from fvlaunch.planning import planner, recovery_figures
from fvlaunch.planning.recovery_figures import Figures, conditions, gather
from fvlaunch.runs.directory import Run, create
from tests.support.isolation import isolate
from tests.support.profiles import CLUSTER
from tests.support.records import record


@pytest.fixture(autouse=True)
def beside_a_profile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    isolate(tmp_path, monkeypatch)
    Path("clusters").mkdir()
    _profile()


def _profile(**changes: Any) -> None:
    Path("clusters/lab.yaml").write_text(yaml.safe_dump({**CLUSTER, **changes}))


def _figures(recipe: str = "finetune", cluster: str | None = "lab") -> Figures:
    composed = compose(recipe, cluster)
    return gather(composed, planner.plan_of(composed, name="a", ranks=4, nodes=None, sbatch={}, runs_dir=None))


def _run(*attempts: list[dict[str, Any]], cluster: str = "lab") -> Run:
    """Make a run on the cluster whose attempts have these events, each at a second."""
    run = create(Path("runs/one"), record("one", cluster=cluster, executor="slurm"))
    composed = compose("shapes-finetune", "lab")
    run.config_file.write_text(
        yaml.safe_dump({"recipe": composed.recipe_data, "cluster": composed.cluster_data, "lock": {"cluster": "lab"}})
    )
    for number, events in enumerate(attempts, 1):
        for event in events:
            append_line(run.attempt_log(number), {"attempt": number, "generation": 1, "job_id": "7", "nodes": ["n1"], **event})
    return run


FIRST = [
    {"event": "started", "time": 0.0},
    {"event": "checkpoint", "time": 50.0, "step": 5, "save_s": 8.0, "stall_s": 0.5},
    {"event": "ended", "time": 100.0, "cause": "interrupted"},
    {"event": "decided", "time": 100.0, "next": "requeue"},
]
SECOND = [
    {"event": "started", "time": 400.0},
    {"event": "resumed", "time": 440.0, "step": 5},
    {"event": "checkpoint", "time": 500.0, "step": 9, "save_s": 10.0, "stall_s": 0.7},
    {"event": "ended", "time": 600.0, "cause": "crash"},
    {"event": "decided", "time": 600.0, "next": "restart"},
]
THIRD = [{"event": "started", "time": 601.0}, {"event": "resumed", "time": 621.0, "step": 9}]


def test_without_records_each_default_is_named() -> None:
    figures = _figures("dmd2")
    assert figures["failures_per_node_day"].value == 0.0065 and "arXiv:2410.21680" in figures["failures_per_node_day"].origin
    assert figures["detection_s"].value == 120 and "limits.head_silence_s" in figures["detection_s"].origin
    assert all(figure.origin.startswith(("default", "computed")) for figure in figures.values())
    size = 2 * 1.42e9 * 4 * 3 + 1.42e9 * 4  # of Wan 1.3B: student and critic with AdamW's two states, the student's average; float32
    assert figures["stall_s"].value == pytest.approx(0.5 + size / 4 / 5e9, rel=0.02)  # sharded over 4
    assert figures["save_s"].value == pytest.approx(figures["stall_s"].value + size / 1e9, rel=0.02)
    assert figures["usable_s"].value == 3600 - (2 * figures["save_s"].value + 30)
    assert conditions(figures).notice_s is None


def test_a_runs_own_records_come_before_defaults() -> None:
    _run(FIRST, SECOND, THIRD)
    figures = _figures("runs/one/run.yaml", None)
    assert (figures["save_s"].value, figures["stall_s"].value) == (9.0, pytest.approx(0.6))
    assert (figures["start_s"].value, figures["start_s"].origin) == (30.0, "measured: 2 starts")
    assert (figures["requeue_wait_s"].value, figures["requeue_wait_s"].origin) == (300.0, "measured: 1 wait")  # a restart in place is none


def test_what_a_person_wrote_comes_before_what_was_measured() -> None:
    _profile(reliability={"start_s": 77.0, "save_gb_per_s": 4.0})
    _run(FIRST, SECOND)
    figures = _figures("runs/one/run.yaml", None)
    assert figures["start_s"].value == 77 and "run.yaml:" in figures["start_s"].origin
    assert figures["save_s"].origin.startswith("computed") and "4 GB/s" in figures["save_s"].origin
    assert figures["requeue_wait_s"].origin.startswith("measured")


@pytest.mark.parametrize("attempts", [[FIRST[:1]], [[{"event": "started"}], FIRST], [[], SECOND]])
def test_records_that_say_little_leave_the_defaults(attempts: list[list[dict[str, Any]]]) -> None:
    _run(*attempts)
    assert _figures("runs/one/run.yaml", None)["requeue_wait_s"].origin.startswith("default")


def test_another_cluster_has_not_measured_anything() -> None:
    _run(FIRST, SECOND, THIRD)
    Path("clusters/other.yaml").write_text(Path("clusters/lab.yaml").read_text())
    assert all(not figure.origin.startswith("measured") for figure in _figures("runs/one/run.yaml", "other").values())


def test_each_default_stands_in_the_meaning_of_its_key() -> None:
    meanings = schema("cluster")["definitions"]["Reliability"]["properties"]
    named = {
        "failures_per_node_day": recovery_figures.FAILURES_PER_NODE_DAY, "requeue_wait_s": recovery_figures.REQUEUE_WAIT_S,
        "start_s": recovery_figures.START_S, "save_gb_per_s": recovery_figures.SAVE_GB_PER_S,
        "stage_gb_per_s": recovery_figures.STAGE_GB_PER_S,
    }  # fmt: skip
    assert all(f"{value:g}" in meanings[key]["description"].partition("null: ")[2] for key, value in named.items())
