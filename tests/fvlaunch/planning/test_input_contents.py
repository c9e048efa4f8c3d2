"""What is told before a job is queued of the inputs' contents: samples and the batch, folders of several kinds, a source's entries."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from fvlaunch.config.compose import compose
from fvlaunch.errors import ConfigError, Problem
from fvlaunch.planning import input_readers
from fvlaunch.planning.input_contents import check_contents
from fvlaunch.planning.preflight import check_inputs
from tests.support.parquet import write_samples
from trainers.config.programs.preprocess import MAY_CHANGE

PREPROCESS = ("tiny=true", "preprocess.source=clips")
"""Of 5 frames; what the source holds is each test's own."""


def look(folder: Path, recipe: str, *sets: str) -> tuple[list[Problem], tuple[str, ...]]:
    composed = compose(recipe, "local", cwd=folder, sets=sets)
    try:
        check_inputs(composed)
        return [], check_contents(composed)
    except ConfigError as error:
        return list(error.problems), ()


def trained_on(folder: Path, path: str, *sets: str, recipe: str = "shapes-finetune") -> tuple[list[Problem], tuple[str, ...]]:
    return look(folder, recipe, "train.data.prepare=null", "train.data.text_dropout=0", f"train.data.path={path}", *sets)


def test_samples_are_counted_and_must_fill_one_batch(tmp_path: Path) -> None:
    write_samples(tmp_path / "data/a.parquet", 60)
    write_samples(tmp_path / "data/deep/b.parquet", 70)
    assert trained_on(tmp_path, "data") == ([], ("data: 130 samples, 2 steps an epoch, 2 samples left out of each",))
    (few,), _ = trained_on(tmp_path, "data", "train.data.global_batch_size=131")
    assert (few.key, "130 samples, less than one global batch of 131" in few.message) == ("train.data.global_batch_size", True)
    assert trained_on(tmp_path, "{data: 2}", "train.data.global_batch_size=130")[1] == ("data: 260 samples, 2 steps an epoch",)


def test_a_single_file_and_a_link_are_a_path(tmp_path: Path) -> None:
    file = write_samples(tmp_path / "far/a.parquet", 64)
    assert trained_on(tmp_path, str(file))[0] == []
    (tmp_path / "linked").mkdir()
    (tmp_path / "linked/far").symlink_to(tmp_path / "far")
    assert trained_on(tmp_path, "linked")[1] == ("data: 64 samples, 1 step an epoch",)
    (tmp_path / "a.txt").touch()
    (wrong,), _ = trained_on(tmp_path, "a.txt")
    assert "is no parquet file" in wrong.message


def test_what_was_held_out_is_refused_and_a_holdout_by_name_is_told(tmp_path: Path) -> None:
    write_samples(tmp_path / "data/one/combined_parquet_dataset/a.parquet", 64)
    write_samples(tmp_path / "data/one/holdout/combined_parquet_dataset/a.parquet", 64)
    (wrong,), _ = trained_on(tmp_path, "data")
    assert wrong.key == "train.data.path" and "held out from training" in wrong.message and str(tmp_path / "data/one") in wrong.hint
    assert trained_on(tmp_path, "data/one")[0] == []
    _, (warning, _) = trained_on(tmp_path, "data/one/holdout")
    assert "warning:" in warning and "held out from training" in warning


def test_an_output_that_is_not_whole_yet_is_told(tmp_path: Path) -> None:
    write_samples(tmp_path / "out/combined_parquet_dataset/a.parquet", 64)
    (tmp_path / "out/.preprocess").mkdir()
    (tmp_path / "out/.preprocess/settings.json").write_text("{}")
    _, (warning, _) = trained_on(tmp_path, "out")
    assert "has not ended" in warning
    (tmp_path / "out/report.json").write_text("{}")
    assert len(trained_on(tmp_path, "out")[1]) == 1


def test_several_data_sets_in_one_folder_and_test_splits_are_told(tmp_path: Path) -> None:
    for name in ("one", "two"):
        write_samples(tmp_path / f"data/{name}/combined_parquet_dataset/a.parquet", 64)
    assert "warning:" in trained_on(tmp_path, "data")[1][0] and "2 data sets" in trained_on(tmp_path, "data")[1][0]
    for split in ("train", "validation"):
        write_samples(tmp_path / f"hub/{split}-00000-of-00001.parquet", 64)
    assert "validation" in trained_on(tmp_path, "hub")[1][0]


