"""Owns whole runs of the trainer on this device, each life in a process of its own: against the CPU, and cut off and resumed.

Must not touch the device itself. Wave one starts all runs, wave two resumes those that were cut off.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from tests.benchmarks import cuda_methods
from tests.benchmarks.cuda_checks import ARCHITECTURE, FRAMES, PER_BLOCK, SIDE, SMALL_SIDE
from tests.benchmarks.cuda_rows import Check, checked, tell
from tests.support.trainers.trainer_ranks import losses, metrics, read, tiny

STEPS, SMALL_STEPS = 8, 3
EVERY, STOPPED_AT, KILLED_AT = 3, 4, 7
"""Of the runs that are cut off; where they are killed, the checkpoint of step 3 at least is published."""
_FIRST_WATCHED, _LAST_WATCHED = 4, 6
_LOSS_LIMIT = 5e-4
"""AdamW makes tiny gradients, which differ most, as large as others."""
_PATIENCE_S = 150
"""Of a wave."""
_FEW_COMPILERS = {"TORCHINDUCTOR_COMPILE_THREADS": "2"}
_WAITED = "called a synchronizing CUDA operation"


@dataclass(frozen=True)
class Life:
    """One attempt. A signal (number, after which step) is sent by the rank to itself."""

    folder: Path
    train: dict[str, Any]
    environment: dict[str, str] = field(default_factory=dict)
    interruption: tuple[int, int] | None = None
    watched: bool = False
    """Whether steps that wait for the device are told in the log."""
    attempt: int = 1

    @property
    def log(self) -> Path:
        return self.folder / f"log-{self.attempt}"


METHODS = ("finetune", "dfsft")


def rows(folder: Path, method: str, *, small: bool) -> list[Check]:
    """small: fewer, one process at a time, for a machine without a GPU: one method is compared and the other cut off."""
    folder.mkdir(parents=True, exist_ok=True)
    data = _write_data(folder / "data", SMALL_SIDE if small else SIDE)
    compared = [] if small and method == METHODS[0] else [_compared(folder, data, method, small)]
    cut = [] if small and method != METHODS[0] else [_cut(folder, data, method, small)]
    watched = [] if small else [_watched(folder, data, method)]
    first = [*(life for lives in (*compared, *cut) for life in lives), *watched]
    codes = _lived(first, 1 if small else len(first))
    again = [replace(life, attempt=2, interruption=None) for life in first if life.interruption]
    codes |= _lived(again, 1 if small else max(1, len(again)))
    found = [_same_losses(method, *lives, codes) for lives in compared]
    found += [_never_waits(method, life, codes) for life in watched]
    return found + [_bitwise(method, whole, life, codes) for whole, *others in cut for life in others]


# --- what runs


def _compared(folder: Path, data: Path, method: str, small: bool) -> tuple[Life, Life]:
    """(on this device, on the CPU), with the same noise, in float32 without TF32."""
    train = _train(data, method, small, drawn=True)
    return (
        Life(folder / f"{method}-here", train, {"NVIDIA_TF32_OVERRIDE": "0"}),
        Life(folder / f"{method}-cpu", train, {"CUDA_VISIBLE_DEVICES": ""}),
    )


def _cut(folder: Path, data: Path, method: str, small: bool) -> list[Life]:
    """[uninterrupted, killed, stopped by a notice], deterministic."""
    train = _train(data, method, small, deterministic=True, checkpoint={"every_steps": EVERY}, callbacks={"ema": {"decay": 0.5}})
    if not small:
        train["precision"] = "bf16"
    lives = [
        Life(folder / f"{method}-whole", train),
        Life(folder / f"{method}-killed", train, interruption=(signal.SIGKILL, KILLED_AT)),
        Life(folder / f"{method}-stopped", train, interruption=(signal.SIGTERM, STOPPED_AT)),
    ]
    return lives[: 2 if small else 3]


def _watched(folder: Path, data: Path, method: str) -> Life:
    return Life(folder / f"{method}-watched", {**_train(data, method, small=False), "precision": "bf16"}, watched=True)


def _train(data: Path, method: str, small: bool, drawn: bool = False, **changes: Any) -> dict[str, Any]:
    side = SMALL_SIDE if small else SIDE
    train = tiny(data, max_steps=SMALL_STEPS if small and drawn else STEPS, **changes)
    train["data"] |= {"num_frames": FRAMES, "height": 2 * side, "width": 2 * side, "micro_batch_size": 1 if small else 2}
    train["data"]["global_batch_size"] = 2 * train["data"]["micro_batch_size"]
    student: dict[str, Any] = {"architecture": {**ARCHITECTURE, "num_layers": 1} if small else ARCHITECTURE}
    if method == "dfsft":
        student |= {"family": "causal-wan", "num_frames_per_block": PER_BLOCK}
    train["models"] = {"student": student}
    train["method"] = _drawn(method) if drawn else {"kind": method}
    return train


def _drawn(method: str) -> dict[str, Any]:
    """A method of somebody's own file gets its keys unchecked and without defaults."""
    cls = {"finetune": cuda_methods.DrawnFineTune, "dfsft": cuda_methods.DrawnForcing}[method]
    keys: dict[str, Any] = {"kind": f"{cuda_methods.__file__}:{cls.__name__}"}
    if method == "dfsft":
        return {**keys, "chunk_size": None, "index_range": [0, 1000], "weighting": "middle", "teacher_forcing": False}
    return {**keys, "weighting_scheme": "uniform", "precondition_outputs": False}


