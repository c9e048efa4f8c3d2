"""Owns the training loop: resume, step, log, validate, save, stop. Must not know any method beyond the interface TrainingMethod.

At the end of each step all ranks agree, over the CPU, on what comes next; but for what the step itself computes, nothing else here
waits for another rank or the device.
"""

from __future__ import annotations

import logging
import math
import os
import time
from collections.abc import Generator, Set
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from .. import seeding
from ..checkpointing.early_hashing import EarlyHashing
from ..checkpointing.keys import is_average
from ..checkpointing.saver import Checkpointer
from ..config import Batching, TrainConfig, batching
from ..config.counting import counted
from ..control import EXIT_FINISHED, EXIT_SAVED, Control, Phase
from ..data.batches import batches
from ..distributed import mesh
from ..distributed.mesh import ParallelContext
from ..errors import UserError
from ..methods import method_class
from ..methods.base import TrainingMethod
from ..models import build_role
from ..models.base import ModelBase
from ..optim import optimizers
from ..optim.ema import EMACallback
from ..preprocessing import prepare_shapes
from .metrics import DelayedMetrics, Record, on_device
from .metrics_file import CARRIED
from .provenance import config_digest, numerics
from .tracker import Tracker

if TYPE_CHECKING:
    from .validation import Validation

log = logging.getLogger(__name__)

_WARMING_STEPS = 3
"""The first steps of an attempt, which may take much longer than the rest."""


def _make_trajectories(config: TrainConfig, parallel: ParallelContext, control: Control) -> bool:
    """Complete method.cache; return False where a stop notice ended it."""
    from .teacher_trajectories import ensure

    return ensure(config, parallel, control)


class SaveFailed(Exception):
    """The last checkpoint of this attempt could not be written; another attempt may succeed."""


def run(config: TrainConfig, run_dir: Path, control: Control) -> int:
    """Train on this rank, from joining the process group to leaving it; return the exit code."""
    if config.deterministic:
        seeding.use_deterministic_kernels()
    early = EarlyHashing(run_dir / "checkpoints", control.rank, int(os.environ.get("WORLD_SIZE", "1")))
    parallel = mesh.start(config.parallel)
    control.reached("process_group")
    control.progress("preparing", 0)
    parallel.on_first(
        lambda: prepare_shapes.ensure(config.data, report=lambda what, count: control.progress("preparing", count, what=what)),
        lambda seconds: control.progress("preparing", seconds),
    )
    if config.method.preparing_roles and not _make_trajectories(config, parallel, control):
        mesh.stop()
        return EXIT_SAVED
    trainer = Trainer(config, run_dir, control, parallel, early)
    try:
        code = trainer.train()
    except UserError:  # the checkpoint in flight is still worth having
        trainer.close()
        raise
    trainer.close()
    mesh.stop()
    return code


