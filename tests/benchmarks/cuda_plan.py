"""Owns which rows cuda.py has, in the order in which they are measured: the most important first. Must not touch a device.

What a row needs it imports itself; `load` imports it beforehand, once for all processes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from tests.benchmarks.cuda_rows import Check, Figure
from tests.benchmarks.cuda_runner import Row

Found = Sequence[Check | Figure]
PRESETS = ("dmd2", "dmd2-vsa", "self-forcing", "finetune", "kd-causal", "kd")
"""Those of the smaller model whose memory and times are not those of another row."""
LARGE_PRESETS, LAYERS = ("dmd2-14b", "dmd2-vsa-14b", "finetune-a14b", "kd-causal-a14b"), 4


def rows(folder: Path, *, small: bool) -> list[Row]:
    """Return all rows; `folder` is a place for their files. small: the form of dry runs on a CPU."""
    return [*_correctness(folder, small), *_figures(small)]


def load() -> None:
    """Import what rows need."""

    import trainers.models.causal_wan
    import trainers.training.trainer  # noqa: F401


def _correctness(folder: Path, small: bool) -> list[Row]:
    from tests.benchmarks.cuda_checks import KINDS
    from tests.benchmarks.cuda_runs import METHODS

    runs = [Row(f"whole runs of {method}", partial(_runs, folder / method, method, small), 150, together=True) for method in METHODS]
    networks = [Row(kind, partial(_networks, kind, small), 120, together=True) for kind in KINDS if not (small and "compiled" in kind)]
    card = [Row("settings", partial(_card, "settings"), 60, together=True), Row("kernels", partial(_card, "kernels"), 150, together=True)]
    return [*card, *networks, *runs, Row("an asynchronous checkpoint", partial(_checkpoint, folder / "checkpoint", small), 90)]


def _figures(small: bool) -> list[Row]:
    from tests.benchmarks.cuda_figures import CASES

    cases = [case for case in CASES if not (small and ({"compile", "lora"} & case.student.keys() or "selective" in case.name))]
    steps = [Row(case.name, partial(_training, case, small), 60) for case in cases]
    return [Row("parts of a step", partial(_parts, small), 60), *steps[:2], *([] if small else _presets()), *steps[2:]]


def _presets() -> list[Row]:
    """Recipes at their own size and world, then single blocks of the larger model, whose whole steps take minutes."""
    whole = [Row(f"preset {name}", partial(_preset, name), 90) for name in PRESETS]
    return whole + [Row(f"preset {name}, {LAYERS} layers", partial(_preset, name, LAYERS), 90) for name in LARGE_PRESETS]


def _preset(name: str, layers: int | None = None) -> Found:
    from tests.benchmarks import cuda_presets

    return cuda_presets.rows(name, layers=layers)


def _card(what: str) -> Found:
    from tests.benchmarks import cuda_kernels

    return _in_a_world(lambda parallel: getattr(cuda_kernels, what)(parallel.device))


def _runs(folder: Path, method: str, small: bool) -> Found:
    from tests.benchmarks import cuda_runs

    return cuda_runs.rows(folder, method, small=small)


def _networks(kind: str, small: bool) -> Found:
    from tests.benchmarks import cuda_checks

    return _in_a_world(lambda parallel: cuda_checks.rows(parallel, kind, small=small))


def _checkpoint(folder: Path, small: bool) -> Found:
    from tests.benchmarks import cuda_checkpoint

    return _in_a_world(lambda parallel: cuda_checkpoint.rows(parallel, folder, small=small))


def _parts(small: bool) -> Found:
    from tests.benchmarks import cuda_figures

    return _in_a_world(lambda parallel: cuda_figures.parts(parallel, small=small))


def _training(case: Any, small: bool) -> Found:
    from tests.benchmarks import cuda_figures

    return _in_a_world(lambda parallel: cuda_figures.training(case, parallel, small=small))


def _in_a_world(make: Callable[[Any], Found]) -> Found:
    """Measure in a world of one rank, which its process takes with it."""
    from trainers.config.parallel import ParallelConfig
    from trainers.distributed import mesh

    return make(mesh.start(ParallelConfig()))