def _write_data(folder: Path, side: int) -> Path:
    import numpy as np

    from trainers.data.parquet_schema import PartWriter, Sample

    random = np.random.RandomState(0)
    with PartWriter(folder, rows_per_file=8) as writer:
        for number in range(8):
            latents = random.standard_normal((4, FRAMES, side, side)).astype("float32")
            text = random.standard_normal((1 + number % 6, 16)).astype("float32")
            writer.write(Sample(str(number), latents, text, f"{number}.mp4", f"clip {number}", 2 * side, 2 * side, 1.0, 2.0))
    return folder


# --- what is found


def _same_losses(method: str, here: Life, cpu: Life, codes: dict[Path, int]) -> Check:
    def make() -> tuple[str, bool]:
        _expect(here, codes, 0)
        _expect(cpu, codes, 0)
        pairs = list(zip(losses(here.folder), losses(cpu.folder), strict=True))
        error = max(abs(a / b - 1) for a, b in pairs)
        return f"{error:.1e} in {len(pairs)} steps", error <= _LOSS_LIMIT and len(pairs) == here.train["max_steps"]

    return checked(f"{method} through the Trainer, fp32: losses against the CPU's", f"{_LOSS_LIMIT:.0e}", make)


def _never_waits(method: str, life: Life, codes: dict[Path, int]) -> Check:
    def make() -> tuple[str, bool]:
        _expect(life, codes, 0)
        lines = [line for line in life.log.read_text().splitlines() if _WAITED in line]
        return "nowhere" if not lines else f"{len(lines)} times, first {lines[0].partition(': UserWarning')[0]}", not lines

    return checked(f"{method}: where steps {_FIRST_WATCHED} to {_LAST_WATCHED} wait for the device", "nowhere", make)


def _bitwise(method: str, whole: Life, cut: Life, codes: dict[Path, int]) -> Check:
    assert cut.interruption is not None
    killed = cut.interruption[0] == signal.SIGKILL

    def make() -> tuple[str, bool]:
        import torch

        _expect(whole, codes, 0)
        _expect(cut, codes, -signal.SIGKILL if killed else 75)
        _expect(replace(cut, attempt=2), codes, 0)
        resumed = sum(line["attempt"] == 1 for line in metrics(cut.folder))
        same = losses(whole.folder) == losses(cut.folder)
        wanted, found = (read(life.folder, STEPS) for life in (whole, cut))
        differing = [key for key, value in wanted.items() if isinstance(value, torch.Tensor) and not torch.equal(value, found[key])]
        if not same or differing or wanted.keys() != found.keys():
            return f"resumed at step {resumed}; losses {'equal' if same else 'differ'}; {len(differing)} tensors differ", False
        return f"{len(wanted)} entries and {STEPS} losses equal, resumed at step {resumed}", 0 < resumed < STEPS

    how = f"killed after step {cut.interruption[1]}" if killed else f"stopped after step {cut.interruption[1]}"
    precision = whole.train["precision"]
    return checked(f"{method}, {precision}, deterministic: {how} and resumed against uninterrupted", "bitwise", make)


def _expect(life: Life, codes: dict[Path, int], wanted: int) -> None:
    if codes[life.log] != wanted:
        last = [line for line in life.log.read_text(errors="replace").splitlines() if line.strip()][-1:] if life.log.exists() else []
        raise RuntimeError(f"{life.folder.name}, life {life.attempt}: exit {codes[life.log]}, not {wanted}: {' '.join(last)}")


# --- processes


def _lived(lives: Sequence[Life], at_once: int) -> dict[Path, int]:
    """Exit codes by log. A rank is forked, so that it has everything loaded already: nothing here may hold a device or have threads."""
    import torch._dynamo  # noqa: F401  DTensor loads it on first use

    import trainers.models.causal_wan
    import trainers.training.trainer  # noqa: F401

    context: Any = multiprocessing.get_context("fork")
    codes: dict[Path, int] = {}
    for start in range(0, len(lives), at_once):
        together = lives[start : start + at_once]
        tell(f"runs: {', '.join(life.folder.name for life in together)}")
        started = []
        for life in together:
            life.folder.mkdir(exist_ok=True)
            started.append(context.Process(target=_live, args=(life,)))
            started[-1].start()
        deadline = time.monotonic() + _PATIENCE_S
        codes |= {life.log: _joined(process, deadline) for life, process in zip(together, started, strict=True)}
    return codes


def _joined(process: Any, deadline: float) -> int:
    process.join(max(0.0, deadline - time.monotonic()))
    if process.is_alive():
        process.kill()
        process.join()
    return int(process.exitcode)


def _live(life: Life) -> None:
    """In the process of its own."""
    log = os.open(life.log, os.O_CREAT | os.O_WRONLY)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.environ.update({**_FEW_COMPILERS, **life.environment})
    code = 1
    try:
        code = _attempt(life)
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _attempt(life: Life) -> int:
    import torch
    from pydantic import TypeAdapter

    from trainers.config import TrainConfig
    from trainers.control import Control
    from trainers.training import trainer

    class Eventful(Control):
        """Does what is due after a step."""

        def progress(self, phase: str, count: int, **details: Any) -> None:
            super().progress(phase, count, **details)
            if phase not in ("warming", "stepping"):
                return
            if life.watched and torch.cuda.is_available():
                torch.cuda.set_sync_debug_mode("warn" if _FIRST_WATCHED <= count + 1 <= _LAST_WATCHED else "default")
            if life.interruption and count == life.interruption[1]:
                os.kill(os.getpid(), life.interruption[0])

    torch.set_num_threads(1)
    warnings.simplefilter("always")
    config = TypeAdapter(TrainConfig).validate_python(life.train)
    control = Eventful({**os.environ, "TRAINER_ATTEMPT": str(life.attempt)}).start()
    return trainer.run(config, life.folder, control)
