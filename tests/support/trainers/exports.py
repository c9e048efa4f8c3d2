"""Owns runs of a tiny Wan pipeline that can be exported, exporting them in the test's own process, and reading what they trained."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.support.trainers.trainer_ranks import read, tiny
from trainers import export
from trainers.checkpointing.reader import open_checkpoint
from trainers.data.parquet_schema import PartWriter, Sample
from trainers.distributed.mesh import ParallelContext
from trainers.inference import generation, prompt_encoding, settings, trained_network

PREFIX = "roles.student.transformer."
VALIDATION = {
    "num_steps": 4,
    "guidance_scale": 3.0,
    "prompts": ["a cat on the grass"],
    "solver": "unipc",
    "flow_shift": 5.0,
    "loss": None,
    "negative_prompt": "dull",
}
LORA = {"rank": 4, "alpha": 8, "target_modules": ["to_q", "to_k", "to_v", "to_out.0", "ffn.net.0.proj"]}


def write_wan_data(folder: Path) -> Path:
    """Write 8 clips of random latents [16, 2, 4, 4] with prompts; return the folder."""
    random = np.random.RandomState(0)
    with PartWriter(folder, rows_per_file=8) as writer:
        for n in range(8):
            latents, text = random.standard_normal((16, 2, 4, 4)).astype("f4"), random.standard_normal((3, 32)).astype("f4")
            writer.write(Sample(str(n), latents, text, f"{n}.mp4", f"clip {n}", 32, 32, 1.0, 16.0))
    return folder


def finished(runs: Any, folder: Path, config: dict[str, Any], attempt: int = 1) -> Path:
    """A run as a launcher leaves it."""
    (folder / "attempts").mkdir(exist_ok=True)
    (folder / "attempts" / f"{attempt:04d}.config.json").write_text(json.dumps({"train": config}))
    run: Path = runs.finish(config, folder, attempt=attempt)
    return run


def wan_config(data: Path, base: Path, **model: Any) -> dict[str, Any]:
    """Return a train block of 2 steps from a whole pipeline; `model` are keys of the student."""
    config = tiny(data, max_steps=2, models={"student": {"init_from": str(base), **model}})
    config["data"] |= {"num_frames": 5, "height": 32, "width": 32, "vae_stride": [4, 8, 8], "text_len": 16, "global_batch_size": 2}
    config["data"] |= {"latents_mean": None, "latents_std": None, "check_statistics": False}
    config["callbacks"] = {"ema": {"decay": 0.5}}
    config["optimizers"]["student"]["lr"] = 1e-2
    return config


def run_export(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, str, str]:
    """Return exit code, stdout and stderr of `python -m trainers.export`."""
    code = export.main([str(word) for word in words])
    said = capsys.readouterr()
    return code, said.out, said.err


def trained_weights(run: Path, step: int, prefix: str = PREFIX) -> dict[str, torch.Tensor]:
    return {key.removeprefix(prefix): value for key, value in read(run, step).items() if key.startswith(prefix)}


def same_bits(module: torch.nn.Module, wanted: dict[str, torch.Tensor]) -> None:
    state = module.state_dict()
    assert state.keys() == wanted.keys()
    assert all(torch.equal(state[name], wanted[name]) and state[name].dtype == wanted[name].dtype for name in state)


def network_inputs() -> dict[str, torch.Tensor]:
    random = torch.Generator().manual_seed(0)
    hidden, text = torch.randn(1, 16, 2, 4, 4, generator=random), torch.randn(1, 16, 32, generator=random)
    return {"hidden_states": hidden, "timestep": torch.tensor([500.0]), "encoder_hidden_states": text}


def sampled_by_the_run(run: Path, parallel: ParallelContext, prompt: str, seed: int) -> torch.Tensor:
    """Return the latents [C, T, H, W] that a run's live weights make of a prompt, as its validation would: with its sampler, and with
    VALIDATION's negative prompt.
    """
    checkpoint = open_checkpoint(run)
    validation, train = checkpoint.config.callbacks.validation, checkpoint.config
    assert validation is not None
    model = trained_network.restored(checkpoint, "student", "live", parallel)
    codec = prompt_encoding.make_codec(prompt_encoding.model_reference(train, None), train, model.device, text=True, video=True)
    (positive,) = prompt_encoding.embed([prompt], train, lambda: codec)
    negative = prompt_encoding.negative_embedding(train, VALIDATION["negative_prompt"], lambda: codec)
    assert negative.text == VALIDATION["negative_prompt"]
    return generation.latents(model, positive.embedding, negative.embedding, seed, settings.sampling_of(train, validation, 16))
