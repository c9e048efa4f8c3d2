"""`checkpoint.every_minutes: auto`: a number in every run, with its origin; refused where nothing says what it should be."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from fvlaunch.config.compose import compose
from fvlaunch.errors import ConfigError
from fvlaunch.planning import planner
from fvlaunch.planning.checkpoint_interval import days, rounded
from fvlaunch.planning.effective_training import daly_s
from fvlaunch.runs.directory import Run, create
from tests.support.plans import RECIPE
from tests.support.profiles import CLUSTER, Call, caller_beside_a_profile
from tests.support.records import record

AUTO = ("--set", "train.checkpoint.every_minutes=auto")
LONG = ("-t", "30-0")
"""A time limit that has no part in the answer."""


@pytest.fixture
def call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Call:
    (tmp_path / "own.yaml").write_text(f"{RECIPE}  checkpoint: {{every_minutes: auto}}\n")
    return caller_beside_a_profile(tmp_path, monkeypatch, capsys)


def _profile(name: str = "lab", **reliability: Any) -> None:
    Path(f"clusters/{name}.yaml").write_text(yaml.safe_dump({**CLUSTER, "reliability": reliability}))


def _planned(call: Call, *words: str) -> Any:
    told = json.loads(call("submit", "own.yaml", "--cluster", "lab", "--dry-run", "--json", *LONG, *words)[1])
    return told["recipe"]["train"]["checkpoint"]


def test_auto_is_a_number_in_what_is_submitted_and_told_with_what_it_rests_on(call: Call) -> None:
    code, _, err = call("submit", "own.yaml", "--cluster", "lab", "--nodes", "8", "--dry-run", *LONG)
    saving = _planned(call, "--nodes", "8")
    assert code == 0
    assert saving["every_minutes"] == pytest.approx(daly_s(0.5, 86400 / (8 * 0.0065)) / 60, rel=0.03)  # a small state: 0.5 s of agreeing
    (note,) = [line for line in err.splitlines() if line.startswith("checkpoints: every")]
    assert "8 nodes fail every 19.2 days" in note and "arXiv:2410.21680" in note and "a save stalls 0.5 s" in note
    assert saving["every_steps"] == 100 and "at multiples of every_steps: 100, as " in note and "base/shapes.yaml:" in note


def test_more_nodes_and_more_failures_save_more_often(call: Call) -> None:
    def minutes(nodes: int, rate: float) -> float:
        _profile(failures_per_node_day=rate)
        return float(_planned(call, "--nodes", str(nodes))["every_minutes"])

    few, more, often = minutes(1, 0.01), minutes(8, 0.01), minutes(8, 0.09)
    assert few == pytest.approx(more * 8**0.5, rel=0.05) and more == pytest.approx(often * 3, rel=0.05)


def test_auto_alone_decides_where_nobody_wrote_every_steps(call: Call) -> None:
    shown = json.loads(call("show", "finetune", "--cluster", "lab", *AUTO, "--json")[1])
    saving, origins = shown["recipe"]["train"]["checkpoint"], shown["origins"]
    assert saving["every_steps"] is None and origins["train.checkpoint.every_steps"].startswith("auto")
    assert isinstance(saving["every_minutes"], float) and origins["train.checkpoint.every_minutes"].startswith("auto (--set): 1 node fails")
    assert "train.checkpoint.every_minutes: auto" not in call("show", "finetune", "--cluster", "lab", *AUTO)[1]


def test_a_place_in_the_profile_is_named_as_the_origin(call: Call) -> None:
    _profile(failures_per_node_day=0.02, stage_gb_per_s=10.0)
    origin = json.loads(call("show", "own.yaml", "--cluster", "lab", "--json")[1])["origins"]["train.checkpoint.every_minutes"]
    assert "own.yaml:6" in origin and "clusters/lab.yaml:" in origin


@pytest.mark.parametrize(
    ("words", "what", "where"),
    [
        (("--cluster", "local"), "cluster local does not say", "own.yaml:6"),
        (("--cluster", "lab", "--set", "cluster.reliability.failures_per_node_day=0"), "failures_per_node_day is 0", "own.yaml:6"),
        (("--cluster", "lab", "--set", "cluster.reliability.failures_per_node_day=1e9"), "would keep no step", "own.yaml:6"),
        (("--cluster", "lab", "--set", "cluster.reliability.failures_per_node_day=-1"), "greater than or equal to 0", "--set"),
        (("--cluster", "lab", "--set", "cluster.reliability.save_gb_per_s=0"), "greater than or equal to 0.001", "--set"),
        (("--cluster", "lab", "--set", "train.checkpoint.every_minutes=-15"), "a number of minutes greater than 0, or auto", "--set"),
        (("--cluster", "lab", "--set", "train.checkpoint.every_minutes=Auto"), "a number of minutes greater than 0, or auto", "--set"),
    ],
)
def test_what_cannot_be_worked_out_is_refused_with_its_place(call: Call, words: tuple[str, ...], what: str, where: str) -> None:
    for command in (("submit", "own.yaml", "--dry-run"), ("show", "own.yaml")):
        code, out, err = call(*command, *words)
        assert (code, out, err.count("error: ")) == (1, "", 1)
        assert what in err and where in err and "Traceback" not in err


def test_a_model_of_unknown_size_is_refused_at_its_line(call: Call) -> None:
    Path("big.yaml").write_text(
        "extends: finetune\ntrain:\n  models:\n    student: {init_from: some/other}\n  checkpoint: {every_minutes: auto}\n"
    )
    code, _, err = call("submit", "big.yaml", "--cluster", "lab", "--dry-run")
    assert code == 1 and "how large the student is" in err and "big.yaml:4" in err and "hint: " in err


def test_this_machine_may_say_how_often_it_fails(call: Call) -> None:
    Path("clusters/desk.yaml").write_text("extends: local\nreliability: {failures_per_node_day: 0.1}\n")
    assert json.loads(call("show", "own.yaml", "--cluster", "desk", "--json")[1])["recipe"]["train"]["checkpoint"]["every_minutes"] > 0


def _run(name: str, cluster: str, *, every_minutes: Any = 15.0) -> Run:
    run = create(Path("runs") / name, record(name, cluster=cluster, executor="slurm", state="stopped", max_steps=100))
    composed = compose("own.yaml", cluster, sets=(f"train.checkpoint.every_minutes={every_minutes}",))
    run.config_file.write_text(
        yaml.safe_dump({"recipe": composed.recipe_data, "cluster": composed.cluster_data, "lock": {"cluster": cluster}})
    )
    return run


def test_a_profiles_reliability_reaches_no_run_that_was_made_without_it(call: Call) -> None:
    """An older copy of the code refuses a key that it does not know; a run that has the key has a copy that knows it."""
    old = _run("old", "lab")
    assert "reliability:" not in old.config_file.read_text()
    _profile(failures_per_node_day=0.02)
    plan = planner.plan_resume(old, "lab", sets=("train.checkpoint.every_minutes=auto",), ranks=None, sbatch={})
    assert "reliability" not in plan.cluster and isinstance(plan.recipe["train"]["checkpoint"]["every_minutes"], float)
    assert any("clusters/lab.yaml:" in note for note in plan.notes)
    new = planner.plan_resume(_run("new", "lab"), None, sets=(), ranks=None, sbatch={})
    assert new.cluster["reliability"]["failures_per_node_day"] == 0.02 and new.cluster["reliability"]["start_s"] is None


def test_a_profile_that_says_nothing_of_it_is_resolved_as_before(call: Call) -> None:
    assert "reliability" not in compose("shapes-finetune", "lab").cluster_data


def test_auto_in_a_run_that_somebody_edited_is_refused_by_the_next_plan_of_this_machine(call: Call) -> None:
    run = _run("edited", "local")
    run.config_file.write_text(run.config_file.read_text().replace("every_minutes: 15.0", "every_minutes: auto"))
    with pytest.raises(ConfigError, match="does not say"):
        planner.plan_resume(run, None, sets=(), ranks=None, sbatch={})


@pytest.mark.parametrize(
    ("minutes", "shortest", "expected"),
    [
        (52.62, 1, 53),
        (13.04, 1, 13),
        (4.561, 1, 4.6),
        (0.4649, 0.1, 0.46),
        (139.9, 1, 140),
        (1014, 1, 1000),
        (4.54, 4.54, 4.6),
        (99.7, 99.9, 100),
    ],
)
def test_minutes_are_rounded_to_two_digits_and_never_below_a_write(minutes: float, shortest: float, expected: float) -> None:
    assert rounded(minutes, shortest) == expected


def test_spans_are_told_in_a_unit_of_which_there_are_two() -> None:
    assert [days(count) for count in (19.23, 1.2, 0.05, 1.2e-3, 1e-4)] == [
        "19.2 days",
        "28.8 hours",
        "72 minutes",
        "104 seconds",
        "8.6 seconds",
    ]
