"""Owns the simulated rank: makes the steps of the trainer that a job describes, and measures them. Must not judge what it measures.

`python -m tests.gpu.rank FOLDER ...` does so for the job of each folder, in a process where the simulated device is loaded: it imports
everything once and forks for each job.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
import tempfile
import time
import traceback
from collections.abc import Sequence
from contextlib import ExitStack, nullcontext
from pathlib import Path
from typing import Any

import diffusers
import torch

from tests.gpu import measuring, peak, stand_ins, world
from tests.gpu.device import Device
from tests.gpu.figures import Figures, Phase
from tests.gpu.job import FIGURES, JOB, SAID, Job
from tests.gpu.trainer import SimulatedTrainer, steps_of
from trainers import allocator


class Simulation:
    """One trainer and what is measured of its steps."""

    def __init__(self, job: Job, run_dir: Path, operations: stand_ins.Operations, *, holders: bool) -> None:
        self._job, self._operations, self._holders = job, operations, holders
        self._device = Device()
        self.trainer = SimulatedTrainer(job, run_dir)
        assert self.trainer.parallel.device.type == "cuda", "torch sees no device: is this a CUDA build?"
        self.building = torch.cuda.max_memory_allocated()
        self._stages = measuring.Stages(self.trainer.method)

    def figures(self) -> Figures:
        """Measure everything."""
        kept = torch.cuda.memory_allocated()
        roles = measuring.kept(self.trainer)
        steps = steps_of(self.trainer.method)
        operations = {kind: self._operations_of(number) for kind, number in steps.items()}
        torch.cuda.empty_cache()  # counting has kept more than a step does
        phases = {kind: self._phase(kind, number, operations[kind]) for kind, number in steps.items()}
        versions = {"torch": torch.__version__, "diffusers": diffusers.__version__, "python": sys.version.split()[0]}
        versions["allocator"] = os.environ.get(allocator.NAME, "as torch has it")
        return Figures(
            self._job.preset, self._job.ranks, torch.cuda.get_device_name(), kept, roles, self.building, phases, versions, self._job.digests
        )

    def _phase(self, kind: str, number: int, flops_by: dict[str, int]) -> Phase:
        """Make a step once more, and measure it."""
        self._stages.begin()
        self._device.clear()
        started = time.monotonic()
        with self._device.noting_waits() as waits, measuring.passes(self.trainer.method) as passes, self._noting_holders(kind):
            self.trainer.make_step(number)
            self._stages.settle()
        taken, launches, copied = time.monotonic() - started, self._device.launches, self._device.copied
        print(f"{self._job.preset}: the {kind}, {number}, took the host {taken:.1f} s", file=sys.stderr, flush=True)
        peaks, highest, reserved = dict(self._stages.peaks), self._stages.peak, self._stages.reserved
        measured = {"peaks": peaks, "launches": launches, "copied": copied, "passes": dict(passes), "waits": waits}
        return Phase(number, highest, reserved, flops=sum(flops_by.values()), flops_by=flops_by, host_s=round(taken, 1), **measured)

    def _operations_of(self, number: int) -> dict[str, int]:
        """Make a step, and return its operations by operator."""
        self._operations.counts.clear()
        with measuring.Counting() as counting:
            self.trainer.make_step(number)
        return {**counting.counts, **self._operations.counts}

    def _noting_holders(self, kind: str) -> Any:
        return peak.noted(f"{self._job.preset}, {kind}") if self._holders else nullcontext()


def simulate(job: Job, *, holders: bool = False) -> Figures:
    """Simulate a job in this process, which is of no other use afterwards."""
    torch.backends.cudnn.enabled = False  # it asks the device for more than a simulated one knows
    torch.backends.cuda.enable_cudnn_sdp(False)
    with ExitStack() as stack:
        run_dir = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        stack.enter_context(world.first_rank_of(job.ranks))
        operations = stack.enter_context(stand_ins.installed())
        return Simulation(job, run_dir, operations, holders=holders).figures()


def _fork(folder: Path, *, holders: bool) -> int:
    """Simulate the job of a folder in a process of its own, which puts figures.json and what it says into the folder; return its exit
    code."""
    pid = os.fork()
    if pid:
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    code = 1
    try:
        os.dup2(os.open(folder / SAID, os.O_CREAT | os.O_WRONLY), 2)
        simulate(Job.read(folder / JOB), holders=holders).write(folder / FIGURES)
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)  # the interpreter's teardown would wait for threads of the device


def main(arguments: Sequence[str] | None = None) -> int:
    """Simulate the jobs of some folders one after another, telling the exit code of each in a line."""
    parser = argparse.ArgumentParser(prog="python -m tests.gpu.rank", description="Simulate one rank of each job.")
    parser.add_argument("folders", type=Path, nargs="+")
    parser.add_argument("--peak", action="store_true")
    given = parser.parse_args(arguments)
    logging.basicConfig(stream=sys.stderr, level=logging.WARNING)
    for folder in given.folders:
        print(_fork(folder, holders=given.peak), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
