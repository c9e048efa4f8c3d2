"""What reading data costs: `python tests/benchmarks/data.py [ROUNDS]`.

A sample of Wan 1.3B's size against pyarrow's own `read_row_group` of the same one-row group, by turns; and what one loader process
delivers against what the tiny trainer, a whole rank of its own, eats. Prints a table; ends with 1 where a limit is not kept.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from trainers.config.data import DataConfig  # noqa: E402
from trainers.data.batches import batches  # noqa: E402
from trainers.data.parquet_schema import PartWriter, Sample  # noqa: E402
from trainers.data.samples import WAN_LATENTS_MEAN, WAN_LATENTS_STD, Samples  # noqa: E402

ROUNDS = 3
READ_LIMIT, FEED_LIMIT = 1.5, 20.0
TINY = {"num_frames": 9, "height": 32, "width": 32}
ARCHITECTURE = {
    "num_attention_heads": 2,
    "attention_head_dim": 12,
    "in_channels": 16,
    "out_channels": 16,
    "text_dim": 32,
    "freq_dim": 256,
    "ffn_dim": 32,
    "num_layers": 2,
    "rope_max_seq_len": 32,
}
"""The tiny-wan builder's."""
RANK = """
import json, pathlib, sys
from trainers.training import trainer
from trainers.config import TrainConfig
from trainers.control import Control

trainer.run(TrainConfig.model_validate(json.loads(sys.argv[1])), pathlib.Path(sys.argv[2]), Control())
"""


def main(rounds: int) -> int:
    with tempfile.TemporaryDirectory() as folder:
        read, group, ratio = _reading(Path(folder) / "full", rounds)
        rows = [
            ("one sample, 20x56x104 latents, against read_row_group", f"{read * 1e3:.1f} ms", f"{group * 1e3:.1f} ms", ratio, READ_LIMIT)
        ]
        kept = ratio <= READ_LIMIT
        for micro in (1, 8):
            fed, eaten = _feeding(Path(folder) / f"tiny-{micro}", micro, rounds)
            name = f"one loader process against the tiny trainer, micro-batches of {micro}"
            rows.append((name, f"{fed:.0f}/s", f"{eaten:.0f}/s", fed / eaten, FEED_LIMIT))
            kept &= fed / eaten >= FEED_LIMIT
    print("| what | ours | against | ratio | limit |\n|---|---:|---:|---:|---:|")
    for name, ours, against, quotient, limit in rows:
        print(f"| {name} | {ours} | {against} | {quotient:.2f} | {'at most' if limit == READ_LIMIT else 'at least'} {limit:g} |")
    print(f"\nmedians of {rounds} rounds; samples a second; {os.cpu_count()} cores")
    return int(not kept)


def _write(folder: Path, count: int, latents: tuple[int, ...], text: tuple[int, int]) -> None:
    random, shape = np.random.RandomState(0), (-1, 1, 1, 1)
    with PartWriter(folder, rows_per_file=64) as writer:
        for number in range(count):
            noise = random.standard_normal(latents)
            stored = (noise * np.reshape(WAN_LATENTS_STD, shape) + np.reshape(WAN_LATENTS_MEAN, shape)).astype("f4")
            embedding = random.standard_normal(text).astype("f4")
            writer.write(Sample(str(number), stored, embedding, f"{number}.mp4", "a clip", 832, 448, 4.8, 16.0))


def _reading(folder: Path, rounds: int) -> tuple[float, float, float]:
    """(a sample of ours, pyarrow's row group, median of the ratios) in seconds."""
    count = 8
    _write(folder, count, (16, 20, 56, 104), (120, 4096))
    samples = Samples(DataConfig(path=str(folder), global_batch_size=1, cache_gb=1e-6), 0, "latents")
    opened = pq.ParquetFile(next(folder.glob("*.parquet")))
    pairs = [_pair(samples, opened, index) for _ in range(rounds) for index in range(count)][count // 2 :]
    ours, theirs = zip(*pairs, strict=True)
    return statistics.median(ours), statistics.median(theirs), statistics.median(a / b for a, b in pairs)


def _pair(samples: Samples, opened: pq.ParquetFile, index: int) -> tuple[float, float]:
    started = time.perf_counter()
    group = opened.read_row_group(index)
    between = time.perf_counter()
    del group
    again = time.perf_counter()
    row = samples.row((0, index))
    ended = time.perf_counter()
    assert row.latents.shape == (16, 20, 56, 104)
    return ended - again, between - started


def _feeding(folder: Path, micro: int, rounds: int) -> tuple[float, float]:
    """(samples a second from one loader process, samples a second that the trainer takes), by turns."""
    _write(folder / "data", 64, (16, 3, 4, 4), (40, 32))
    data = {"path": str(folder / "data"), **TINY, "text_len": 64, "global_batch_size": micro, "micro_batch_size": micro, "workers": 1}
    fed, eaten = [], []
    for number in range(rounds):
        fed.append(_fed(DataConfig.model_validate(data), micro))
        eaten.append(_eaten(folder / f"run-{number}", data, micro))
    return statistics.median(fed), statistics.median(eaten)


def _fed(config: DataConfig, micro: int, steps: int = 2000) -> float:
    stream = batches(config, 0, rank=0, data_parallel=1, accumulation=1, micro=micro, start_step=0, max_steps=steps + 100)
    for _ in range(100):  # the process starts
        next(stream)
    started = time.perf_counter()
    for _ in range(steps):
        next(stream)
    seconds = time.perf_counter() - started
    stream.close()
    return steps * micro / seconds


def _eaten(run: Path, data: dict[str, Any], micro: int, steps: int = 40) -> float:
    run.mkdir(parents=True)
    train = {
        "max_steps": steps,
        "precision": "fp32",
        "method": {"kind": "finetune"},
        "models": {"student": {"architecture": ARCHITECTURE}},
        "data": data,
        "optimizers": {"student": {"kind": "adamw", "lr": 1e-4}},
        "checkpoint": {"every_steps": None},
        "tracking": {"tensorboard": False},
    }
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    subprocess.run([sys.executable, "-c", RANK, json.dumps(train), str(run)], env=environment, check=True, stderr=subprocess.DEVNULL)
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return micro / statistics.median(line["step_s"] for line in lines[10:])


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]) if len(sys.argv) > 1 else ROUNDS))
