"""What is told before a job waits in a queue, when a run goes on, and at its end."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from fvlaunch.planning import planner
from fvlaunch.runs.directory import Run
from tests.support.launcher import RECIPE, Workspace
from tests.support.parquet import write_samples
from tests.support.profiles import Call, caller_beside_a_profile
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


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Call:
    """The command line in a folder of the test's own, with a Slurm profile that nothing may reach."""
    return caller_beside_a_profile(tmp_path, monkeypatch, capsys)


def _submit(call: Call, path: str, *words: str, recipe: str = "shapes-finetune") -> tuple[int, str]:
    keys = ("train.data.prepare=null", "train.data.text_dropout=0", f"train.data.path={path}")
    code, _, said = call("submit", recipe, "--cluster", "lab", "--prepare", *(word for key in keys for word in ("--set", key)), *words)
    return code, said


@row("30", "fewer samples than the global batch")
def test_fewer_samples_than_a_global_batch_are_told_at_submit(folder: Call, tmp_path: Path) -> None:
    write_samples(tmp_path / "data/a.parquet", 40)
    write_samples(tmp_path / "data/deep/b.parquet", 20)
    code, said = _submit(folder, "data", "--nodes", "2")
    assert code == 1 and "the data has 60 samples, less than one global batch of 64" in said and said.count("error:") == 1
    assert "shapes.yaml" in said and not (tmp_path / "runs").exists()


@row("31", "data.path one folder too high; a parquet file as data.path")
def test_a_path_too_high_never_trains_on_a_holdout(folder: Call, tmp_path: Path) -> None:
    for part in ("combined_parquet_dataset", "holdout/combined_parquet_dataset"):
        write_samples(tmp_path / f"data/out/{part}/worker_0000/part-00000000.parquet", 64)
    code, said = _submit(folder, "data")
    assert code == 1 and "held out from training" in said and f"name the data in it: {tmp_path / 'data/out'}" in said
    code, said = _submit(folder, "data/out/combined_parquet_dataset/worker_0000/part-00000000.parquet", "--name", "file")
    assert code == 0 and "data: 64 samples, 1 step an epoch" in said


@row("31", "data.path one folder too high; a parquet file as data.path")
def test_several_outputs_below_one_path_are_told(folder: Call, tmp_path: Path) -> None:
    for name in ("one", "two"):
        write_samples(tmp_path / f"data/{name}/combined_parquet_dataset/a.parquet", 64)
    code, said = _submit(folder, "data")
    assert code == 0 and "warning:" in said and "2 data sets, and all are trained on: one, two" in said


@row("-", "a source that is empty, of no known layout, or of which too little can be used")
@pytest.mark.parametrize(
    "files", [{}, {"README.md": "later"}, {"metadata.csv": "file_name,caption\n"}, {"a.mp4": "", "b.mp4": "", "b.txt": ""}]
)
def test_a_source_that_cannot_be_encoded_is_told_at_submit(folder: Call, tmp_path: Path, files: dict[str, str]) -> None:
    (tmp_path / "clips").mkdir()
    for name, text in files.items():
        (tmp_path / "clips" / name).write_text(text)
    code, _, said = folder(
        "submit", "preprocess", "--cluster", "lab", "--prepare", "--set", "tiny=true", "--set", "preprocess.source=clips"
    )
    assert code == 1 and said.count("error:") == 1 and "preprocess.source" in said and str(tmp_path / "clips") in said
    assert not (tmp_path / "runs").exists()