def test_samples_of_another_kind_size_or_of_no_whole_file_are_refused(tmp_path: Path) -> None:
    write_samples(tmp_path / "text/a.parquet", 64, latents=None)
    (kind,), _ = trained_on(tmp_path, "text")
    assert "vae_latent" in kind.message and kind.key == "train.data.path"
    write_samples(tmp_path / "large/a.parquet", 64, latents=(4, 5, 8, 8))
    (size,), _ = trained_on(tmp_path, "large")
    assert "5x8x8" in size.message and size.key == "train.data.num_frames"
    whole = write_samples(tmp_path / "bad/a.parquet", 64).read_bytes()
    (tmp_path / "bad/a.parquet").write_bytes(whole[:4] + b"x" * (len(whole) - 8) + whole[-4:])
    (damaged,), _ = trained_on(tmp_path, "bad")
    assert "is not a whole parquet file" in damaged.message


def test_the_folder_of_the_validation_loss_is_looked_at_too(tmp_path: Path) -> None:
    write_samples(tmp_path / "data/a.parquet", 64)
    validation = "train.callbacks.validation.loss.path=apart"
    (missing,), _ = trained_on(tmp_path, "data", validation)
    assert (missing.key, "does not exist" in missing.message) == ("train.callbacks.validation.loss.path", True)
    write_samples(tmp_path / "apart/a.parquet", 2, latents=None)
    (kind,), _ = trained_on(tmp_path, "data", validation)
    assert kind.key == "train.callbacks.validation.loss.path"


def test_shapes_that_are_yet_to_be_made_are_counted_without_a_look(tmp_path: Path) -> None:
    assert look(tmp_path, "shapes-finetune") == ([], ())
    (few,), _ = look(tmp_path, "shapes-finetune", "train.data.global_batch_size=512")
    assert "240 samples" in few.message


def test_a_source_is_told_by_its_entries(tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        (tmp_path / "clips").mkdir(exist_ok=True)
        (tmp_path / f"clips/{name}.mp4").touch()
        (tmp_path / f"clips/{name}.txt").write_text("a dog" if name != "c" else "")
    problems, (note,) = look(tmp_path, "preprocess", *PREPROCESS)
    assert not problems and note.startswith("source: 3 entries") and note.endswith("1 cannot be used: 1 no_caption")
    (tmp_path / "clips/b.txt").write_text("")
    (few,), _ = look(tmp_path, "preprocess", *PREPROCESS)
    assert few.key == "preprocess.max_rejected" and "2 of the 3 entries" in few.message
    assert look(tmp_path, "preprocess", *PREPROCESS, "preprocess.max_rejected=0.7")[0] == []
    (tmp_path / "clips/a.txt").write_text("")
    (none,), _ = look(tmp_path, "preprocess", *PREPROCESS, "preprocess.max_rejected=1")
    assert none.key == "preprocess.source" and "none of the 3 entries" in none.message


@pytest.mark.parametrize("wrong", ["empty", "words", "list"])
def test_a_source_that_is_none_is_refused_with_the_layouts_that_are_known(tmp_path: Path, wrong: str) -> None:
    (tmp_path / "clips").mkdir()
    if wrong == "words":
        (tmp_path / "clips/notes.md").write_text("clips come later")
    if wrong == "list":
        (tmp_path / "clips/metadata.csv").write_text("file_name,caption\n")
    (problem,), _ = look(tmp_path, "preprocess", *PREPROCESS)
    assert problem.key == "preprocess.source" and str(tmp_path / "clips") in problem.message and "metadata" in problem.hint


def test_prompts_and_others_parquet_files_are_sources_too(tmp_path: Path) -> None:
    (tmp_path / "prompts.txt").write_text("a dog\na cat\n")
    problems, (note,) = look(tmp_path, "preprocess-text", "tiny=true", "preprocess.source=prompts.txt")
    assert not problems and note.startswith("source: 2 entries")
    pq.write_table(pa.table({"x": [1]}), tmp_path / "x.parquet")
    (problem,), _ = look(tmp_path, "preprocess-text", "tiny=true", "preprocess.source=x.parquet")
    assert "no column" in problem.message


def test_others_files_that_cannot_be_written_again_are_no_source(tmp_path: Path) -> None:
    words = ("preprocess-rewrite", "tiny=true", "preprocess.source=theirs", "preprocess.output=out")
    (tmp_path / "theirs").mkdir()
    (empty,), _ = look(tmp_path, *words)
    assert empty.key == "preprocess.source" and "no parquet files" in empty.message
    write_samples(tmp_path / "theirs/a.parquet", 3)
    assert look(tmp_path, *words) == ([], ("output: 0 of the 3 entries are written already",))


def test_a_written_entry_that_has_changed_is_told_before_the_job(tmp_path: Path) -> None:
    words = ("preprocess-text", "tiny=true", "preprocess.source=prompts.txt", "preprocess.output=out")
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("a dog\na cat\n")
    part = "combined_parquet_dataset/worker_0000/part-00000000.parquet"
    (tmp_path / "out" / part).parent.mkdir(parents=True)
    pq.write_table(pa.table({"id": ["prompts.txt: entry 0"], "caption": ["a dog"]}), tmp_path / "out" / part)
    record = {"first": 0, "last": 0, "written": 1, "parts": {part: (tmp_path / "out" / part).stat().st_size}}
    block: Any = compose("preprocess-text", "local", cwd=tmp_path, sets=words[1:]).recipe.preprocess
    settings = {key: value for key, value in block.resolved().items() if key not in {*MAY_CHANGE, "source", "output"}}
    (tmp_path / "out/.preprocess/records").mkdir(parents=True)
    (tmp_path / "out/.preprocess/records/00000000-00000000.json").write_text(json.dumps(record))
    (tmp_path / "out/.preprocess/settings.json").write_text(json.dumps({**settings, "entries": 2, "listing": "0" * 64}))
    prompts.write_text("a cow\na cat\na dog\n")
    problems, notes = look(tmp_path, *words)
    assert not problems and "output: 1 of the 3 entries are written already" in notes
    prompts.write_text("a cow\na cat\n")
    (changed,), _ = look(tmp_path, *words)
    assert changed.key == "preprocess.source" and "'a dog' is not listed any more" in changed.message


def test_a_look_that_fails_is_told_and_hinders_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_samples(tmp_path / "data/a.parquet", 64)
    monkeypatch.setattr(input_readers.sys, "executable", "/no/such/python")  # type: ignore[attr-defined]
    problems, (note,) = trained_on(tmp_path, "data")
    assert not problems and "not looked at" in note and "No such file" in note


def test_a_reader_that_takes_too_long_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "slow.py").write_text("import os, sys, time, pathlib\npathlib.Path('pid').write_text(str(os.getpid()))\ntime.sleep(600)\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    answer = input_readers.ask("slow", {}, {}, limit_s=2)
    assert isinstance(answer, input_readers.NotAnswered) and "longer than 2 s" in answer.reason
    deadline = time.monotonic() + 10
    while Path(f"/proc/{(tmp_path / 'pid').read_text()}").exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not Path(f"/proc/{(tmp_path / 'pid').read_text()}").exists()


@pytest.mark.parametrize(
    ("line", "reason"), [("raise SystemExit('no pyarrow')", "no pyarrow"), ("print('{')", "Expecting"), ("print(1)", "no mapping")]
)
def test_a_reader_that_breaks_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, line: str, reason: str) -> None:
    (tmp_path / "broken.py").write_text(line)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    answer = input_readers.ask("broken", {}, {})
    assert isinstance(answer, input_readers.NotAnswered) and reason in answer.reason


