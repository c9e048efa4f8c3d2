"""Pipelines before anything runs: what their files may say, what a submission would do, and what is said of their states."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from fvlaunch.cli import app
from fvlaunch.errors import ConfigError, FvlaunchError, NotFound, Problem
from fvlaunch.lifecycle.pipeline_submit import chained
from fvlaunch.planning.pipeline_plan import PipelinePlan, plan_pipeline
from fvlaunch.runs import pipeline_directory, run_names
from fvlaunch.runs.directory import Record, create
from fvlaunch.runs.pipeline_directory import Export, Pipeline, PipelineRecord, StageRecord
from fvlaunch.status.pipeline_status import PipelineStatus, fold
from fvlaunch.status.run_status import RunStatus
from tests.support.isolation import isolate
from tests.support.paths import ROOT

FILE = """\
description: two stages
stages:
  - name: teacher
    recipe: shapes-finetune
    set: {train.max_steps: 20}
  - name: adapter
    recipe: shapes-lora
    set:
      train.models.student.init_from: {stage: teacher, export: live}
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    isolate(tmp_path, monkeypatch)
    (tmp_path / "templates/pipelines").mkdir(parents=True)
    (tmp_path / "clusters").mkdir()
    (tmp_path / "clusters/big.yaml").write_text("executor: slurm\nranks_per_node: 1\npaths: {data: data}\nslurm: {partition: low}\n")
    write(FILE)
    return tmp_path


def write(text: str) -> None:
    Path("templates/pipelines/two.yaml").write_text(text)


def planned(*sets: str, cluster: str = "local", name: str | None = "p") -> PipelinePlan:
    return plan_pipeline("two", cluster, sets=sets, name=name, sbatch={}, runs_dir=None)


def problems(*sets: str) -> list[Problem]:
    with pytest.raises(ConfigError) as caught:
        planned(*sets)
    assert not Path("runs").exists()
    return list(caught.value.problems)


# --- what a submission would do


def test_a_later_stage_starts_from_the_folder_that_the_earlier_ones_weights_will_be_in(folder: Path) -> None:
    plan = planned("adapter.train.max_steps=3")
    teacher, adapter = plan.stages
    assert (plan.path, teacher.path, adapter.full_name, adapter.job_name) == (
        folder / "runs/p",
        folder / "runs/p/teacher",
        "p/adapter",
        "p.adapter",
    )
    assert (teacher.max_steps, adapter.max_steps) == (20, 3)
    assert adapter.recipe["train"]["models"]["student"]["init_from"] == str(folder / "runs/p/teacher/export-live")
    assert plan.records == (StageRecord("teacher"), StageRecord("adapter", (Export("teacher", "live", "student", False, "export-live"),)))
    assert str(adapter.origins["train", "models", "student", "init_from"]) == "templates/pipelines/two.yaml:9"


def test_the_last_checkpoint_of_a_stage_means_its_weights_as_they_were_trained(folder: Path) -> None:
    live = planned().records
    write(FILE.replace("export: live", "checkpoint: last"))
    assert planned().records == live


def test_whole_weights_of_a_lora_stage_are_handed_on_and_a_preprocess_stages_data(folder: Path) -> None:
    (folder / "clips").mkdir()
    (folder / "clips/a.mp4").touch()
    (folder / "clips/a.txt").write_text("a dog")
    data = {"name": "data", "recipe": "preprocess", "set": {"tiny": True, "preprocess.source": "clips"}}
    tune = {"name": "tune", "recipe": "lora", "set": {"tiny": True, "train.data.path": {"stage": "data", "output": "data"}}}
    use = {"name": "use", "recipe": "lora", "set": {**tune["set"], "train.models.student.init_from": {"stage": "tune", "export": "live"}}}  # type: ignore[dict-item]
    write(yaml.safe_dump({"stages": [data, tune, use]}))
    plan = planned()
    assert plan.stages[1].recipe["train"]["data"]["path"] == plan.stages[0].recipe["preprocess"]["output"]
    assert plan.records[2].exports == (Export("tune", "live", "student", True, "export-live-merged"),)


def test_set_of_the_cluster_or_of_tiny_is_for_all_stages() -> None:
    plan = planned(
        "cluster.slurm.time=60", "tiny=true", "adapter.train.models.student.init_from={stage: teacher, export: ema}", cluster="big"
    )
    assert [stage.sbatch["time"] for stage in plan.stages] == ["01:00:00", "01:00:00"]
    assert plan.records[1].exports[0].folder == "export-ema"


