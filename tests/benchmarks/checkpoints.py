"""What a checkpoint costs the training that goes on beside it: `python tests/benchmarks/checkpoints.py [ROUNDS] [--against CHECKOUT]`.

Two ranks train a network whose weights and moments, sharded over them, are 1 GB. By turns, in the same processes: steps without a save,
with ours (asynchronous), ours waited for, torch's own `dcp.save`. Stall: how long `save` keeps the loop. Whole cost: what a save makes its
steps longer, stall included, as a part of the default interval. Ends with 1 where a limit is not kept. `--against`: another checkout's
code, in ranks of its own.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
ROUNDS = 8
RANKS, LAYERS, WIDTH, TOKENS = 2, 10, 2048, 128
"""42 million parameters a rank: 1.0 GB in all with AdamW's moments. So few tokens are less than one clip: no real step is shorter."""
STEPS = 6
"""Steps of a turn, in which a save has to end."""
STALL_LIMIT, COST_LIMIT = 1 / 3, 0.035
Turn = dict[str, float]


def main() -> int:
    options = _parser().parse_args()
    checkouts = {"ours": ROOT, **({"against": options.against.resolve()} if options.against else {})}
    figures = {name: _Figures(_turns(checkout, options.rounds)) for name, checkout in checkouts.items()}
    limits = f"at most {STALL_LIMIT:.2f} | whole cost, at most {COST_LIMIT:.1%} | the same in CPU time |"
    print(f"| | stall | our save, waited for | torch's `dcp.save` | stall / the faster of these, {limits}")
    print("|---|---:|---:|---:|---:|---:|---:|")
    for name, row in figures.items():
        times = f"{row.stall_s:.2f} s | {row.waited_s:.1f} s | {row.torch_s:.1f} s"
        print(f"| {name} | {times} | {row.stall:.2f} | {row.cost:.2%} | {row.cpu_cost:.2%} |")
    ours = figures["ours"]
    step, save = f"{ours.step_s:.2f} s ({ours.step_cpu_s:.2f} s of CPU)", f"{ours.extra_s:.2f} s ({ours.extra_cpu_s:.2f} s of CPU)"
    print(f"\nmedians of {options.rounds} rounds by turns; a step takes {step}, so that the default interval is {ours.interval_s:.0f} s;")
    print(f"a save makes its steps {save} longer; the first one, which makes the buffers, stalls {ours.first_stall_s:.2f} s")
    return int(ours.stall > STALL_LIMIT or max(ours.cost, ours.cpu_cost) > COST_LIMIT)


class _Figures:
    """Of all turns but the first, which makes the buffers."""

    def __init__(self, turns: list[Turn]) -> None:
        def median(of: Callable[[Turn], float]) -> float:
            return statistics.median(map(of, turns[1:]))

        self.first_stall_s = turns[0]["stall"]
        self.stall_s, self.waited_s = median(lambda t: t["stall"]), median(lambda t: t["waited"])
        self.torch_s = median(lambda t: t["torch"])
        self.stall = median(lambda t: t["stall"] / min(t["torch"], t["waited"]))
        self.step_s, self.step_cpu_s = median(lambda t: t["plain"]) / STEPS, median(lambda t: t["plain_cpu"]) / STEPS
        self.interval_s = min(100 * self.step_s, 15 * 60)
        self.extra_s, self.extra_cpu_s = median(lambda t: t["with"] - t["plain"]), median(lambda t: t["with_cpu"] - t["plain_cpu"])
        self.cost, self.cpu_cost = self.extra_s / self.interval_s, self.extra_cpu_s / min(100 * self.step_cpu_s, 15 * 60)


def _turns(checkout: Path, rounds: int) -> list[Turn]:
    """Return what rank 0 measured, a round each."""
    with tempfile.TemporaryDirectory(dir=os.environ.get("TMPDIR", "/tmp")) as folder:
        shared = {**os.environ, "PYTHONPATH": str(checkout), "WORLD_SIZE": str(RANKS), "STORE": f"{folder}/store", "OMP_NUM_THREADS": "1"}
        argv = [sys.executable, str(Path(__file__).resolve()), "--rank-in", folder, str(rounds + 1)]
        started = [
            subprocess.Popen(argv, env={**shared, "RANK": str(rank), "GLOO_SOCKET_IFNAME": "lo"}, cwd=checkout) for rank in range(RANKS)
        ]
        codes = [process.wait() for process in started]
        if any(codes):
            raise SystemExit("a rank failed")
        return list(json.loads((Path(folder) / "turns.json").read_text()))