class Trainer:
    """One attempt of a run on this rank. Made on all ranks alike; `step` is the number of steps done."""

    def __init__(
        self, config: TrainConfig, run_dir: Path, control: Control, parallel: ParallelContext, early: EarlyHashing | None = None
    ) -> None:
        self.config, self.control, self.parallel = config, control, parallel
        self.batching: Batching = batching(config, parallel.world_size)
        control.progress("loading", 1)
        self.checkpointer = Checkpointer(
            run_dir / "checkpoints",
            config.checkpoint,
            control=control,
            facts=numerics(parallel, config),
            config_digest=config_digest(config),
            early=early,
        )
        expected = self.checkpointer.expected()
        self.batches = self._batches(expected.step)  # its processes start while the networks are built
        self.validation = self._build_validation(run_dir)
        self.method = self._build_method(expected.roles)
        control.progress("loading", 3)
        control.reached("networks")
        self.ema = self._build_ema()
        self.step = self._resume()
        control.reached("checkpoint")
        self._announce_step()
        if self.step != expected.step:  # that checkpoint was damaged
            self.batches.close()
            self.batches = self._batches(self.step)
        self.tracker = Tracker(
            run_dir, self.step, config.tracking, config.resolved(), enabled=parallel.rank == 0,
            carried=self.checkpointer.carried(CARRIED), tell=self._warn, is_current=control.is_current,
        )  # fmt: skip
        self.checkpointer.before_publish = self.tracker.before_checkpoint
        self.delayed, self.nonfinite_in_a_row = DelayedMetrics(), 0
        self._first_step, self._saved_at, self._loss = self.step, time.monotonic(), math.nan

    # --- before the first step

    def _build_method(self, in_checkpoint: Set[str]) -> TrainingMethod:
        roles: dict[str, ModelBase] = {}
        for role in sorted(self.config.models.keys() - set(self.config.method.preparing_roles)):
            roles[role] = build_role(self.config, role, self.parallel, load_weights=role not in in_checkpoint)
            self.control.progress("loading", 2, role=role)
        method = method_class(self.config.method.kind)(self.config, roles)
        method.on_train_start()
        return method

    def _build_validation(self, run_dir: Path) -> Validation | None:
        if self.config.callbacks.validation is None:
            return None
        from .validation import Validation  # its imports take a second, and not every run validates

        return Validation(self.config, run_dir, self.parallel, self.control)

    def _build_ema(self) -> EMACallback | None:
        if self.config.callbacks.ema is None:
            return None
        averaged = [self.method.parts(role) for role in self.method.averaged_roles()]
        return EMACallback(self.config.callbacks.ema, {part: network for parts in averaged for part, network in parts.items()})

    def _resume(self) -> int:
        """Load the newest checkpoint; return its step. The configuration's rates and callbacks win over those it was made with."""
        self.method.seed_optimizer_state_for_resume()
        state = self._state()
        step = self.checkpointer.load(state)
        if step is None:
            return 0
        self.method.load_checkpoint_state(state)
        if self.ema is not None and any(is_average(key) for key in self.checkpointer.absent):
            self.ema.restart()
        self.control.report("resumed", step=step)
        log.info("resumed from step %d", step)
        return step

    def _state(self) -> dict[str, Any]:
        state = self.method.checkpoint_state()
        if self.ema is not None:
            state["callbacks"] = {"ema": self.ema.state_dict()}
        return state

    def _batches(self, start_step: int) -> Generator[list[dict[str, Tensor]], None, None]:
        return batches(
            self.config.method.training_data(self.config),
            self.config.seed,
            rank=self.parallel.data_rank,
            data_parallel=self.batching.data_parallel,
            accumulation=self.batching.accumulation,
            micro=self.batching.micro,
            start_step=start_step,
            max_steps=self.config.max_steps,
            needs=self.config.method.needs,
            warn=lambda text: self.control.report("warning", text=text),  # bad rows may turn up on any rank
        )

    # --- the loop

    def train(self) -> int:
        """Train until max_steps or a stop notice; return EXIT_FINISHED or EXIT_SAVED."""
        self.control.reached("records")
        self._heartbeat()
        stop = self._validate(again=False)  # after a resume: if the attempt before did not get to it
        while self.step < self.config.max_steps and not stop:
            self.next_step()
            if self.step == self._first_step + 1:
                self.control.report_start()
            stop = self._after_step() or self._validate()
        self._save_last()
        finished = self.step >= self.config.max_steps and (self.validation is None or not self.validation.cut_off)
        return EXIT_FINISHED if finished else EXIT_SAVED

    def next_step(self) -> None:
        """Read the next step's batches and make the step."""
        started = time.monotonic()
        rounds = next(self.batches)
        self.step += 1
        self._train_step(rounds, started)

    def _train_step(self, rounds: list[dict[str, Tensor]], started: float) -> None:
        seeding.seed_step(self.method.shared_generator, self.config.seed, self.step)
        self._announce_step()
        names, sums = self._gradients(rounds)
        found_inf, norms = self._clip()
        rate = self.method.all_optimizers()[0].param_groups[0]["lr"]
        stepped = self.method.stepped_parts(self.step)
        for optimizer in self.method.get_optimizers(self.step):
            optimizers.step(optimizer, found_inf)
        for scheduler in self.method.get_lr_schedulers(self.step):
            scheduler.step()
        for optimizer in self.method.all_optimizers():
            optimizer.zero_grad(set_to_none=True)
        if self.ema is not None:
            self.ema.on_step(self.step, stepped)
        numbers = torch.cat([self.parallel.mean(sums / len(rounds)), torch.stack(list(norms.values()))])
        known = {"lr": rate, "step_s": round(time.monotonic() - started, 6), "attempt": self.control.attempt}
        self._record(self.delayed.push(self.step, [*names, *norms], numbers, known))
        self._heartbeat(step_s=known["step_s"])

    def _announce_step(self) -> None:
        """Tell the models which step the next forward passes belong to."""
        for model in self.method.role_models.values():
            model.on_step(self.step)

    def _gradients(self, rounds: list[dict[str, Tensor]]) -> tuple[list[str], Tensor]:
        """Accumulate the step's gradients; return names, and sums over the rounds, of what the method reports (float64, on the device)."""
        names: list[str] = []
        sums: Tensor | None = None
        for number, batch in enumerate(rounds):
            self.method.set_gradient_sync(number == len(rounds) - 1)
            index = number * self.batching.data_parallel + self.parallel.data_rank
            seeding.seed_micro_batch(self.method.cuda_generator, self.config.seed, self.step, index)
            reported = self.method.accumulate(self._on_device(batch), self.step, len(rounds))
            names = list(reported)
            values = torch.stack([on_device(value, self.parallel.device) for value in reported.values()])
            sums = values if sums is None else sums + values
        assert sums is not None
        self.method.drop_gathered()
        return names, sums

    def _on_device(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Copy a batch to the device, from pinned memory: a copy from other memory would wait for the device."""
        if self.parallel.device.type == "cpu":
            return batch
        return {name: values.pin_memory().to(self.parallel.device, non_blocking=True) for name, values in batch.items()}

    def _clip(self) -> tuple[Tensor, dict[str, Tensor]]:
        """Clip gradients; return whether any is not finite (0 or 1, on the device), and the norms to log, "grad_norm" over all first."""
        clip = self.config.callbacks.grad_clip
        max_norm = None if clip is None else clip.max_norm
        targets = self.method.get_grad_clip_targets(self.step)
        norms = {role: optimizers.clip_gradients(module, max_norm) for role, module in targets.items()}
        total = torch.stack(list(norms.values())).square().sum().sqrt()
        found_inf = (~total.isfinite()).float()
        single = {f"grad_norm_{role}": norm for role, norm in norms.items()} if len(norms) > 1 else {}
        return found_inf, {"grad_norm": total, **single}

    def _record(self, record: Record | None) -> None:
        """Write a step's record, and act on a gradient that was not finite: its update was skipped, on all ranks."""
        if record is None:
            return
        self.tracker.write(record)
        self._loss = record.values["loss"]
        if math.isfinite(record.values["grad_norm"]):
            self.nonfinite_in_a_row = 0
            return
        self.nonfinite_in_a_row += 1
        self._warn(f"step {record.step}: the gradient norm is {record.values['grad_norm']}, its update was skipped")
        limit = 1 if self.config.on_nonfinite == "stop" else self.config.nonfinite_limit
        if self.nonfinite_in_a_row >= limit:
            raise UserError(
                (
                    f"the gradient norm was not finite at {counted(self.nonfinite_in_a_row, 'step')} "
                    f"in a row, the last of them step {record.step}"
                ),
                "a lower lr, a longer warm-up, or precision: fp32; on_nonfinite and nonfinite_limit say how many are borne",
            )

    def _heartbeat(self, **details: Any) -> None:
        phase: Phase = "warming" if self.step - self._first_step <= _WARMING_STEPS else "stepping"
        if math.isfinite(self._loss):
            details["loss"] = self._loss
        self.control.progress(phase, self.step, max_steps=self.config.max_steps, **details)

    def _validate(self, again: bool = True) -> bool:
        """Validate if it is due, and add the result to the step's record; return whether a stop notice ended it.

        again: whether to repeat a validation that an earlier attempt has made at this step.
        """
        if self.validation is None or not self.validation.due(self.step):
            return False
        if self.step == self.config.max_steps and self.checkpointer.last_published != self.step:
            self._save(wait=False)  # nothing is lost if the samples take too long
        self._flush()
        outcome = None if again else self.validation.stored(self.step)
        outcome = outcome or self.validation.run(self.step, self.method.role_models["student"], self.ema)
        if outcome is None:
            return True
        self.tracker.amend(self.step, outcome.numbers, outcome.sheet, outcome.videos)
        self._heartbeat()
        return False

    # --- saving and stopping

    def _after_step(self) -> bool:
        """Agree with all ranks on what follows the step, and save if that is due; return whether to stop. Collective."""
        self.checkpointer.poll()
        self._end_if_unsaved()
        stop, due = self.parallel.any_rank(self.control.stop_requested, self._save_is_due())
        if due and not stop and self.step < self.config.max_steps:
            self._save(wait=False)
            self._end_if_unsaved()
            self._heartbeat()
        return stop

    def _save_is_due(self) -> bool:
        """Return whether to save after this step: by the number of steps on every rank alike, by the clock on rank 0."""
        config = self.config.checkpoint
        by_steps = config.every_steps is not None and self.step % config.every_steps == 0
        waited_s = time.monotonic() - self._saved_at
        return by_steps or (self.parallel.rank == 0 and config.every_s is not None and waited_s >= config.every_s)

    def _save(self, wait: bool) -> None:
        self.control.progress("saving", self.step)
        self._flush()
        self.checkpointer.save(self.step, self._state(), wait=wait)
        self._saved_at = time.monotonic()

    def _save_last(self) -> None:
        """Save the last step, unless the save in flight is already of it. SaveFailed where it cannot be written."""
        self.control.progress("finishing", self.step)
        self._flush()
        self.checkpointer.wait()
        if self.checkpointer.last_published != self.step:
            self._save(wait=True)
        if self.checkpointer.last_published != self.step:
            self._end_if_unsaved()
            older = self.checkpointer.last_published
            left = "there is no other" if older is None else f"the last one published is of step {older}"
            raise SaveFailed(
                f"the checkpoint of the last step, {self.step}, could not be written ({self.checkpointer.last_failure}); {left}"
            )

    def _end_if_unsaved(self) -> None:
        if self.checkpointer.failed_in_a_row >= self.config.failed_saves:
            raise UserError(
                f"{counted(self.checkpointer.failed_in_a_row, 'checkpoint')} in a row "
                f"could not be written, the last one published is of step "
                f"{self.checkpointer.last_published}",
                "make room or repair the disk, then resume; failed_saves says how many failures are borne",
            )

    def _flush(self) -> None:
        """Write the records of all steps up to this one: they must be on the disk before its checkpoint is published."""
        self._record(self.delayed.pop())

    def close(self) -> None:
        self.control.progress("finishing", self.step)
        del self.batches  # ends the loader's processes
        self.checkpointer.close()
        self.tracker.close(self.checkpointer.last_published)

    def _warn(self, text: str) -> None:
        if self.parallel.rank == 0:
            log.warning(text)
            self.control.report("warning", text=text)