def test_on_slurm_a_stage_waits_for_the_one_before_it_and_only_the_first_for_what_was_asked() -> None:
    sbatch = {"dependency": "afterany:7", "begin": "now+1hour", "qos": "fast"}
    plan = plan_pipeline("two", "big", sets=[], name="p", sbatch=sbatch, runs_dir=None)
    first, second = chained(plan.stages[0], None), chained(plan.stages[1], "12")
    assert (first.sbatch["dependency"], first.sbatch["begin"]) == ("afterany:7", "now+1hour")
    assert (second.sbatch["dependency"], second.sbatch["kill-on-invalid-dep"], second.sbatch["qos"]) == ("afterok:12", "yes", "fast")
    assert "begin" not in second.sbatch and "dependency" not in second.cluster["slurm"]


def test_a_chain_of_jobs_is_refused_where_each_life_is_a_new_job(folder: Path) -> None:
    (folder / "clusters/new.yaml").write_text((folder / "clusters/big.yaml").read_text() + "continue_by: resubmit\n")
    with pytest.raises(ConfigError) as caught:
        planned(cluster="new")
    [problem] = caught.value.problems
    assert problem.key.endswith("cluster.continue_by") and "one by one" in problem.hint


def test_the_packaged_pipelines_can_be_submitted() -> None:
    """Those of real models at a laptop's size: the models are not here."""
    Path("data").mkdir(exist_ok=True)
    Path("data/prompts.txt").write_text("a cat\n")
    for path in (ROOT / "templates/pipelines").glob("*.yaml"):
        sets = [] if path.stem.startswith("shapes") else ["tiny=true"]
        assert len(plan_pipeline(path.stem, "local", sets=sets, name=None, sbatch={}, runs_dir=None).stages) > 1


# --- what a file may say


@pytest.mark.parametrize(
    ("old", "new", "line", "message", "hint"),
    [
        ("stage: teacher", "stage: techer", 9, "no stage is called 'techer'", "did you mean teacher?"),
        ("stage: teacher", "stage: adapter", 9, "adapter names itself", "before it"),
        ("name: adapter", "name: teacher", 6, "two stages are called 'teacher'", "name of its own"),
        ("name: adapter", "name: a b", 6, "cannot name a run", ""),
        ("name: adapter", "name: cluster", 6, "cannot name a stage", "mean all stages"),
        ("description:", "descripton:", 1, "unknown key 'descripton'", "did you mean description?"),
        ("recipe: shapes-lora", "recipes: shapes-lora", 7, "unknown key 'recipes'", "did you mean recipe?"),
        ("export: live", "exports: live", 9, "unknown key 'exports'", "did you mean export?"),
        ("export: live", "export: best", 9, "export must be live or ema", ""),
        ("export: live", "checkpoint: first", 9, "checkpoint must be last, not 'first'", ""),
        ("export: live", "export: live, checkpoint: last", 9, "name one of", ""),
        ("export: live", "role: student", 9, "name one of export, checkpoint and output", "{stage: NAME, export: live}"),
        ("export: live", "export: live, role: critic", 9, "teacher has no role 'critic'", "role: student"),
        ("export: live", "output: data", 9, "teacher makes no data", "export: live"),
        ("recipe: shapes-lora", "recipe: shapes-lore", 7, "no recipe is called 'shapes-lore'", "did you mean shapes-lora?"),
        ("train.max_steps: 20", "train.max_step: 20", 5, "unknown key 'max_step'", "did you mean max_steps?"),
        ("train.max_steps: 20", "train..max_step: 20", 5, "is not a dotted key", "train.max_steps"),
    ],
    ids=lambda value: str(value)[:30],
)  # fmt: skip
def test_a_mistake_is_told_with_its_line_and_what_was_probably_meant(old: str, new: str, line: int, message: str, hint: str) -> None:
    write(FILE.replace(old, new))
    found = [p for p in problems() if message in p.message]
    assert len(found) == 1, problems()
    assert str(found[0].where) == f"templates/pipelines/two.yaml:{line}" and hint in found[0].hint


