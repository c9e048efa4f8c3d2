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
    return [*networks, *runs, Row("an asynchronous checkpoint", partial(_checkpoint, folder / "checkpoint", small), 90)]


def _figures(small: bool) -> list[Row]:
    from tests.benchmarks.cuda_figures import CASES

    cases = [case for case in CASES if not (small and ({"compile", "lora"} & case.student.keys() or "selective" in case.name))]
    return [Row("parts of a step", partial(_parts, small), 60), *(Row(case.name, partial(_training, case, small), 60) for case in cases)]


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
