"""What is told before a job waits in a queue, when a run goes on, and at its end."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from fvlaunch.errors import ConfigError
from fvlaunch.planning import planner
from fvlaunch.runs.directory import Run
from tests.support.launcher import RECIPE, Workspace
from tests.support.parquet import write_samples
from tests.support.paths import ROOT
from tests.support.profiles import Call, caller_beside_a_profile
from tests.support.rows import row
from tests.support.trainers.clip_files import write_merged


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """A folder with recipes of the smallest size and a local cluster."""
    workspace = Workspace(tmp_path_factory.mktemp("told"))
    workspace.slurm_cluster()
    schedule = {"kind": "cosine"}
    train = {"max_steps": 4, "optimizers": {"student": {"kind": "adamw", "lr": 1e-3, "schedule": schedule}}}
    workspace.write("templates/recipes/short.yaml", _with(RECIPE, {"resources": {"ranks": 1}, "train": train}))
    return workspace


CLIPS: dict[str, Any] = {
    "description": "Clips of the moving shapes' size",
    "resources": {"ranks": 1, "threads_per_rank": 1},
    "preprocess": {
        "kind": "videos",
        "source": "clips",
        "output": "out",
        "model": "shapes",
        "num_frames": 5,
        "height": 8,
        "width": 8,
        "fps": 8,
        "decoders": 0,
        "rows_per_file": 2,
    },
}


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
    assert "step 4 had 1.46e-4, step 5 gets 5e-4" in "\n".join(plan.notes)


@row("18", "a list that is mended after its preprocess ended, then made anew into the same output")
def test_a_mended_list_of_which_nothing_was_written_is_just_made(tmp_path: Path) -> None:
    write_merged(tmp_path / "clips", 2)
    config, output = tmp_path / "config.json", tmp_path / "out"
    config.write_text(json.dumps({"preprocess": {**CLIPS["preprocess"], "source": str(tmp_path / "clips"), "output": str(output)}}))
    listed = (tmp_path / "clips/videos2caption.json").read_text()

    def run() -> subprocess.CompletedProcess[str]:
        words = [sys.executable, "-m", "trainers", str(config), "--run-dir", str(tmp_path / "run")]
        return subprocess.run(words, cwd=ROOT, text=True, capture_output=True, check=False, timeout=200)

    (tmp_path / "clips/videos2caption.json").write_text(listed.replace('"a ', '"\\u0020", "was": "'))
    done = run()
    assert done.returncode == 76 and "none of 2 entries can be used" in done.stderr and not list(output.rglob("*.parquet"))
    (tmp_path / "clips/videos2caption.json").write_text(listed)
    done = run()
    assert done.returncode == 0, done.stderr
    assert json.loads((output / "report.json").read_text())["written"] == 2


@row("18", "a list that is mended after its preprocess ended, then made anew into the same output")
@row("25", "more rejected than max_rejected: named, and changed at resume")
@pytest.mark.long
def test_a_preprocess_goes_on_with_a_mended_list_and_another_max_rejected(here: Workspace) -> None:
    here.write("templates/recipes/clips.yaml", CLIPS)
    write_merged(here.folder / "clips", 4)
    good = (here.folder / "clips/videos/000.mp4").read_bytes()
    for number in (1, 2, 3):
        (here.folder / f"clips/videos/{number:03d}.mp4").write_bytes(b"no video")
    done = here.call("submit", "clips", "--cluster", "here", "--name", "clips", "--wait", check=False)
    assert done.returncode == 1 and "3 rejected are more than max_rejected 0.5" in done.stderr and "set max_rejected to 0.75" in done.stderr
    assert "1 of 4 entries used, 3 rejected: 3 unreadable" in done.stderr
    done = here.call("resume", "clips", "--set", "preprocess.max_rejected=0.75", "--wait")
    assert "1 of 4 entries used, 3 rejected: 3 unreadable" in done.stderr
    assert here.status("clips")["entries"] == {
        "entries": 4,
        "used": 1,
        "holdout": 0,
        "rejected": 3,
        "reasons": {"unreadable": 3},
    }
    assert "entries:   1 of 4 entries used" in here.call("status", "clips").stdout
    listed = json.loads((here.folder / "clips/videos2caption.json").read_text())
    here.write("clips/videos2caption.json", json.dumps([*listed[1:3], listed[0]]))
    for number in (1, 2):
        (here.folder / f"clips/videos/{number:03d}.mp4").write_bytes(good)
    assert "3 of 3 entries used, 0 rejected" in here.call("submit", "clips", "--cluster", "here", "--name", "again", "--wait").stderr
    here.write("clips/videos2caption.json", json.dumps([listed[1], {**listed[0], "cap": "a square moving down"}]))
    done = here.call("submit", "clips", "--cluster", "here", "--name", "other", "--wait", check=False)
    assert done.returncode == 1
    assert "000.mp4 was 'a square moving right', is now 'a square moving down'" in done.stderr
    assert "002.mp4 is not listed any more" in done.stderr and "001.mp4 was" not in done.stderr


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


@row("43", "sample FOLDER at 33x50, 10 frames, --steps 0, --to x.GIF, x.MP4")
@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--height", "33", "--width", "50", "--num-frames", "10"], "height: 33 is not a multiple of 16"),
        pytest.param(["--steps", "0"], "--steps: 0 is not 1 or more", marks=pytest.mark.long),
        pytest.param(["--to", "x.GIF"], "videos are written as .mp4, not as .GIF", marks=pytest.mark.long),
        pytest.param(["--prompt", "a dog", "--to", "x.MP4"], "2 videos do not fit into x.MP4", marks=pytest.mark.long),
    ],
)
def test_a_folder_that_cannot_be_sampled_so_is_told_in_one_error(here: Workspace, words: list[str], said: str) -> None:
    here.write("wan/model_index.json", "{}")
    here.write("wan/vae/config.json", json.dumps({"scale_factor_temporal": 4, "scale_factor_spatial": 8}))
    before = sorted(here.folder.iterdir())
    done = here.call("sample", "wan", "--prompt", "a cat", *words, check=False)
    assert (done.returncode, done.stdout) == (1, "") and said in done.stderr
    assert done.stderr.count("error:") == 1 and "Traceback" not in done.stderr and "argument" not in done.stderr
    assert sorted(here.folder.iterdir()) == before


@row("25", "more rejected than max_rejected: named, and changed at resume")
def test_max_rejected_may_change_at_resume_and_a_samples_size_may_not(here: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(here.folder)
    here.write("templates/recipes/few.yaml", _with(CLIPS, {"preprocess": {"source": "few", "output": "few-out"}}))
    write_merged(here.folder / "few", 2)
    run = Run(here.submit("few", "--prepare", recipe="few", cluster="real"))
    here.write("few-out/.preprocess/records/00000000-00000001.json", json.dumps({"first": 0, "last": 1, "written": 1}))
    plan = planner.plan_resume(run, None, sets=["preprocess.max_rejected=0.9"], ranks=None, sbatch={})
    assert plan.recipe["preprocess"]["max_rejected"] == 0.9
    with pytest.raises(ConfigError, match=r"preprocess.height makes the run what it is") as caught:
        planner.plan_resume(run, None, sets=["preprocess.height=16"], ranks=None, sbatch={})
    assert "max_rejected" in caught.value.hint
    here.write("few-out/.preprocess/records/00000000-00000001.json", json.dumps({"first": 0, "last": 1, "written": 0}))
    planner.plan_resume(run, None, sets=["preprocess.height=16"], ranks=None, sbatch={})