# --- a rank


def _rank(folder: Path, rounds: int) -> None:
    import torch
    import torch.distributed as dist

    from trainers.checkpointing.saver import Checkpointer
    from trainers.config.checkpoint import CheckpointConfig
    from trainers.control import Control

    torch.set_num_threads(1)
    rank = int(os.environ["RANK"])
    dist.init_process_group("gloo", store=dist.FileStore(os.environ["STORE"], RANKS), rank=rank, world_size=RANKS)
    training = _Training()
    checkpointer = Checkpointer(folder / "checkpoints", CheckpointConfig(keep_last=2), control=Control({}), facts={}, config_digest="")
    turns = [_round(number, training, checkpointer, folder) for number in range(rounds)]
    checkpointer.close()
    if rank == 0:
        (folder / "turns.json").write_text(json.dumps(turns))
    dist.barrier()
    os._exit(0)


class _Training:
    """Each rank trains its own shard of the layers: what ranks say to each other in a step is no part of what a save costs."""

    def __init__(self) -> None:
        import torch
        from torch.distributed.device_mesh import init_device_mesh

        self.mesh = init_device_mesh("cpu", (RANKS,))
        self.network = torch.nn.Sequential(*(torch.nn.Linear(WIDTH, WIDTH, bias=False) for _ in range(LAYERS)))
        self.optimizer = torch.optim.AdamW(self.network.parameters(), lr=1e-4)
        self.input = torch.randn(TOKENS, WIDTH)
        self.steps(1)

    def steps(self, count: int) -> None:
        for _ in range(count):
            self.network(self.input).square().mean().backward()
            self.optimizer.step()
            self.optimizer.zero_grad()

    def state(self) -> dict[str, Any]:
        named = dict(self.network.named_parameters())
        moments = {
            name: {key: self._sharded(value) if value.ndim else value for key, value in self.optimizer.state[parameter].items()}
            for name, parameter in named.items()
        }
        weights = {name: self._sharded(parameter.detach()) for name, parameter in named.items()}
        return {"roles": {"student": {"net": weights}}, "optimizers": {"student": moments}}

    def _sharded(self, values: Any) -> Any:
        from torch.distributed.tensor import DTensor, Shard

        return DTensor.from_local(values, self.mesh, [Shard(0)], run_check=False)


def _round(number: int, training: _Training, checkpointer: Any, folder: Path) -> Turn:
    import torch.distributed.checkpoint as dcp

    turn: Turn = {}
    turn["plain"], turn["plain_cpu"] = _timed(lambda: training.steps(STEPS))

    def with_a_save() -> None:
        began = time.perf_counter()
        checkpointer.save(2 * number + 1, training.state())
        turn["stall"] = time.perf_counter() - began
        training.steps(STEPS)
        checkpointer.wait()

    turn["with"], turn["with_cpu"] = _timed(with_a_save)
    turn["waited"], _ = _timed(lambda: checkpointer.save(2 * number + 2, training.state(), wait=True))
    turn["torch"], _ = _timed(lambda: dcp.save(training.state(), storage_writer=dcp.FileSystemWriter(folder / "torchs")))
    if os.environ["RANK"] == "0":
        shutil.rmtree(folder / "torchs")
    return turn


def _timed(work: Callable[[], object]) -> tuple[float, float]:
    """(seconds, seconds of this process' CPU) of work that all ranks begin together."""
    import torch.distributed as dist

    dist.barrier()
    began, cpu = time.perf_counter(), time.process_time()
    work()
    dist.barrier()
    return time.perf_counter() - began, time.process_time() - cpu


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="What a checkpoint costs the training that goes on beside it.")
    parser.add_argument("rounds", nargs="?", type=int, default=ROUNDS)
    parser.add_argument("--against", type=Path, metavar="CHECKOUT", help="another checkout, measured beside this one")
    return parser


if __name__ == "__main__":
    if sys.argv[1:2] == ["--rank-in"]:
        _rank(Path(sys.argv[2]), int(sys.argv[3]))
    else:
        sys.exit(main())