def test_a_stage_cannot_use_what_a_later_one_makes() -> None:
    head, teacher, adapter = (
        FILE.partition("  - name: teacher")[0],
        FILE.partition("stages:\n")[2].partition("  - name: adapter")[0],
        "  - name: adapter" + FILE.partition("  - name: adapter")[2],
    )
    write(head + adapter + teacher)
    [problem] = problems()
    assert (problem.message, problem.key) == ("teacher comes after adapter", "adapter.train.models.student.init_from")


def test_averaged_weights_that_no_stage_keeps_are_refused() -> None:
    write(FILE.replace("export: live", "export: ema"))
    [problem] = problems("teacher.train.callbacks.ema=null")
    assert problem.message == "teacher keeps no averaged weights"


def test_the_mistakes_of_all_stages_are_told_at_once_as_set_takes_them() -> None:
    found = problems("teacher.train.max_steps=none", "adapter.train.data.global_batch_size=-1")
    assert [p.key for p in found] == ["teacher.train.max_steps", "adapter.train.data.global_batch_size"]
    assert str(found[0].where) == "--set teacher.train.max_steps=none"


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("techer.train.max_steps=3", "did you mean teacher?"),
        ("train.max_steps=3", "stages: teacher, adapter"),
        ("teacher=3", "teacher.train.max_steps"),
    ],
)
def test_set_has_to_name_a_stage(text: str, hint: str) -> None:
    [problem] = problems(text)
    assert hint in problem.hint and str(problem.where) == f"--set {text}"


@pytest.mark.parametrize("text", ["", "stages: 3", "stages: []", "stages: [3]", "stages: [{name: a}]", "stages: [{name: [a], recipe: b}]"])
def test_what_has_no_stages_is_refused(text: str) -> None:
    write(text)
    assert problems()


