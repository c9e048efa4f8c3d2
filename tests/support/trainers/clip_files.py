"""Clips, good and bad, and preprocessing jobs of one or more forked ranks, for the tests of trainers.preprocessing."""

from __future__ import annotations

import json
import multiprocessing
import os
import sys
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import av
import numpy as np
import pyarrow.parquet as pq

from tests.support.gates import hold_until_notice
from tests.support.ports import free_ports

_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(["trainers.preprocessing.job", "torch._dynamo"])  # so that a rank starts at once
JOB = {"kind": "videos", "model": "shapes", "num_frames": 5, "height": 8, "width": 8, "fps": 8, "decoders": 0, "rows_per_file": 2}
"""Of the moving-shapes codec, whose captions are words such as "a square moving right"."""


def write_clip(path: Path, frames: int = 5, rate: int = 8, size: tuple[int, int] = (16, 32), codec: str = "libx264") -> Path:
    """Frame i is grey 40 i."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate, options={"crf": "1"})
        stream.height, stream.width, stream.pix_fmt = *size, "yuv420p"
        stream.codec_context.thread_count = 1
        for i in range(frames):
            image = np.full((*size, 3), 40 * i % 256, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())
    return path


def write_sound(path: Path) -> Path:
    """A file without a video stream."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=8000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.sample_rate = 8000
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def write_merged(folder: Path, number: int) -> Path:
    """videos/ + videos2caption.json of the same small clip, a caption a number."""
    clip = write_clip(folder / "videos" / "000.mp4").read_bytes()
    for i in range(1, number):
        (folder / "videos" / f"{i:03d}.mp4").write_bytes(clip)
    words = ("a square moving right", "a cross moving down", "a square moving down")
    listed = [{"path": f"{i:03d}.mp4", "cap": words[i % 3]} for i in range(number)]
    (folder / "videos2caption.json").write_text(json.dumps(listed))
    return folder


class Job:
    """A preprocessing under way; logs and progress of rank N are OUTPUT.log-N and OUTPUT.sent-N.

    hold_at   clips after which a rank waits for its stop notice, at OUTPUT.held-N
    """

    def __init__(self, source: Path, output: Path, world: int = 1, *, hold_at: int | None = None, **changes: Any) -> None:
        config = {**JOB, "source": str(source), "output": str(output), **changes}
        if config["kind"] != "videos":
            config = {k: v for k, v in config.items() if k in {"kind", "model", "source", "output", "rows_per_file", *changes}}
        self.output = output
        [port] = free_ports(1)
        self.ranks: list[BaseProcess] = [
            _context.Process(target=_rank, args=(config, str(output), rank, world, port, hold_at), daemon=False) for rank in range(world)
        ]
        for rank in self.ranks:
            rank.start()

    def join(self) -> list[int | None]:
        """Exit codes by rank."""
        for rank in self.ranks:
            rank.join(120)
        return [rank.exitcode for rank in self.ranks]

    def log(self, rank: int = 0) -> str:
        return Path(f"{self.output}.log-{rank}").read_text()

    def sent(self, rank: int = 0) -> list[dict[str, Any]]:
        return [json.loads(line) for line in Path(f"{self.output}.sent-{rank}").read_text().splitlines()]

    def records(self) -> int:
        return len(list((self.output / ".preprocess" / "records").glob("*.json")))


def finish(source: Path, output: Path, world: int = 1, **changes: Any) -> dict[str, Any]:
    """A whole job that must end with 0; what its report says."""
    job = Job(source, output, world, **changes)
    codes = job.join()
    assert codes == [0] * world, [codes, *(job.log(rank) for rank in range(world))]
    found: dict[str, Any] = json.loads((output / "report.json").read_text())
    return found


def rows(output: Path, below: str = "combined_parquet_dataset") -> list[dict[str, Any]]:
    """All that was written, by id; every file must be whole and hold one row a group."""
    found = []
    for path in sorted((output / below).rglob("*")):
        if path.is_file():
            file = pq.ParquetFile(path)
            assert file.metadata.num_row_groups == file.metadata.num_rows, path
            found += file.read().to_pylist()
    return sorted(found, key=lambda row: str(row["id"]))


def _rank(config: dict[str, Any], output: str, rank: int, world: int, port: int, hold_at: int | None) -> None:
    log, sent = (os.open(f"{output}.{name}-{rank}", os.O_CREAT | os.O_WRONLY | os.O_TRUNC) for name in ("log", "sent"))
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.environ.update(RANK=str(rank), WORLD_SIZE=str(world), LOCAL_RANK=str(rank), MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    os.environ.update(TRAINER_PROGRESS_FD=str(sent), TRAINER_PARENT_PID=str(os.getppid()))
    import traceback

    import torch
    from pydantic import TypeAdapter

    from trainers.config.programs.preprocess import Config
    from trainers.control import Control
    from trainers.errors import UserError
    from trainers.preprocessing import job

    torch.set_num_threads(1)
    if hold_at is not None:
        hold_until_notice("preprocessing", hold_at, Path(f"{output}.held-{rank}"))
    code = 1
    try:
        code = job.run(TypeAdapter(Config).validate_python(config), Path(output), Control().start())
    except UserError as error:
        print(f"error: {error}")
        code = 76
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        os._exit(code)