def test_inside_a_container_it_is_told_that_nobody_looked(tmp_path: Path) -> None:
    problems, (note,) = look(tmp_path, "shapes-finetune", 'cluster.srun_args=["--container-image=/images/x.sqsh"]')
    assert not problems and "not looked at" in note


def test_the_number_of_trajectories_must_fill_a_batch(tmp_path: Path) -> None:
    write_samples(tmp_path / "prompts/a.parquet", 200, latents=None)
    roles = [f"train.models.{role}.init_from=tiny-wan" for role in ("student", "teacher")]
    method = ["train.method.cache=other", "train.method.teacher_guidance_scale=1"]
    assert trained_on(tmp_path, "prompts", *roles, *method, recipe="shapes-kd")[0] == []
    (few,), _ = trained_on(tmp_path, "prompts", *roles, *method, "train.method.num_trajectories=10", recipe="shapes-kd")
    assert few.key == "train.data.global_batch_size" and "10 samples" in few.message


def test_the_cost_of_a_teachers_trajectories_follows_the_number_of_prompts(tmp_path: Path) -> None:
    write_samples(tmp_path / "prompts/a.parquet", 2000, latents=None)
    (tmp_path / "wan/transformer").mkdir(parents=True)
    (tmp_path / "wan/transformer/config.json").write_text(json.dumps({"num_layers": 40, "num_attention_heads": 40, "ffn_dim": 13824}))
    roles = [f"train.models.{role}.init_from={tmp_path / 'wan'}" for role in ("student", "teacher")]
    method = [*roles, "train.method.cache=other", "train.data.global_batch_size=8", "train.method.teacher_guidance_scale=1"]
    (problems, notes), started = trained_on(tmp_path, "prompts", *method, recipe="kd"), "trajectories to be made before the first step: "
    assert not problems and [note for note in notes if note.startswith(started)] == [
        f"{started}2000 trajectories of 48 passes of the teacher each, 134,900 PFLOP: about 4.4 GPU-days (13 hours on 8 GPUs) "
        "at 355 TFLOP/s a GPU, 45% of what an H100 sustains"
    ]
    told_elsewhere = trained_on(tmp_path, "prompts", *method, "train.method.num_trajectories=500", recipe="kd")[1]
    assert not [note for note in told_elsewhere if note.startswith(started)]