def test_a_name_must_not_be_a_recipe_and_a_pipeline(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (folder / "templates/pipelines/shapes-finetune.yaml").write_text(FILE)
    assert app.run(["submit", "shapes-finetune", "--cluster", "local", "--dry-run"]) == 1
    assert "both a recipe" in capfd.readouterr().err
    assert app.run(["submit", "templates/pipelines/shapes-finetune.yaml", "--cluster", "local", "--dry-run"]) == 0
    assert app.run(["submit", "tw0", "--cluster", "local"]) == 1
    assert "did you mean two?" in capfd.readouterr().err


def test_dry_run_shows_every_stage_and_does_nothing(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert app.run(["submit", "two", "--cluster", "big", "--name", "p", "--dry-run", "--json"]) == 0
    first, second = json.loads(capfd.readouterr().out)["stages"]
    assert "#SBATCH --dependency=afterok:JOB-OF-teacher" in second["batch_script"] and "--dependency" not in first["batch_script"]
    assert "#SBATCH --kill-on-invalid-dep=yes" in second["batch_script"] and "#SBATCH --job-name=p.adapter" in second["batch_script"]
    assert app.run(["submit", "two", "--cluster", "local", "--ranks", "2"]) == 1
    assert "--set STAGE.resources.ranks" in capfd.readouterr().err
    assert not (folder / "runs").exists()


def test_list_pipelines_tells_where_each_is_from(capfd: pytest.CaptureFixture[str]) -> None:
    assert app.run(["list", "pipelines", "--json"]) == 0
    found = {entry["name"]: entry["layer"] for entry in json.loads(capfd.readouterr().out)}
    assert found["two"] == "working directory" and found["shapes-teacher-lora"] == "packaged"


# --- its folder


Made = Callable[..., Pipeline]


@pytest.fixture
def made(folder: Path) -> Made:
    """A pipeline's folder as a submission leaves it, its stages in given states."""

    def make(name: str, *states: str) -> Pipeline:
        pipeline = Pipeline(folder / "runs" / name)
        pipeline.path.mkdir(parents=True)
        stages = (StageRecord("one"), StageRecord("two", (Export("one", "ema", "student", True),)))
        pipeline.write(PipelineRecord(name, "two", "local", "local", stages, submitted_at=1.0))
        for stage, state in zip(("one", "two"), states, strict=True):
            create(pipeline.path / stage, Record(f"{name}/{stage}", "r", "local", "local", 1, "t", 4, 1, 1, 1.0, 1.0, state=state))
        return pipeline

    return make


def test_runs_and_stages_are_found_by_name_prefix_path_and_last(made: Made, folder: Path) -> None:
    pipeline, folders = made("chain", "finished", "waiting"), [folder / "runs"]
    for word in ("chain", "cha", "last", str(pipeline.path)):
        found = run_names.find_any(word, folders)
        assert isinstance(found, Pipeline) and found.path == pipeline.path
    assert run_names.find("chain/two", folders).path == run_names.find("cha/two", folders).path == pipeline.path / "two"
    assert run_names.find("last/one", folders).name == "chain/one"
    with pytest.raises(FvlaunchError, match="has no stage 'three'"):
        run_names.find("chain/three", folders)
    with pytest.raises(FvlaunchError, match="is a pipeline"):
        run_names.find("chain", folders)


def test_a_stage_must_not_start_before_the_ones_it_follows_are_finished(made: Made) -> None:
    one, two = made("a", "stopped", "waiting").stages
    assert pipeline_directory.unfinished_before(one) is None
    assert pipeline_directory.unfinished_before(two) == "the stage before it, a/one, is not finished: stopped"
    assert pipeline_directory.unfinished_before(made("b", "finished", "waiting").stages[1]) is None


def test_what_a_stage_needs_is_found_wherever_the_folder_is(made: Made, folder: Path) -> None:
    made("a", "finished", "waiting").path.rename(folder / "copied")
    [wanted] = pipeline_directory.inputs(Pipeline(folder / "copied").stages[1])
    assert wanted == {
        "run": str(folder / "copied/one"), "to": str(folder / "copied/one/export-ema"), "weights": "ema", "role": "student", "merge": True,
    }  # fmt: skip


def test_a_pipeline_submitted_before_folders_names_were_recorded_keeps_its_folder_and_its_file(made: Made) -> None:
    pipeline = made("a", "finished", "waiting")
    [export] = json.loads(pipeline.file.read_text())["stages"][1]["exports"]
    assert "name" not in export  # the run's own copy of the code reads it, and knows no such key
    assert pipeline_directory.inputs(pipeline.stages[1])[0]["to"].endswith("one/export-ema")


# --- what is said of it


def stage(name: str, state: str, **more: object) -> RunStatus:
    plain = RunStatus(f"p/{name}", "r", "c", state, "", 4, 8, "7", ("7",), 1, None, 1.0, f"/p/{name}")
    return replace(plain, **more)  # type: ignore[arg-type]


def whole(*stages: RunStatus, driver: bool | None = None) -> PipelineStatus:
    executor = "slurm" if driver is None else "local"
    names = tuple(StageRecord(s.run.partition("/")[2]) for s in stages)
    return fold(PipelineRecord("p", "two", "c", executor, names, 1.0), Path("/p"), stages, driver)


def test_a_pipeline_is_finished_only_when_all_stages_are() -> None:
    assert whole(stage("a", "finished"), stage("b", "finished")).state == "finished"
    running = whole(stage("a", "finished"), stage("b", "running"), stage("c", "queued"))
    assert (running.state, running.reason, running.step, running.max_steps) == ("running", "stage 2 of 3, b", 12, 24)


@pytest.mark.parametrize("state", ["failed", "stopped", "cancelled", "lost"])
def test_what_comes_after_a_stage_that_broke_never_started(state: str) -> None:
    found = whole(stage("a", state, reason="why"), stage("b", "lost", attempts=0), stage("c", "queued", attempts=0))
    assert (found.state, found.reason) == (state, "stage 1 of 3, a: why")
    assert [(s.state, s.reason) for s in found.stages[1:]] == [("cancelled", f"never started: p/a is {state}")] * 2
    assert found.is_over


def test_a_stage_without_a_job_is_not_said_to_wait_for_the_scheduler() -> None:
    found = whole(stage("a", "finished"), stage("b", "queued", job_id=None, attempts=0))
    assert found.state == "submitting" and "fvlaunch resume p goes on" in found.reason


def test_without_the_process_that_starts_the_stages_a_waiting_one_is_lost() -> None:
    waiting = stage("b", "queued", job_id=None, attempts=0)
    assert whole(stage("a", "finished"), waiting, driver=True).state == "queued"
    found = whole(stage("a", "finished"), waiting, driver=False)
    assert (found.state, found.stages[1].state) == ("lost", "lost") and "fvlaunch resume p" in found.reason
    assert whole(stage("a", "running"), waiting, driver=False).state == "running"


def test_an_unknown_pipeline_is_an_error() -> None:
    with pytest.raises(NotFound, match="no pipeline is called 'nope'"):
        plan_pipeline("nope", "local", sets=[], name=None, sbatch={}, runs_dir=None)
