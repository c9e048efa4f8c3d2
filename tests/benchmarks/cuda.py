"""Whether the trainers compute the right thing on a CUDA machine, and how fast: `python tests/benchmarks/cuda.py [--json FILE]`.

Needs one GPU (80 GB for all rows) and no network; takes under 8 minutes. First correctness, on a tiny Wan: networks against the CPU in
float32, whole runs of the trainer, cut off and resumed, an asynchronous checkpoint. Then figures of Wan 1.3B with random weights on one
clip of 77 frames at 448x832 (20x56x104 latents, 29,120 tokens), bf16 compute with float32 masters, fused AdamW, full activation
checkpointing: TFLOP/s counts the matrix products of the forward pass, twice these for the backward pass and what is computed again,
attention included (cuda_flops.py has the formula), beside a large bf16 matrix product measured in the same process.

Prints a markdown table, progress on stderr. A failed check is a row with FAIL, and then the exit code is 1; what does not fit into
memory or time is a row that says so. --cpu-dry-run: the same code in a small form without a GPU, whose times mean nothing.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

HERE, ROOT = Path(__file__).resolve().parent, Path(__file__).resolve().parents[2]
# From this folder, `import cuda` would find this file in place of NVIDIA's package.
sys.path[:] = [str(ROOT), *(entry for entry in sys.path if Path(entry or ".").resolve() not in (HERE, ROOT))]

if TYPE_CHECKING:
    from tests.benchmarks.cuda_rows import Check, Report

NEEDED = ("torch", "diffusers", "peft", "pydantic", "pyarrow", "numpy", "safetensors")
BUDGET_S = 480.0
_RESERVED_S = 80.0
"""Of the budget: what the last row may take that has begun."""


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    started = time.monotonic()
    if options.cpu_dry_run:
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    if missing := _missing(options.cpu_dry_run):
        print(f"error: {missing}", file=sys.stderr)
        return 1
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        report = _measured(Path(folder), started + options.budget_s - _RESERVED_S, options.cpu_dry_run)
    report.seconds = time.monotonic() - started
    print(report.markdown())
    if options.json is not None:
        report.write(options.json)
    return int(not report.kept)


def _missing(dry_run: bool) -> str:
    """What this machine lacks, in one line."""
    from importlib.util import find_spec

    if lacking := [name for name in NEEDED if find_spec(name) is None]:
        return f"{', '.join(lacking)} cannot be imported by {sys.executable}; install fvlaunch there (pip install .)"
    import torch

    if dry_run or torch.cuda.is_available():
        return ""
    why = (
        "this torch is built without CUDA" if torch.version.cuda is None else f"torch is built for CUDA {torch.version.cuda} and sees none"
    )
    return f"there is no CUDA device: {why} (--cpu-dry-run tries the script without one)"


def _measured(folder: Path, deadline: float, dry_run: bool) -> Report:
    import torch

    from tests.benchmarks import cuda_runs
    from tests.benchmarks.cuda_rows import Report

    report = Report(_machine(dry_run))
    with ThreadPoolExecutor(1) as pool:  # what these processes do disturbs no times: it is over before any is taken
        runs = pool.submit(_group, "whole runs", lambda: cuda_runs.rows(folder, small=dry_run))
        if dry_run:  # they are forked, which this process must not have done much before
            torch.set_num_threads(1)
            runs.result()
        from tests.benchmarks import cuda_checkpoint, cuda_checks, cuda_figures
        from trainers.config.parallel import ParallelConfig
        from trainers.distributed import mesh

        parallel = mesh.start(ParallelConfig())
        networks = _group("networks", lambda: cuda_checks.rows(parallel, small=dry_run))
        report.checks = [*runs.result(), *networks]

    def figures() -> list[Check]:
        report.matmul_tflops, report.figures = cuda_figures.rows(parallel, deadline, small=dry_run)
        return []

    report.checks += _group("checkpoint", lambda: cuda_checkpoint.rows(parallel, folder / "checkpoints", small=dry_run))
    report.checks += _group("figures", figures)
    mesh.stop()
    return report


def _group(name: str, make: Callable[[], list[Check]]) -> list[Check]:
    """What breaks a whole group is a failed check, too."""
    from tests.benchmarks.cuda_rows import checked

    found: list[Check] = []

    def all_of_it() -> tuple[str, bool]:
        found.extend(make())
        return "", True

    outcome = checked(name, "runs to its end", all_of_it)
    return found if outcome.kept else [*found, outcome]


def _machine(dry_run: bool) -> str:
    import platform

    import diffusers
    import torch

    versions = f"torch {torch.__version__}, diffusers {diffusers.__version__}, Python {platform.python_version()}"
    if dry_run:
        return f"**Dry run on the CPU: the times mean nothing.** {versions}"
    device = torch.cuda.get_device_properties(0)
    return f"{device.name}, {device.total_memory / 1e9:.0f} GB, CUDA {torch.version.cuda}; {versions}"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="Correctness and speed of the trainers on one GPU.")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all that was found there, too")
    parser.add_argument("--budget-s", type=float, default=BUDGET_S, metavar="S", help="rows that would begin too late are left out (480)")
    parser.add_argument("--cpu-dry-run", action="store_true", help="the same code in a small form on the CPU, to try the script itself")
    return parser


if __name__ == "__main__":
    sys.exit(main())
