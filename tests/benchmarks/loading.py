"""What it costs two ranks to read a student and its teacher from the same files: `python tests/benchmarks/loading.py [ROUNDS]`.

The files are random weights of Wan2.1 T2V 1.3B's size in bfloat16, 2.8 GB in three parts, made in a temporary folder and removed. Each
round the files are dropped from the page cache, read from beginning to end by one process for comparison, dropped again, and loaded by two
ranks that hold half of the weights each: first the teacher, then the student in float32. Ends with 1 where a limit is not kept.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))
ROUNDS = 2
RANKS, LAYERS, PARTS = 2, 30, 3
GB = 1e9
READ_LIMIT, MEMORY_LIMIT, TIME_LIMIT = 1.1, 0.15, 2.5
Figures = dict[str, float]


def main(rounds: int) -> int:
    with tempfile.TemporaryDirectory(dir=os.environ.get("TMPDIR", "/tmp")) as name:
        folder = Path(name)
        write_model(folder / "wan/transformer")
        files = sorted((folder / "wan/transformer").glob("*.safetensors"))
        size = sum(file.stat().st_size for file in files)
        turns = [_turn(folder, files) for _ in range(rounds)]
    rows = [
        ("read from the disk by both ranks, against the files' size", lambda t: t["read"] / size, READ_LIMIT),
        ("the same, of the student alone, after the teacher", lambda t: t["read_again"] / size, READ_LIMIT - 1),
        ("seconds of the teacher, against reading the files once", lambda t: t["first_s"] / t["plain_s"], TIME_LIMIT),
        ("memory of a rank beside its own weights, at most, against the files' size", lambda t: t["beside"] / size, MEMORY_LIMIT),
    ]
    print("| what | median | limit |\n|---|---:|---:|")
    kept = True
    for what, of, limit in rows:
        ratio = statistics.median(map(of, turns))
        kept &= ratio <= limit
        print(f"| {what} | {ratio:.2f} | {limit:.2f} |")
    seconds = {key: statistics.median(turn[f"{key}_s"] for turn in turns) for key in ("plain", "first", "second")}
    print(
        f"\nmedians of {rounds} rounds by turns; {size / GB:.1f} GB are read in {seconds['plain']:.1f} s, loaded as a teacher in "
        f"{seconds['first']:.1f} s and then as a student in {seconds['second']:.1f} s"
    )
    return int(not kept)


def write_model(folder: Path) -> None:
    import torch
    from safetensors.torch import save_file

    from trainers.config.models.wan import WanArchitecture
    from trainers.models.loading.light_diffusers import WanTransformer3DModel

    architecture = WanArchitecture(num_layers=LAYERS).model_dump()
    with torch.device("meta"):
        shapes = {name: tensor.shape for name, tensor in WanTransformer3DModel(**architecture).state_dict().items()}
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps({"_class_name": "WanTransformer3DModel", **architecture}))
    names, weight_map = sorted(shapes), {}
    for part in range(PARTS):
        file = f"diffusion_pytorch_model-{part + 1:05d}-of-{PARTS:05d}.safetensors"
        own = names[part * len(names) // PARTS : (part + 1) * len(names) // PARTS]
        save_file({name: torch.empty(shapes[name], dtype=torch.bfloat16).uniform_(-0.1, 0.1) for name in own}, folder / file)
        weight_map |= dict.fromkeys(own, file)
    (folder / "diffusion_pytorch_model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))


def _turn(folder: Path, files: list[Path]) -> Figures:
    _drop(files)
    began = time.perf_counter()
    for file in files:
        with file.open("rb", buffering=0) as opened:
            while opened.read(8 << 20):
                pass
    plain_s = time.perf_counter() - began
    _drop(files)
    shared = {**os.environ, "PYTHONPATH": str(ROOT), "WORLD_SIZE": str(RANKS), "STORE": f"{folder}/store", "OMP_NUM_THREADS": "1"}
    argv = [sys.executable, str(Path(__file__).resolve()), "--rank-in", str(folder)]
    started = [subprocess.Popen(argv, env={**shared, "RANK": str(rank), "GLOO_SOCKET_IFNAME": "lo"}) for rank in range(RANKS)]
    codes = [process.wait() for process in started]
    if any(codes):
        raise SystemExit("a rank failed")
    (folder / "store").unlink()
    first, second = zip(*(json.loads((folder / f"rank-{rank}.json").read_text()) for rank in range(RANKS)), strict=True)
    return {
        "plain_s": plain_s,
        "first_s": max(role["s"] for role in first),
        "second_s": max(role["s"] for role in second),
        "read": sum(role["read"] for role in (*first, *second)),
        "read_again": sum(role["read"] for role in second),
        "beside": max(role["beside"] for role in (*first, *second)),
    }


def _drop(files: list[Path]) -> None:
    """Take the files out of the page cache."""
    for file in files:
        with file.open("rb") as opened:
            os.fsync(opened.fileno())
            os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


# --- a rank


def _rank(folder: Path) -> None:
    import torch
    import torch.distributed as dist
    from torch.distributed.device_mesh import init_device_mesh

    from trainers.config.models.wan import Config
    from trainers.distributed.mesh import ParallelContext
    from trainers.models.wan import Wan

    rank = int(os.environ["RANK"])
    dist.init_process_group("gloo", store=dist.FileStore(os.environ["STORE"], RANKS), rank=rank, world_size=RANKS)
    mesh = init_device_mesh("cpu", (1, RANKS, 1), mesh_dim_names=("replicate", "shard", "sequence"))
    parallel = ParallelContext(torch.device("cpu"), rank, RANKS, mesh, dist.new_group(backend="gloo"))
    config = Config(init_from=str(folder / "wan"))

    def load(role: str) -> Any:
        return Wan(config, role, trainable=role == "student", precision="bf16", seed=1, parallel=parallel, load_weights=True)

    figures, kept = [], []
    for role in ("teacher", "student"):
        dist.barrier()
        with _Watch() as watch:
            kept.append(load(role))
            dist.barrier()
        own = sum(parameter.to_local().nbytes for parameter in kept[-1].transformer.parameters())
        figures.append({"s": watch.seconds, "read": watch.read, "beside": watch.peak - own})
    (folder / f"rank-{rank}.json").write_text(json.dumps(figures))
    dist.barrier()
    os._exit(0)


class _Watch:
    """Seconds, bytes that this process has had read from a disk, and the most memory of its own that it took meanwhile."""

    def __enter__(self) -> _Watch:
        self._done, self._began, self._before = threading.Event(), time.perf_counter(), _memory()
        self.peak, self._read = 0, _read_bytes()
        self._sampler = threading.Thread(target=self._sample)
        self._sampler.start()
        return self

    def _sample(self) -> None:
        while not self._done.wait(0.02):
            self.peak = max(self.peak, _memory() - self._before)

    def __exit__(self, *_: object) -> None:
        self.seconds, self.read = time.perf_counter() - self._began, _read_bytes() - self._read
        self._done.set()
        self._sampler.join()


def _memory() -> int:
    """Anonymous memory: mapped files are not this process's own."""
    [line] = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("RssAnon")]
    return int(line.split()[1]) * 1024


def _read_bytes() -> int:
    [line] = [line for line in Path("/proc/self/io").read_text().splitlines() if line.startswith("read_bytes")]
    return int(line.split()[1])


if __name__ == "__main__":
    if sys.argv[1:2] == ["--rank-in"]:
        _rank(Path(sys.argv[2]))
    else:
        sys.exit(main(int(sys.argv[1]) if len(sys.argv) > 1 else ROUNDS))
