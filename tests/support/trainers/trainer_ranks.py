"""Whole training runs for the tests: run as a script it forks ranks of `python -m trainers` from a process that has torch already.

`Ranks` is the tests' side. `tiny` makes a configuration, `write_data` what it trains on, `read` what a checkpoint holds.
"""

from __future__ import annotations

import copy
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from tests.support.paths import ROOT

PATIENCE_S = 240
"""For whatever a test waits for: only a failure takes that long."""
ARCHITECTURE = {
    "num_attention_heads": 2,
    "attention_head_dim": 12,
    "in_channels": 4,
    "out_channels": 4,
    "text_dim": 16,
    "freq_dim": 32,
    "ffn_dim": 40,
    "num_layers": 1,
    "rope_max_seq_len": 32,
}


def tiny(data: Path, **changes: Any) -> dict[str, Any]:
    """A train block of 8 samples a step in micro-batches of 2. `changes` are dotted keys with __ for dots: optimizers__student__lr=1."""
    config: dict[str, Any] = {
        "max_steps": 4,
        "precision": "fp32",
        "method": {"kind": "finetune"},
        "models": {"student": {"architecture": dict(ARCHITECTURE)}},
        "data": {
            "path": str(data),
            "num_frames": 2,
            "height": 8,
            "width": 8,
            "vae_stride": [1, 2, 2],
            "latents_mean": [0.0] * 4,
            "latents_std": [1.0] * 4,
            "text_len": 6,
            "global_batch_size": 8,
            "micro_batch_size": 2,
            "workers": 0,
        },
        "optimizers": {"student": {"kind": "adamw", "lr": 1e-3}},
        "parallel": {},
        "checkpoint": {"every_steps": None},
        "callbacks": {},
        "tracking": {"tensorboard": False},
    }
    for key, value in changes.items():
        *parents, last = key.split("__")
        block = config
        for parent in parents:
            block = block[parent]
        block[last] = copy.deepcopy(value)
    return config


def write_data(folder: Path, samples: int = 24) -> Path:
    import numpy as np

    from trainers.data.parquet_schema import PartWriter, Sample

    random = np.random.RandomState(0)
    with PartWriter(folder, rows_per_file=samples) as writer:
        for number in range(samples):
            latents = random.standard_normal((4, 2, 4, 4)).astype("float32")
            text = random.standard_normal((1 + number % 6, 16)).astype("float32")
            writer.write(Sample(str(number), latents, text, f"{number}.mp4", f"clip {number}", 8, 8, 1.0, 2.0))
    return folder


def read(run: Path, step: int) -> dict[str, Any]:
    """A checkpoint's state as whole tensors, by flat key."""
    import torch.distributed.checkpoint as dcp
    from torch.distributed.checkpoint.default_planner import _EmptyStateDictLoadPlanner
    from torch.distributed.checkpoint.state_dict_loader import _load_state_dict

    state: dict[str, Any] = {}
    folder = run / "checkpoints" / f"step-{step:08d}"
    _load_state_dict(state, storage_reader=dcp.FileSystemReader(folder), planner=_EmptyStateDictLoadPlanner(), no_dist=True)
    return _flat(state)


def _flat(state: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in state.items():
        flat.update(_flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value})
    return flat


