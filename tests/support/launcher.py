"""Owns driving fvlaunch as a person does: its command line in processes of its own, in a workspace with tiny recipes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import yaml

from tests.support import gates

RECIPE: dict[str, Any] = {
    "description": "The shapes task with the smallest network, for tests",
    "extends": "base/shapes",
    "resources": {"ranks": 2, "threads_per_rank": 1},
    "train": {
        "max_steps": 240,
        "method": {"kind": "finetune"},
        "models": {"student": {"architecture": {"num_layers": 1, "num_attention_heads": 2, "attention_head_dim": 12, "ffn_dim": 32}}},
        "data": {"global_batch_size": 8, "text_dropout": 0.1, "prepare": {"repeats": 1}, "workers": 0},
        "optimizers": {"student": {"kind": "adamw", "lr": 1e-3, "schedule": {"kind": "cosine", "warmup_steps": 10, "decay_steps": 240}}},
        "callbacks": {"ema": {"decay": 0.99}},
        "checkpoint": {"every_steps": 40, "every_minutes": None},
    },
}
GATED: dict[str, Any] = {**RECIPE, "train": {**RECIPE["train"], "method": gates.METHOD}}
"""The same, waiting at its gate before each step: `Workspace.gate` opens it."""
LIMITS = {"poll_s": 0.2, "head_silence_s": 15, "grace_s": 20, "hang_floor_s": 600, "phase_s": 600, "crashes": 100}
"""A run that waits at its gate does not hang."""
STRICT = {**LIMITS, "hang_floor_s": 10, "phase_s": 90}
"""For runs that hang."""


class Workspace:
    """A folder with a recipe and clusters in it, and fvlaunch run there."""

    def __init__(self, folder: Path, environment: Mapping[str, str] | None = None) -> None:
        self.folder = folder
        self.runs = folder / "runs"
        base = dict(os.environ if environment is None else environment)
        self.env = {**base, "XDG_STATE_HOME": str(folder / "state"), "XDG_CONFIG_HOME": str(folder / "config"), "HF_HUB_OFFLINE": "1"}
        for name in ("FVLAUNCH_CLUSTER", "FVLAUNCH_RUNS", "COLUMNS"):
            self.env.pop(name, None)
        self.write("templates/recipes/tiny.yaml", RECIPE)
        self.write("templates/recipes/gated.yaml", GATED)
        self.write("gated.py", gates.source())
        self.write("clusters/here.yaml", {"executor": "local", "paths": {"data": "data"}, "limits": LIMITS})

    def write(self, name: str, value: Any) -> Path:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(value if isinstance(value, str) else yaml.safe_dump(value))
        return path

    def slurm_cluster(self, name: str = "real", **changes: Any) -> None:
        """A profile for the Slurm of the tests: gloo has to be told to stay on the loopback interface."""
        profile = {
            "executor": "slurm",
            "ranks_per_node": 1,
            "paths": {"data": "data"},
            "env": {"GLOO_SOCKET_IFNAME": "lo"},
            "slurm": {"partition": "low", "cpus-per-task": 1, "mem": "1000", "time": "00:10:00"},
            "limits": LIMITS,
        }
        self.write(f"clusters/{name}.yaml", {**profile, **changes})

    def call(self, *arguments: str, check: bool = True, timeout_s: float = 290, **more: Any) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [sys.executable, "-m", "fvlaunch", *arguments], cwd=self.folder, env=self.env, text=True, capture_output=True,
            stdin=subprocess.DEVNULL, timeout=timeout_s, check=False, **more,
        )  # fmt: skip
        if check and done.returncode != 0:
            raise AssertionError(f"fvlaunch {' '.join(arguments)} -> {done.returncode}\n{done.stdout}\n{done.stderr}\n{self.told()}")
        return done

    def submit(self, name: str, *arguments: str, recipe: str = "tiny", cluster: str = "here") -> Path:
        self.call("submit", recipe, "--cluster", cluster, "--name", name, *arguments)
        return self.runs / name

    def gate(self, name: str) -> gates.Gate:
        """That of a run with the recipe `gated`, or another one of this method."""
        return gates.Gate(self, name)

    def status(self, name: str) -> dict[str, Any]:
        [found] = json.loads(self.call("status", name, "--json").stdout)
        return found

    def finish(self, name: str, timeout_s: float = 280) -> dict[str, Any]:
        """Wait for the run's end, whatever it is; its status."""
        self.call("wait", name, check=False, timeout_s=timeout_s)
        return self.status(name)

    def until(self, true: Callable[[], Any], what: str, timeout_s: float = 240) -> Any:
        deadline = time.monotonic() + timeout_s
        while True:
            found = true()
            if found:
                return found
            if time.monotonic() > deadline:
                raise AssertionError(f"not within {timeout_s} s: {what}\n{self.told()}")
            time.sleep(0.05)

    def reaches(self, name: str, step: int, *, attempt: int = 1) -> None:
        """Wait until an attempt has written a step's metrics. A run that must then still be there waits at its gate."""

        def there() -> bool:
            lines = metrics(self.runs / name)
            return bool(lines) and lines[-1]["step"] >= step and lines[-1]["attempt"] >= attempt

        self.until(there, f"{name} reaches step {step} in attempt {attempt}")

    def attempts(self, name: str) -> list[dict[str, Any]]:
        """(cause, failure, next …) of each attempt, as `status --attempts --json` tells it."""
        [found] = json.loads(self.call("status", name, "--attempts", "--json").stdout)
        return list(found["attempts_list"])

    def told(self) -> str:
        """What the jobs and ranks of this workspace printed: for failures of the tests."""
        files = [*self.runs.glob("*/job/*/*.out"), *self.runs.glob("*/job/*/*.log"), *self.runs.glob("*/logs/*/*.log")]
        texts = [f"--- {path}\n{path.read_text(errors='replace')[-1500:]}" for path in sorted(files)[-12:]]
        return "\n".join([*texts, *(p.read_text() for p in sorted(self.runs.glob("*/attempts/*.jsonl"))[-4:])])


def metrics(run: Path) -> list[dict[str, Any]]:
    """Whole lines of a run's metrics.jsonl."""
    try:
        text = (run / "metrics.jsonl").read_text()
    except OSError:
        return []
    return [json.loads(line) for line in text.split("\n")[:-1]]


def losses(run: Path) -> list[tuple[int, float]]:
    return [(line["step"], line["loss"]) for line in metrics(run)]


def rank_pids(run: Path) -> dict[int, int]:
    """rank -> pid of the ranks of a run that are alive on this machine."""
    found = {}
    for entry in Path("/proc").iterdir():
        try:
            argv, name = (entry / "cmdline").read_bytes().split(b"\0"), (entry / "comm").read_text().split()
            if str(run).encode() in argv and name[0] == "rank":
                environment = dict(part.split(b"=", 1) for part in (entry / "environ").read_bytes().split(b"\0") if b"=" in part)
                if int(environment[b"TRAINER_PARENT_PID"]) == _parent(entry):  # not one of its loaders
                    found[int(name[1])] = int(entry.name)
        except (OSError, ValueError, KeyError, IndexError):
            continue
    return found


def _parent(entry: Path) -> int:
    return int((entry / "stat").read_text().rpartition(")")[2].split()[1])


def agent_pids(run: Path) -> dict[int, int]:
    """first rank -> pid of the agent that runs it."""
    found = {}
    for rank, pid in rank_pids(run).items():
        found[rank] = _parent(Path("/proc") / str(pid))
    return found
