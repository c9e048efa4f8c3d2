"""Owns the simulated rank: makes the steps of the trainer that a job describes, and measures them. Run as `python -m tests.gpu.rank JOB
FIGURES` in a process of its own, where the simulated device is loaded. Must not judge what it measures.
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
from dataclasses import replace
from pathlib import Path
from typing import Any

import diffusers
import torch
from torch.utils.flop_counter import FlopCounterMode

from tests.gpu import measuring, peak, stand_ins, world
from tests.gpu.device import Device
from tests.gpu.figures import Figures, Phase
from tests.gpu.job import Job
from tests.gpu.trainer import SimulatedTrainer, steps_of


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
        phases = {kind: self._phase(kind, *numbers) for kind, numbers in steps.items()}
        # last, as counting changes what is kept, and the allocator gives nothing back
        operations = {kind: self._operations_of(second) for kind, (_, second) in steps.items()}
        phases = {kind: replace(phase, flops=sum(operations[kind].values()), flops_by=operations[kind]) for kind, phase in phases.items()}
        versions = {"torch": torch.__version__, "diffusers": diffusers.__version__, "python": sys.version.split()[0]}
        return Figures(
            self._job.preset, self._job.ranks, torch.cuda.get_device_name(), kept, roles, self.building, phases, versions, self._job.digests
        )

    def _phase(self, kind: str, first: int, second: int) -> Phase:
        """Make a step of a kind for the first time, then one that is measured."""
        self.trainer.make_step(first)
        self._stages.begin()
        self._device.clear()
        started = time.monotonic()
        with self._device.noting_waits() as waits, measuring.passes(self.trainer.method) as passes, self._noting_holders(kind):
            self.trainer.make_step(second)
            self._stages.settle()
        taken, launches, copied = time.monotonic() - started, self._device.launches, self._device.copied
        print(f"{self._job.preset}: the {kind}, {second}, took the host {taken:.1f} s", file=sys.stderr, flush=True)
        peaks, highest, reserved = dict(self._stages.peaks), self._stages.peak, self._stages.reserved
        measured = {"peaks": peaks, "launches": launches, "copied": copied, "passes": dict(passes), "waits": waits}
        return Phase(second, highest, reserved, host_s=round(taken, 1), **measured)

    def _operations_of(self, number: int) -> dict[str, int]:
        """Return the operations of a step by operator. The step is made once more."""
        self._operations.counts.clear()
        with FlopCounterMode(display=False) as counter:
            self.trainer.make_step(number)
        counted = {str(operator).removeprefix("aten."): int(flops) for operator, flops in counter.get_flop_counts()["Global"].items()}
        return {**counted, **self._operations.counts}

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


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.gpu.rank", description="Simulate one rank of a job.")
    parser.add_argument("job", type=Path)
    parser.add_argument("figures", type=Path)
    parser.add_argument("--peak", action="store_true")
    given = parser.parse_args(arguments)
    logging.basicConfig(stream=sys.stderr, level=logging.WARNING)
    try:
        simulate(Job.read(given.job), holders=given.peak).write(given.figures)
    except Exception:
        traceback.print_exc()
        return 1
    return 0


if __name__ == "__main__":
    code = main()
    sys.stderr.flush()
    os._exit(code)  # the interpreter's teardown would wait for threads of the device
