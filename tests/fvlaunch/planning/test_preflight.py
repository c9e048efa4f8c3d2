"""What is looked for before a job is submitted: data that is there and whole, models, clips."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from fvlaunch.config.compose import compose
from fvlaunch.errors import ConfigError, Problem
from fvlaunch.planning.preflight import check_inputs, check_samples
from tests.support.parquet import write_samples


@pytest.fixture(autouse=True)
def _no_models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))


def problems(tmp_path: Path, recipe: str, *sets: str) -> list[Problem]:
    try:
        check_inputs(compose(recipe, "local", cwd=tmp_path, sets=sets))
    except ConfigError as error:
        return list(error.problems)
    return []


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"", "is empty"), (b"PAR1", "only 4 bytes"), (b"x" * 20, "not a parquet file"), (b"PAR1" + b"x" * 20, "cut off")],
)
def test_data_that_is_not_parquet_is_refused_by_name(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "data/shapes/deep").mkdir(parents=True)
    (tmp_path / "data/shapes/good.parquet").write_bytes(b"PAR1" + b"x" * 20 + b"PAR1")
    composed = compose("shapes-finetune", "local", cwd=tmp_path)
    check_inputs(composed)
    (tmp_path / "data/shapes/deep/bad.parquet").write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        check_inputs(composed)
    assert message in caught.value.message and "deep/bad.parquet" in caught.value.message and len(caught.value.problems) == 1


def test_no_data_is_refused_unless_it_will_be_prepared(tmp_path: Path) -> None:
    check_inputs(compose("shapes-finetune", "local", cwd=tmp_path))
    composed = compose("shapes-finetune", "local", cwd=tmp_path, sets=["train.data.prepare=null"])
    with pytest.raises(ConfigError, match="does not exist") as caught:
        check_inputs(composed)
    assert caught.value.key == "train.data.path" and str(caught.value.where).endswith("base/shapes.yaml:20")
    (tmp_path / "data/shapes").mkdir(parents=True)
    with pytest.raises(ConfigError, match="holds no parquet files"):
        check_inputs(composed)


@pytest.mark.parametrize(
    "report",
    [None, "[1]", '{"latents": [4, null, "x", {}]}', '{"latents": null}', '{"latents": [4, 3, 4, 4]}', '{"latents": [4, 5, 4, 4]}'],
)
def test_clips_of_another_size_are_told_from_the_report_or_else_a_sample(tmp_path: Path, report: str | None) -> None:
    folder = tmp_path / "data/shapes"
    folder.mkdir(parents=True)
    check_samples(compose("shapes-finetune", "local", cwd=tmp_path))  # nothing there yet
    pq.write_table(pa.table({"vae_latent_shape": [[4, 3, 4, 4]]}), folder / "part.parquet")
    if report is not None:
        (folder / "report.json").write_text(report)
    composed = compose("shapes-finetune", "local", cwd=tmp_path)
    if report is not None and "5" in report:
        check_samples(composed)
        return
    with pytest.raises(ConfigError, match=r"holds latents of 3x4x4 .*wants 5x4x4") as caught:
        check_samples(composed)
    assert caught.value.key == "train.data.num_frames" and caught.value.where is not None


def test_a_model_that_was_not_downloaded_is_named_with_the_command_that_fetches_it(tmp_path: Path) -> None:
    (data, model) = problems(tmp_path, "finetune")
    assert "does not exist" in data.message and data.key == "train.data.path"
    assert (model.key, "Wan-AI/Wan2.1-T2V-1.3B-Diffusers" in model.message) == ("train.models.student.init_from", True)
    assert "fvlaunch submit download" in model.hint and str(model.where).endswith("base/wan2.1-t2v-1.3b.yaml:10")


def test_a_model_in_part_is_not_there(tmp_path: Path) -> None:
    cached = tmp_path / "hub/models--Wan-AI--Wan2.1-T2V-1.3B-Diffusers"
    (cached / "refs").mkdir(parents=True)
    (cached / "refs/main").write_text("a" * 40)
    assert "Hugging Face cache" in problems(tmp_path, "finetune")[-1].message


@pytest.mark.parametrize("built", ["tiny-wan", "."])
def test_a_folder_and_what_is_made_on_first_use_are_there(tmp_path: Path, built: str) -> None:
    found = problems(tmp_path, "finetune", f"train.models.student.init_from={built if built != '.' else tmp_path}")
    assert [problem.key for problem in found] == ["train.data.path"]


def test_a_folder_that_is_not_there_is_no_id(tmp_path: Path) -> None:
    (_, model) = problems(tmp_path, "finetune", "train.models.student.init_from=/no/such/folder")
    assert "/no/such/folder does not exist" in model.message


def test_preprocessing_needs_its_clips_and_its_model(tmp_path: Path) -> None:
    source, model = problems(tmp_path, "preprocess")
    assert (source.key, model.key) == ("preprocess.source", "preprocess.model")
    (tmp_path / "clips").mkdir()
    assert problems(tmp_path, "preprocess", "tiny=true", "preprocess.source=clips") == []


def test_an_output_of_somebody_else_or_of_other_settings_is_no_output(tmp_path: Path) -> None:
    (tmp_path / "clips").mkdir()
    words = ("preprocess", "tiny=true", "preprocess.source=clips", "preprocess.output=out")
    write_samples(tmp_path / "out/deep/a.parquet", 1)
    (foreign,) = problems(tmp_path, *words)
    assert (foreign.key, "no preprocessing wrote" in foreign.message) == ("preprocess.output", True)
    (tmp_path / "out/.preprocess/records").mkdir(parents=True)
    (tmp_path / "out/.preprocess/settings.json").write_text(json.dumps({"height": 999, "max_rejected": 0.1, "listing": "x"}))
    (tmp_path / "out/.preprocess/records/00000000-00000001.json").write_text('{"written": 2}')
    (other,) = problems(tmp_path, *words)
    assert other.key == "preprocess.height" and "height was 999, is now" in other.message and "max_rejected" not in other.message
    (tmp_path / "out/.preprocess/records/00000000-00000001.json").write_text('{"written": 0}')
    assert problems(tmp_path, *words) == []


def test_a_row_to_evaluate_is_a_run_or_an_export(tmp_path: Path) -> None:
    rows = "evaluate.rows={a: {source: nowhere}, b: {source: clips}, c: {source: made}, d: {source: runs/one}}"
    (tmp_path / "clips").mkdir()
    (tmp_path / "runs/one/checkpoints").mkdir(parents=True)
    (tmp_path / "made").mkdir()
    (tmp_path / "made/training.json").touch()
    found = {problem.key: problem.message for problem in problems(tmp_path, "shapes-evaluate", rows)}
    assert found["evaluate.rows.a.source"].endswith("nowhere does not exist") and "neither a run" in found["evaluate.rows.b.source"]
    assert not found.keys() & {"evaluate.rows.c.source", "evaluate.rows.d.source"}


def test_a_run_is_no_model(tmp_path: Path) -> None:
    (tmp_path / "runs/one").mkdir(parents=True)
    (tmp_path / "runs/one/run.json").write_text("{}")
    *_, model = problems(tmp_path, "finetune", f"train.models.student.init_from={tmp_path / 'runs/one'}")
    assert model.key == "train.models.student.init_from" and "fvlaunch export one" in model.hint


def test_an_export_needs_a_run_and_a_folder_that_is_not_there(tmp_path: Path) -> None:
    (missing,) = problems(tmp_path, "export")
    assert (missing.key, "runs/my-run is no run with checkpoints" in missing.message) == ("export.run", True)
    (tmp_path / "runs/my-run/checkpoints").mkdir(parents=True)
    assert problems(tmp_path, "export") == []
    (tmp_path / "runs/my-run/export-ema").mkdir()
    (there,) = problems(tmp_path, "export")
    assert (there.key, "exists already" in there.message) == ("export.to", True)
    assert problems(tmp_path, "export", "export.to=elsewhere") == []


def test_inside_a_container_nothing_is_looked_for(tmp_path: Path) -> None:
    assert problems(tmp_path, "finetune", 'cluster.srun_args=["--container-image=/images/x.sqsh"]') == []


def test_trajectories_of_another_schedule_are_refused(tmp_path: Path) -> None:
    cache, role = tmp_path / "data/shapes-trajectories", "train.models.{}.init_from=tiny-wan"
    cache.mkdir(parents=True)
    found = {"format": 1, "flow_shift": 5.0, "timesteps": [1000, 900, 750, 500], "trajectory_steps": 48, "teacher_guidance_scale": 2.0}
    (cache / "metadata.json").write_text(json.dumps({**found, "total": 1024, "prompts": 1024, "latents": [5, 4, 4], "text_len": 4}))
    (problem,) = problems(tmp_path, "shapes-kd", role.format("student"), role.format("teacher"))
    assert "flow_shift 5.0, not 3.0" in problem.message and problem.key == "train.method.cache"
    assert str(problem.where).split(":")[0].endswith("shapes-kd.yaml")
