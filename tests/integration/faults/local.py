"""Owns what the fault tests of local runs do to a run: kill, freeze, damage; and how its end is compared with an undisturbed one.

Must not judge a fault: the tests do.
"""

from __future__ import annotations

import contextlib
import copy
import fcntl
import itertools
import json
import os
import pty
import random
import re
import signal
import subprocess
import sys
import termios
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.support import gates
from tests.support.launcher import RECIPE, STRICT, Workspace, agent_pids, losses, metrics, rank_pids

STEPS, EVERY = 60, 10


class LocalRuns(Workspace):
    """Short runs: 60 steps, a checkpoint every 10, a rate that does not depend on max_steps. The cluster `strict` finds hangs soon."""

    def __init__(self, folder: Path) -> None:
        environment = {k: v for k, v in os.environ.items() if k not in ("PYTHONDONTWRITEBYTECODE", "OMP_NUM_THREADS")}
        super().__init__(folder, environment)
        recipe = copy.deepcopy(RECIPE)
        train = recipe["train"]
        train.update(max_steps=STEPS, tracking={"tensorboard": False}, checkpoint={"every_steps": EVERY, "every_minutes": None})
        train["data"]["micro_batch_size"] = 4
        train["optimizers"]["student"]["schedule"] = {"kind": "cosine", "warmup_steps": 5, "decay_steps": STEPS}
        self.write("templates/recipes/tiny.yaml", recipe)
        self.write("templates/recipes/gated.yaml", {**recipe, "train": {**train, "method": gates.METHOD}})
        self.write("clusters/strict.yaml", {"executor": "local", "paths": {"data": "data"}, "limits": STRICT})

    def undisturbed(self, name: str, *arguments: str) -> Path:
        run = self.submit(name, *arguments)
        status = self.finish(name)
        assert status["state"] == "finished" and status["attempts"] == 1, (status, self.told())
        assert [step for step, _ in losses(run)] == list(range(1, STEPS + 1))
        return run

    def rank_pids(self, name: str, count: int) -> dict[int, int]:
        """Of all ranks of the attempt in progress, once all are there."""
        found: dict[int, int] = {}

        def all_there() -> bool:
            found.clear()
            found.update(rank_pids(self.runs / name))
            return len(found) == count

        self.until(all_there, f"{count} ranks of {name} are there")
        return found

    def agent_pid(self, name: str) -> int:
        [pid] = self.until(lambda: set(agent_pids(self.runs / name).values()), f"{name} has an agent")
        return int(pid)

    def controller_pid(self, name: str) -> int:
        """submitit's process that holds a local job."""
        job_id = json.loads((self.runs / name / "run.json").read_text())["job_id"]
        return int(re.fullmatch(r"local-(\d+)-\d+", job_id)[1])  # type: ignore[index]

    def record(self, name: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.runs / name / "run.json").read_text())
        return found

    def is_gone(self, name: str) -> None:
        """Wait until no rank of a run is left."""
        self.until(lambda: not rank_pids(self.runs / name), f"no rank of {name} is left")

    def over(self, name: str, state: str) -> dict[str, Any]:
        """The status of a run that has to end in a state, its job gone."""
        status = self.finish(name)
        assert status["state"] == state, (status, self.told())
        return status

    def ended_as(self, name: str, reference: Path) -> None:
        """The run finished; each step once, every loss and every tensor of the last checkpoint bitwise those of the reference."""
        self.over(name, "finished")
        run = self.runs / name
        assert losses(run) == losses(reference), self.told()
        assert shard_digests(run, STEPS) == shard_digests(reference, STEPS)

    def log(self, name: str, attempt: int, rank: int = 0) -> str:
        return (self.runs / name / "logs" / f"attempt-{attempt:04d}" / f"rank-{rank:04d}.log").read_text(errors="replace")


def shard_digests(run: Path, step: int) -> dict[str, str]:
    """Digests of a checkpoint's shards: weights, EMA, optimizer, schedule. (.metadata names random uuids, so it is left out.)"""
    manifest = json.loads((folder(run, step) / "MANIFEST.json").read_text())
    return {name: entry["digest"] for name, entry in manifest["files"].items() if name.endswith(".distcp")}


def folder(run: Path, step: int) -> Path:
    return run / "checkpoints" / f"step-{step:08d}"


def steps_lost(attempts: Sequence[Mapping[str, Any]]) -> int:
    """Return the most steps that an attempt had to make again; one that found no checkpoint began with the first."""
    return max(int(before["step_to"] or 0) - int(after["step_from"] or 0) for before, after in itertools.pairwise(attempts))


def until_saved(local: LocalRuns, name: str, step: int) -> None:
    """Wait until the checkpoint that was due last before a run waits after `step` is published, however busy the disk."""
    due = step - step % EVERY
    local.until(lambda: due in [0, *saved_steps(local.runs / name)], f"{name}: step {due} is saved")


def saved_steps(run: Path) -> list[int]:
    return sorted(int(p.name[5:]) for p in (run / "checkpoints").glob("step-*") if p.name[5:].isdigit())


def condemned(run: Path) -> list[str]:
    return sorted(p.name for p in (run / "checkpoints").glob("*.bad"))


def flip_a_byte(checkpoint: Path, dice: random.Random) -> Path:
    """In the middle of a random shard."""
    shard = dice.choice(sorted(checkpoint.glob("*.distcp")))
    content = bytearray(shard.read_bytes())
    content[dice.randrange(len(content))] ^= 1 << dice.randrange(8)
    shard.write_bytes(content)
    return shard


def kill(*pids: int, signum: int = signal.SIGKILL) -> None:
    for pid in pids:
        os.kill(pid, signum)


def last_step(run: Path) -> int:
    lines = metrics(run)
    return int(lines[-1]["step"]) if lines else 0


class Terminal:
    """A command at a terminal of its own, which can be typed at and closed."""

    def __init__(self, workspace: Workspace, *arguments: str) -> None:
        self._master, slave = pty.openpty()
        self.shown = ""
        self.process = subprocess.Popen(
            [sys.executable, "-m", "fvlaunch", *arguments], cwd=workspace.folder, env={**workspace.env, "TERM": "xterm", "COLUMNS": "160"},
            stdin=slave, stdout=slave, stderr=slave, start_new_session=True, preexec_fn=_at_a_terminal,
        )  # fmt: skip
        os.close(slave)
        os.set_blocking(self._master, False)

    def shows(self, text: str) -> bool:
        with contextlib.suppress(OSError):  # nothing new, or the command has ended
            self.shown += os.read(self._master, 65536).decode(errors="replace")
        return text in self.shown

    def type(self, keys: str) -> None:
        os.write(self._master, keys.encode())

    def close(self) -> None:
        """As closing its window does: the kernel sends SIGHUP."""
        os.close(self._master)


def _at_a_terminal() -> None:
    """What a shell at a terminal gives its commands: the terminal, Ctrl-C and its hanging up. A test in the background, or
    under nohup, would hand on that they are ignored."""
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
