"""Promises of exports: stock diffusers loads them bit by bit, samples with them as the run does, and none is half-made or overwritten."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tests.support.small_disk import small_disk
from tests.support.trainers.alignment import realigned
from tests.support.trainers.exports import (
    LORA,
    PREFIX,
    VALIDATION,
    finished,
    network_inputs,
    run_export,
    same_bits,
    sampled_by_the_run,
    trained_weights,
    wan_config,
)
from tests.support.trainers.trainer_ranks import tiny
from trainers import export
from trainers.checkpointing.reader import open_checkpoint
from trainers.config.programs.export import Config
from trainers.control import Control
from trainers.distributed.mesh import ParallelContext
from trainers.inference import trained_network
from trainers.inference.export import job


@pytest.fixture(scope="module")
def small(runs: Any, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """From random weights, with checkpoints of steps 2 and 4."""
    config = tiny(data, callbacks={"ema": {"decay": 0.5}}, checkpoint__every_steps=2)
    return finished(runs, tmp_path_factory.mktemp("small"), config)


@pytest.fixture(scope="module")
def wan(runs: Any, wan_data: Path, base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Finetuned from a whole pipeline, with samples."""
    config = wan_config(wan_data, base)
    config["callbacks"]["validation"] = {**VALIDATION, "weights": "live"}
    return finished(runs, tmp_path_factory.mktemp("wan"), config)