def metrics(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def losses(run: Path) -> list[float]:
    return [line["loss"] for line in metrics(run)]


class Attempt:
    """One attempt under way: by rank its pid, its log and what it sent to its launcher."""

    def __init__(self, server: Ranks, run: Path, number: int, pids: list[int]) -> None:
        self._server, self._run, self._number, self.pids = server, run, number, pids

    def log(self, rank: int = 0) -> str:
        return (self._run / f"log-{self._number}-{rank}").read_text()

    def sent(self, rank: int = 0) -> list[dict[str, Any]]:
        path = self._run / f"sent-{self._number}-{rank}"
        whole = path.read_text().rpartition("\n")[0] if path.exists() else ""
        return [json.loads(line) for line in whole.splitlines()]

    def wait_held(self, timeout_s: float = PATIENCE_S) -> None:
        """Until its last rank has come to where it waits for its notice."""
        deadline = time.monotonic() + timeout_s
        while not (self._run / f"held-{self._number}").exists():
            assert time.monotonic() < deadline, self.log()
            time.sleep(0.005)

    def notice(self, rank: int = 0) -> None:
        os.kill(self.pids[rank], signal.SIGTERM)

    def join(self, timeout_s: float = PATIENCE_S) -> list[int]:
        """Exit codes by rank; who is not back in time is killed."""
        return self._server.ask({"do": "join", "pids": self.pids, "timeout_s": timeout_s})


class Ranks:
    def __init__(self) -> None:
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
        command = [sys.executable, "-W", "error", __file__]
        self._server = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)
        self._attempts = 0

    def start(self, config: dict[str, Any], run: Path, world: int = 1, attempt: int = 1, hold_at: tuple[str, int] | None = None) -> Attempt:
        """An attempt under way. With `hold_at`, a phase and a count of it, its last rank waits there for its stop notice."""
        run.mkdir(exist_ok=True)
        self._attempts += 1
        path = run / f"config-{self._attempts}.json"
        path.write_text(json.dumps({"train": config}))
        request = {"do": "start", "world": world, "config": str(path), "run": str(run), "number": self._attempts, "attempt": attempt}
        request["hold_at"] = hold_at
        return Attempt(self, run, self._attempts, self.ask(request))

    def finish(self, config: dict[str, Any], run: Path, world: int = 1, attempt: int = 1) -> Path:
        """A whole attempt that must end with 0 on all ranks."""
        started = self.start(config, run, world, attempt)
        codes = started.join()
        assert codes == [0] * world, [codes, *(started.log(rank) for rank in range(world))]
        return run

    def imported(self) -> list[str]:
        """The modules that a rank without adapters has imported before it reads its configuration."""
        return self.ask({"do": "tell"})

    def close(self) -> None:
        assert self._server.stdin and self._server.stdout
        self._server.stdin.close()
        self._server.wait(120)
        self._server.stdout.close()

    def ask(self, request: dict[str, Any]) -> Any:
        assert self._server.stdin and self._server.stdout
        self._server.stdin.write(json.dumps(request) + "\n")
        self._server.stdin.flush()
        return json.loads(self._server.stdout.readline())


# --- the server's side


def _start(request: dict[str, Any]) -> list[int]:
    if '"lora"' in Path(request["config"]).read_text():
        import peft  # noqa: F401  seconds that each forked rank would take
    with socket.create_server(("127.0.0.1", 0)) as listening:
        return [_fork(rank, request, listening) for rank in range(request["world"])]


def _fork(rank: int, request: dict[str, Any], listening: socket.socket) -> int:
    pid = os.fork()
    if pid:
        return pid
    code = 99
    try:
        sent, log = (os.open(f"{request['run']}/{name}-{request['number']}-{rank}", os.O_CREAT | os.O_WRONLY) for name in ("sent", "log"))
        os.dup2(log, 1)
        os.dup2(log, 2)
        os.environ.update(
            RANK=str(rank),
            LOCAL_RANK=str(rank),
            WORLD_SIZE=str(request["world"]),
            LOCAL_WORLD_SIZE=str(request["world"]),
            MASTER_ADDR="127.0.0.1",
            MASTER_PORT=str(listening.getsockname()[1]),
            TRAINER_PROGRESS_FD=str(sent),
            TRAINER_PARENT_PID=str(os.getppid()),
            TRAINER_ATTEMPT=str(request["attempt"]),
        )
        if rank == 0:
            os.environ["TRAINER_LISTEN_FD"] = str(os.dup(listening.fileno()))
        if request["hold_at"] and rank == request["world"] - 1:
            from tests.support.gates import hold_until_notice

            hold_until_notice(*request["hold_at"], Path(request["run"], f"held-{request['number']}"))
        from trainers.__main__ import main

        code = main([request["config"], "--run-dir", request["run"]])
    finally:
        sys.stderr.flush()
        os._exit(code)


def _join(pids: list[int], timeout_s: float) -> list[int]:
    deadline, codes = time.monotonic() + timeout_s, []
    for pid in pids:
        while (found := os.waitpid(pid, os.WNOHANG)) == (0, 0) and time.monotonic() < deadline:
            time.sleep(0.005)
        if found == (0, 0):
            os.kill(pid, signal.SIGKILL)
            found = os.waitpid(pid, 0)
        codes.append(os.waitstatus_to_exitcode(found[1]))
    return codes


def _serve() -> None:
    import torch._dynamo  # noqa: F401  DTensor loads it on first use, which would take each forked rank a second

    import trainers.methods.finetune
    import trainers.models.wan
    import trainers.training.trainer  # noqa: F401

    imported = sorted(sys.modules)
    for line in sys.stdin:
        request, answer = json.loads(line), imported
        if request["do"] == "start":
            answer = _start(request)
        elif request["do"] == "join":
            answer = _join(request["pids"], request["timeout_s"])
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    _serve()
