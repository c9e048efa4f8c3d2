"""Clocks that jump by an hour under a run, or are wrong from its start: its processes see another time of day than the machine."""

from __future__ import annotations

import json
import shutil
import struct
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tests.integration.faults.local import LocalRuns
from tests.integration.slurm.cluster import SlurmCluster
from tests.integration.slurm.runs import causes, job_of
from tests.support.launcher import STRICT, Workspace, metrics
from tests.support.rows import Figures, fault

HOUR_S = 3600


class WrongClock:
    """What time of day processes with this environment see: the machine's and so many seconds, which may change at any moment."""

    def __init__(self, folder: Path, seconds: int = 0) -> None:
        library = folder / "jumping_clock.so"
        if shutil.which("cc") is None:
            pytest.skip("NO C COMPILER HERE, so nothing is tested under clocks that jump (apt-get install gcc libc6-dev)")
        subprocess.run(["cc", "-O2", "-shared", "-fPIC", "-o", library, Path(__file__).with_name("jumping_clock.c")], check=True)
        self._file = folder / "offset"
        self._file.touch()
        self.jump(seconds)
        self.env = {"LD_PRELOAD": str(library), "CLOCK_OFFSET_FILE": str(self._file)}

    def jump(self, seconds: int) -> None:
        with self._file.open("r+b") as file:
            file.write(struct.pack("l", seconds))


def events(run: Path) -> list[dict[str, Any]]:
    """What the head wrote of the first attempt."""
    return [json.loads(text) for text in (run / "attempts/0001.jsonl").read_text().splitlines()]


@pytest.mark.long
@fault("14", "the clock of agent and ranks an hour forth, two hours back, an hour forth, under one run")
def test_a_clock_that_jumps_ends_nothing(local: LocalRuns, reference: Path, tmp_path: Path, figure: Figures) -> None:
    clock = WrongClock(tmp_path)
    local.write("clusters/jumping.yaml", {"executor": "local", "paths": {"data": "data"}, "limits": STRICT, "env": clock.env})
    local.submit("jumping", recipe="gated", cluster="jumping")
    gate, seen = local.gate("jumping"), []
    for number, jump in enumerate((HOUR_S, -HOUR_S, 0), 1):
        gate.reach(12 * number, ranks=2)
        clock.jump(jump)
        beat = (gate.run / "heartbeat.json").stat().st_mtime_ns
        local.until(lambda beat=beat: (gate.run / "heartbeat.json").stat().st_mtime_ns > beat, "the agent has seen the other time")
        status = local.status("jumping")
        seen.append(status["state"])
        assert status["state"] == "running", status
    gate.open()
    local.ended_as("jumping", reference)
    assert [a["cause"] for a in local.attempts("jumping")] == ["finished"]
    times = [line["time"] for line in events(gate.run)]
    assert max(times) - min(times) > HOUR_S / 2 or len(times) < 3, "the clock has not jumped"
    figure.count("jumps that ended nothing, bitwise", len(seen), 3)


@pytest.mark.slurm
@pytest.mark.long
@fault("14", "a node whose clock is an hour ahead, or behind, of Slurm's")
@pytest.mark.parametrize("wrong_s", [HOUR_S, -HOUR_S])
def test_a_node_with_another_time_sees_no_time_limit_that_has_not_come(
    workspace: Workspace, slurm: SlurmCluster, tmp_path: Path, figure: Figures, wrong_s: int
) -> None:
    clock = WrongClock(tmp_path, wrong_s)
    name = f"wrong{wrong_s}"
    exports = "".join(f"export {key}={value}\n" for key, value in clock.env.items())
    python = workspace.write(f"{name}.sh", f'#!/bin/bash\n{exports}exec {sys.executable} "$@"\n')
    python.chmod(0o755)  # agent and ranks, with all that they ask Slurm; an srun with such a clock starts nothing at all
    workspace.slurm_cluster(name, python=str(python))
    short = ("--ranks", "1", "--set", "train.max_steps=20")
    workspace.submit(name, *short, recipe="gated", cluster=name)
    gate = workspace.gate(name)
    gate.reach(5)
    [begun] = [line["time"] for line in events(gate.run) if line["event"] == "started"]
    assert abs(begun - time.time() - wrong_s) < HOUR_S / 2, "the clock is not wrong"
    assert workspace.status(name)["state"] == "running"
    gate.open()
    assert workspace.finish(name)["state"] == "finished", workspace.told()
    assert causes(workspace, name) == ["finished"], (causes(workspace, name), slurm.report(job_of(workspace, name)))
    assert [line["step"] for line in metrics(gate.run)] == list(range(1, 21))
    figure.most("attempts", len(workspace.attempts(name)), 1)