@pytest.fixture(scope="module")
def lora(runs: Any, wan_data: Path, base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return finished(runs, tmp_path_factory.mktemp("lora"), wan_config(wan_data, base, lora=LORA))


@pytest.mark.parametrize(
    ("words", "prefix", "step"), [([], PREFIX, 4), (["--weights", "ema"], "callbacks.ema.student.", 4), (["--step", 2], PREFIX, 2)]
)
def test_a_transformer_reloads_bit_by_bit(
    capsys: pytest.CaptureFixture[str], small: Path, tmp_path: Path, words: list[object], prefix: str, step: int
) -> None:
    from diffusers import WanTransformer3DModel

    code, out, err = run_export(capsys, small, "--to", tmp_path / "made", *words)
    assert (code, out) == (0, f"{tmp_path / 'made'}\n"), err
    same_bits(WanTransformer3DModel.from_pretrained(tmp_path / "made", subfolder="transformer"), trained_weights(small, step, prefix))
    assert [p.name for p in tmp_path.iterdir()] == ["made"]
    told = json.loads((tmp_path / "made" / "training.json").read_text())
    assert (told["step"], told["role"]) == (step, "student")


@pytest.mark.parametrize("words", [[], ["--weights", "ema"]])
def test_a_full_disk_is_one_error_and_leaves_nothing(
    capsys: pytest.CaptureFixture[str], small: Path, tmp_path: Path, words: list[object]
) -> None:
    with small_disk(tmp_path / "disk", kb=400) as disk:
        for leave in (0, 4096, 16_384, 32_768, 65_536):
            disk.fill(leave=leave)
            code, out, err = run_export(capsys, small, "--to", disk.path / "made", *words)
            if code == 0:
                break
            assert (code, out) == (1, "") and err.startswith("error: ") and "no space left" in err.lower() and err.count("\n") <= 2, err
            assert [path.name for path in disk.path.iterdir()] == [".filler"]
        disk.empty()
        assert run_export(capsys, small, "--to", disk.path / "again", *words)[0] == 0
        assert leave > 4096


def test_large_weights_are_written_in_several_files_with_an_index(capsys: pytest.CaptureFixture[str], small: Path, tmp_path: Path) -> None:
    from diffusers import WanTransformer3DModel

    assert run_export(capsys, small, "--to", tmp_path / "made", "--max-shard-gb", "2e-5")[0] == 0
    files = sorted((tmp_path / "made/transformer").glob("*.safetensors"))
    assert len(files) > 2
    assert files[0].name == f"diffusion_pytorch_model-00001-of-{len(files):05d}.safetensors"
    same_bits(WanTransformer3DModel.from_pretrained(tmp_path / "made", subfolder="transformer"), trained_weights(small, 4))


def test_bf16_keeps_in_float32_what_diffusers_keeps(capsys: pytest.CaptureFixture[str], small: Path, tmp_path: Path) -> None:
    assert run_export(capsys, small, "--to", tmp_path / "made", "--dtype", "bf16")[0] == 0
    state = load_file(tmp_path / "made/transformer/diffusion_pytorch_model.safetensors")
    assert state["blocks.0.attn1.to_q.weight"].dtype == torch.bfloat16
    assert state["blocks.0.scale_shift_table"].dtype == state["condition_embedder.time_embedder.linear_1.weight"].dtype == torch.float32


def test_a_pipeline_reloads_bit_by_bit_with_the_rest_of_its_base(
    capsys: pytest.CaptureFixture[str], wan: Path, base: Path, tmp_path: Path
) -> None:
    from diffusers import UniPCMultistepScheduler, WanPipeline

    made = tmp_path / "made"
    assert run_export(capsys, wan, "--to", made)[0] == 0
    pipe = WanPipeline.from_pretrained(made)
    same_bits(pipe.transformer, trained_weights(wan, 2))
    assert isinstance(pipe.scheduler, UniPCMultistepScheduler) and pipe.scheduler.config.flow_shift == 5.0
    for part in ("vae/diffusion_pytorch_model.safetensors", "text_encoder/model.safetensors", "tokenizer/tokenizer.json"):
        assert (made / part).read_bytes() == (base / part).read_bytes()
    assert (made / "sample.mp4").read_bytes() == (wan / "samples/step-00000002/000.mp4").read_bytes()


def test_the_cards_snippet_runs_and_tells_what_the_weights_are(
    capsys: pytest.CaptureFixture[str], wan: Path, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run_export(capsys, wan, "--to", "made")[0] == 0
    card = Path("made/README.md").read_text()
    assert card.startswith("---\nlibrary_name: diffusers\n")
    assert "after 2 steps" in card and "[sample.mp4](sample.mp4)" in card
    assert str(wan) not in card and str(base.parent) + "/" not in card.partition("## Training")[2]
    exec(compile(card.partition("```python\n")[2].partition("```")[0], "README.md", "exec"), {})
    assert Path("sample.webp").stat().st_size > 100


def test_the_stock_pipeline_samples_as_the_run_does(
    capsys: pytest.CaptureFixture[str], wan: Path, parallel: ParallelContext, tmp_path: Path
) -> None:
    from diffusers import WanPipeline

    assert run_export(capsys, wan, "--to", tmp_path / "made")[0] == 0
    pipe = WanPipeline.from_pretrained(tmp_path / "made")
    pipe.set_progress_bar_config(disable=True)
    ours = sampled_by_the_run(wan, parallel, "a cat", seed=7)
    options = {"num_inference_steps": 4, "guidance_scale": 3.0, "num_frames": 5, "height": 32, "width": 32, "max_sequence_length": 16}
    generator = torch.Generator().manual_seed(7)
    theirs = pipe("a cat", negative_prompt=VALIDATION["negative_prompt"], generator=generator, output_type="latent", **options).frames
    torch.testing.assert_close(ours[None], theirs, rtol=0, atol=1e-6)


@pytest.mark.parametrize("keys", ["diffusers", "original"])
def test_an_adapter_in_the_stock_pipeline_computes_what_was_trained_exactly(
    capsys: pytest.CaptureFixture[str], lora: Path, base: Path, parallel: ParallelContext, tmp_path: Path, keys: str
) -> None:
    from diffusers import WanPipeline

    assert run_export(capsys, lora, "--to", tmp_path / "made", "--lora-keys", keys)[0] == 0
    pipe = WanPipeline.from_pretrained(base)
    inputs = network_inputs()
    before = pipe.transformer(**inputs, return_dict=False)[0]
    pipe.load_lora_weights(tmp_path / "made", weight_name="pytorch_lora_weights.safetensors")
    model = trained_network.restored(open_checkpoint(lora), "student", "live", parallel)
    with torch.no_grad():
        theirs, ours = (realigned(network)(**inputs, return_dict=False)[0] for network in (pipe.transformer, model.transformer))
    assert torch.equal(theirs, ours)
    assert not torch.equal(theirs, before)
    names = load_file(tmp_path / "made/pytorch_lora_weights.safetensors").keys()
    assert {name.split(".")[0] for name in names} == {"transformer" if keys == "diffusers" else "diffusion_model"}


def test_a_merged_adapter_is_a_plain_pipeline(
    capsys: pytest.CaptureFixture[str], lora: Path, parallel: ParallelContext, tmp_path: Path
) -> None:
    from diffusers import WanPipeline

    assert run_export(capsys, lora, "--to", tmp_path / "made", "--merge")[0] == 0
    pipe = WanPipeline.from_pretrained(tmp_path / "made")
    assert not [name for name in pipe.transformer.state_dict() if "lora" in name]
    model = trained_network.restored(open_checkpoint(lora), "student", "live", parallel)
    with torch.no_grad():
        theirs, ours = (
            pipe.transformer(**network_inputs(), return_dict=False)[0],
            model.transformer(**network_inputs(), return_dict=False)[0],
        )
    torch.testing.assert_close(theirs, ours, rtol=0, atol=1e-5)


def test_nothing_is_overwritten_and_a_failure_leaves_nothing(capsys: pytest.CaptureFixture[str], small: Path, tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    code, _, err = run_export(capsys, small, "--to", tmp_path / "there")
    assert code == 1 and "exists already" in err
    (tmp_path / "file").write_text("")
    code, _, err = run_export(capsys, small, "--to", tmp_path / "file" / "made")
    assert code == 1 and "error: " in err and "Traceback" not in err
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "there"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--step", 3], "no checkpoint of step 3\nhint: there are: 2, 4"),
        (["--role", "teacher"], "trained no role 'teacher'\nhint: --role may be student"),
        (["--merge"], "nothing to merge"),
    ],
)
def test_what_is_not_there_is_told(capsys: pytest.CaptureFixture[str], small: Path, tmp_path: Path, words: list[object], said: str) -> None:
    code, _, err = run_export(capsys, small, "--to", tmp_path / "made", *words)
    assert code == 1 and said in err
    assert list(tmp_path.iterdir()) == []


def test_what_is_no_run_is_refused(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    code, _, err = run_export(capsys, tmp_path, "--to", tmp_path / "made")
    assert code == 1 and "is not the directory of a run" in err


def test_a_damaged_newest_checkpoint_is_passed_over_unless_it_was_asked_for(
    capsys: pytest.CaptureFixture[str], small: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    shutil.copytree(small, run)
    shard = run / "checkpoints/step-00000004/__0_0.distcp"
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 1
    shard.write_bytes(content)
    code, _, err = run_export(capsys, run, "--to", tmp_path / "made", "--step", 4)
    assert code == 1 and "wrong digest" in err
    assert run_export(capsys, run, "--to", tmp_path / "made")[0] == 0
    assert json.loads((tmp_path / "made/training.json").read_text())["step"] == 2
    assert (run / "checkpoints/step-00000004").is_dir()


def test_an_upload_that_fails_leaves_the_export_and_tells_how_to_go_on(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, small: Path, tmp_path: Path
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    code, _, err = run_export(capsys, small, "--to", tmp_path / "made", "--push-to-hub", "me/model")
    assert code == 1 and "is exported, but the upload to me/model failed" in err and "hint: hf upload me/model" in err
    assert (tmp_path / "made/transformer").is_dir()
    assert 'from_pretrained("me/model"' in (tmp_path / "made/README.md").read_text()


def test_a_job_that_exports_leaves_the_folder_that_the_command_makes(small: Path, tmp_path: Path) -> None:
    config = Config(run=str(small), to=str(tmp_path / "job"), weights="ema")
    assert job.run(config, tmp_path, Control({"RANK": "0"})) == 0
    export.main([str(small), "--to", str(tmp_path / "command"), "--weights", "ema"])
    weights = [load_file(tmp_path / name / "transformer/diffusion_pytorch_model.safetensors") for name in ("job", "command")]
    assert weights[0].keys() == weights[1].keys()
    assert all(torch.equal(weights[0][key], weights[1][key]) for key in weights[0])
    assert job.run(config, tmp_path, Control({"RANK": "0"})) == 0  # as after a restart
    stopped = Control({"RANK": "0"})
    stopped.stop_requested = True
    assert job.run(config.model_copy(update={"to": str(tmp_path / "never")}), tmp_path, stopped) == 75
