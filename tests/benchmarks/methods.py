"""What a method costs beside its networks: `python tests/benchmarks/methods.py [ROUNDS]`.

A whole DMD2 iteration of the trainer (rollouts, losses, clipping, optimizers, averages, records) against the bare network passes that
it must make, by turns in one process on the shapes task's networks. Prints a table; ends with 1 where a limit is not kept.

Freed memory is kept by the process, as a GPU's allocator keeps it: glibc would give it back and fault it in again at each pass.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from trainers.config import TrainConfig  # noqa: E402
from trainers.config.parallel import ParallelConfig  # noqa: E402
from trainers.control import Control  # noqa: E402
from trainers.data.parquet_schema import PartWriter, Sample  # noqa: E402
from trainers.distributed import mesh  # noqa: E402
from trainers.training.trainer import Trainer  # noqa: E402

ROUNDS, LIMIT, BATCH = 12, 1.15, 64
STEPS = [1000, 900, 750, 500]
ARCHITECTURE = {
    "num_layers": 4,
    "num_attention_heads": 4,
    "attention_head_dim": 24,
    "ffn_dim": 256,
    "text_dim": 32,
    "in_channels": 4,
    "out_channels": 4,
}
"""shapes'."""
KEEP = {"MALLOC_TRIM_THRESHOLD_": str(2**32), "MALLOC_MMAP_THRESHOLD_": str(2**32)}


def main(rounds: int) -> int:
    torch.set_num_threads(1)
    parallel = mesh.start(ParallelConfig())
    kept, rows = True, []
    for rollout, interval in (("simulate", 1), ("simulate", 5), ("data_latent", 1)):
        with tempfile.TemporaryDirectory() as folder:
            ours, bare, ratio = _dmd2(Path(folder), parallel, rollout, interval, rounds)
        name = f"DMD2, {rollout}, the student at every {'iteration' if interval == 1 else f'{interval}th'}"
        rows.append((name, ours, bare, ratio))
        kept &= ratio <= LIMIT
    mesh.stop()
    print("| iteration | ours | its passes alone | ratio | limit |\n|---|---:|---:|---:|---:|")
    for name, ours, bare, ratio in rows:
        print(f"| {name} | {ours * 1e3:.0f} ms | {bare * 1e3:.0f} ms | {ratio:.3f} | at most {LIMIT:g} |")
    print(f"\nthe least of {rounds} rounds; batches of {BATCH}; one thread of {os.cpu_count()} cores, CPU time")
    return int(not kept)


def _dmd2(folder: Path, parallel: Any, rollout: str, interval: int, rounds: int) -> tuple[float, float, float]:
    """Seconds of (`interval` iterations, the passes of these) each divided by interval, and their ratio: the least of all rounds,
    since whatever else the machine does only adds to either."""
    (folder / "run").mkdir()
    trainer = Trainer(_config(_data(folder / "data"), rollout, interval), folder / "run", Control({}), parallel)
    batch = next(trainer.batches)

    def iterations() -> None:
        for _ in range(interval):
            trainer.step += 1
            trainer._train_step(batch, time.monotonic())

    passes = _passes(trainer.method, rollout, interval)
    iterations(), passes()
    pairs = [(_seconds(passes), _seconds(iterations)) for _ in range(rounds)]
    trainer.close()
    bare, ours = (min(side) / interval for side in zip(*pairs, strict=True))
    return ours, bare, ours / bare


def _passes(method: Any, rollout: str, interval: int) -> Callable[[], None]:
    """What `interval` iterations must ask of the networks: one of them steps the student."""
    generator = torch.Generator().manual_seed(0)
    noisy, prompt = torch.randn(BATCH, 5, 4, 4, 4, generator=generator), torch.randn(BATCH, 4, 32, generator=generator)
    timesteps = torch.full((BATCH,), 750.0)
    steps = 1 if rollout == "data_latent" else len(STEPS)

    def without(model: Any, count: int) -> None:
        with torch.no_grad():
            for _ in range(count):
                model.predict_velocity(noisy, timesteps, prompt)

    def graded(model: Any) -> None:
        model.predict_velocity(noisy, timesteps, prompt).square().mean().backward()
        model.transformer.zero_grad(set_to_none=True)

    def run() -> None:
        without(method.student, steps - 1)
        graded(method.student)
        without(method.teacher, 2)
        without(method.critic, 1)
        for _ in range(interval):
            without(method.student, steps)
            graded(method.critic)

    return run


def _seconds(run: Callable[[], None]) -> float:
    """Of this process, whatever else runs: one thread that waits for nobody."""
    started = time.process_time()
    run()
    return time.process_time() - started


def _data(folder: Path) -> Path:
    random = np.random.RandomState(0)
    with PartWriter(folder, rows_per_file=BATCH) as writer:
        for number in range(BATCH):
            latents, text = random.standard_normal((4, 5, 4, 4)).astype("f4"), random.standard_normal((4, 32)).astype("f4")
            writer.write(Sample(str(number), latents, text, f"{number}.mp4", "a clip", 8, 8, 1.0, 8.0))
    safetensors.torch.save_file({"negative": torch.zeros(1, 32)}, folder / "prompts.safetensors")
    return folder


def _config(data: Path, rollout: str, interval: int) -> TrainConfig:
    sizes = {"num_frames": 5, "height": 8, "width": 8, "vae_stride": [1, 2, 2], "text_len": 4, "global_batch_size": BATCH, "workers": 0}
    return TrainConfig.model_validate(
        {
            "max_steps": 10**6,
            "precision": "fp32",
            "method": {"kind": "dmd2", "denoising_steps": STEPS, "rollout": rollout, "generator_update_interval": interval},
            "models": {role: {"architecture": ARCHITECTURE} for role in ("student", "teacher", "critic")},
            "data": {"path": str(data), **sizes, "latents_mean": [0.0] * 4, "latents_std": [1.0] * 4},
            "optimizers": {role: {"kind": "adamw", "lr": 1e-5} for role in ("student", "critic")},
            "checkpoint": {"every_steps": None, "every_minutes": None},
            "callbacks": {"ema": {"decay": 0.98}},
            "tracking": {"tensorboard": False},
        }
    )


if __name__ == "__main__":
    if not os.environ.keys() >= KEEP.keys():
        os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, **KEEP})
    sys.exit(main(int(sys.argv[1]) if len(sys.argv) > 1 else ROUNDS))
