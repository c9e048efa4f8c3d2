"""Whether the trainers compute the right thing on a CUDA machine, and how fast: `python tests/benchmarks/cuda.py [--minutes 9]`.

Needs one GPU (80 GB for all rows) and no network. First correctness, on tiny networks: against the CPU in float32, kernels against plain
torch, whole runs of the trainer, cut off and resumed, an asynchronous checkpoint. Then figures of Wan 1.3B with random weights on one clip
of 77 frames at 448x832 (20x56x104 latents, 29,120 tokens), bf16 compute with float32 masters, fused AdamW: TFLOP/s counts the matrix
products of the forward pass, twice these for the backward pass and what is computed again, attention included (cuda_flops.py has the
formula), beside a large bf16 matrix product.

A row is measured in a process of its own with a time limit, and is shown on stderr and written into --results as soon as it is done. After
--minutes none is begun any more (one that has begun may take 40 seconds), and those that are left are named. The same command with
the same --results goes on: it skips what was measured with this code on this machine, and tries again, last, what failed. Prints a markdown
table of all rows. A failed check is a row with FAIL, and then the exit code is 1; rows that are left make it 75; else it is 0.

Where torch is installed and diffusers is not, carry the rest (42 MB, packed 9), made elsewhere for its Python, here 3.12:

    python -m pip install --no-compile --target carried --python-version 3.12 --only-binary :all: pydantic
    python -m pip install --no-compile --target carried --no-deps diffusers peft
    tar czf carried.tgz carried
    tar xzf carried.tgz && PYTHONPATH=carried python tests/benchmarks/cuda.py --results cuda.jsonl

--cpu-dry-run: the same code in a small form without a GPU, whose times mean nothing.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

HERE, ROOT = Path(__file__).resolve().parent, Path(__file__).resolve().parents[2]
# From this folder, `import cuda` would find this file in place of NVIDIA's package.
sys.path[:] = [str(ROOT), *(entry for entry in sys.path if Path(entry or ".").resolve() not in (HERE, ROOT))]

if TYPE_CHECKING:
    from tests.benchmarks.cuda_rows import Report
    from tests.benchmarks.cuda_runner import Line, Row

NEEDED = ("torch", "diffusers", "peft", "pydantic", "pyarrow", "numpy", "safetensors", "yaml")
MINUTES = 9.0
RESULTS = "cuda.jsonl"
EXIT_LEFT = 75
_CODE = ("trainers", "tests/benchmarks", "tests/gpu")


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    started = time.monotonic()
    _prepare(options.cpu_dry_run)
    if missing := _missing(options.cpu_dry_run):
        print(f"error: {missing}", file=sys.stderr)
        return 1
    signal.signal(signal.SIGTERM, _stop)  # `timeout` sends it: the table is printed, and nothing is left running
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        report = _measured(options, Path(folder), started + 60 * options.minutes)
    report.seconds = time.monotonic() - started
    print(report.markdown())
    if options.json is not None:
        report.write(options.json)
    return 1 if not report.kept else EXIT_LEFT if report.left else 0


def _prepare(dry_run: bool) -> None:
    """Set the environment as a rank has it, before torch is imported."""
    from trainers import allocator

    if dry_run:
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    os.environ["PYTORCH_NVML_BASED_CUDA_CHECK"] = "1"  # counted by CUDA, devices are lost to forked processes
    allocator.prefer_expandable_segments()


def _stop(*_signal: Any) -> None:
    raise KeyboardInterrupt


def _missing(dry_run: bool) -> str:
    """What this machine lacks, in one line."""
    from importlib.util import find_spec

    if lacking := [name for name in NEEDED if find_spec(name) is None]:
        return f"{', '.join(lacking)} cannot be imported by {sys.executable}; install fvlaunch there (pip install .)"
    import torch

    if dry_run or _sees_a_device():
        return ""
    why = (
        "this torch is built without CUDA" if torch.version.cuda is None else f"torch is built for CUDA {torch.version.cuda} and sees none"
    )
    return f"there is no CUDA device: {why} (--cpu-dry-run tries the script without one)"


def _sees_a_device() -> bool:
    """Look in a process of its own: where devices are counted by CUDA itself after all, processes that are forked later could use none."""
    import torch

    pid = os.fork()
    if not pid:
        os._exit(0 if torch.cuda.is_available() else 1)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def _measured(options: argparse.Namespace, folder: Path, deadline: float) -> Report:
    """Measure what is not measured yet; report all that is known."""
    import torch

    from tests.benchmarks import cuda_plan
    from tests.benchmarks.cuda_runner import Runner, pending, read

    cuda_plan.load()
    torch.set_num_threads(1)  # forked processes would wait for this one's threads
    rows = [row for row in cuda_plan.rows(folder, small=options.cpu_dry_run) if _is_named(row, options.only)]
    machine = _machine_line(folder, options.cpu_dry_run)
    stamp = hashlib.sha256(f"{machine} {_code_digest()}".encode()).hexdigest()[:16]
    runner = Runner(options.results, options.results.with_suffix(".logs"), stamp, deadline, _show)
    left: list[str] = []
    waiting = pending(rows, read(options.results), stamp)
    try:
        left = runner.run(waiting)
    except KeyboardInterrupt:
        measured = read(options.results)
        left = [row.name for row in pending(waiting, measured, stamp) if row.name not in measured or measured[row.name].stamp != stamp]
    return _report(rows, read(options.results), machine, stamp, left)


def _is_named(row: Row, only: Sequence[str]) -> bool:
    return not only or any(part in row.name for part in only)


def _report(rows: Sequence[Row], lines: dict[str, Line], machine: str, stamp: str, left: list[str]) -> Report:
    from tests.benchmarks.cuda_rows import Check, Report
    from tests.benchmarks.cuda_runner import CUT, DONE

    report = Report(machine, left=left)
    for line in (lines[row.name] for row in rows if row.name in lines):
        if line.stamp != stamp:
            report.earlier.append(line.row)
        elif line.ended not in (DONE, CUT):
            report.checks.append(Check(line.row, line.ended, "runs to its end", False))
        report.checks += line.checks
        report.figures += line.figures
    return report


def _show(line: Line) -> None:
    """A row that is done, on stderr."""
    from tests.benchmarks.cuda_rows import Report, tell

    tell(f"{line.row}: {line.ended or 'done'}, {line.seconds:g} s")
    for row in Report("", line.checks, line.figures).short():
        tell(f"    {row}")


def _machine_line(folder: Path, dry_run: bool) -> str:
    """Return what is measured on; found by a process of its own, since this one must not touch the device."""
    from tests.benchmarks.cuda_rows import Check
    from tests.benchmarks.cuda_runner import Row, Runner, read

    results = folder / "machine.jsonl"
    make = lambda: [Check("machine", _machine(dry_run), "", True)]  # noqa: E731
    Runner(results, folder / "machine.logs", "", time.monotonic() + 60).run([Row("machine", make)])
    line = read(results)["machine"]
    return line.checks[0].found if line.checks else f"an unknown machine ({line.ended})"


def _machine(dry_run: bool) -> str:
    import platform

    import diffusers
    import torch

    versions = f"torch {torch.__version__}, diffusers {diffusers.__version__}, Python {platform.python_version()}"
    if dry_run:
        return f"**Dry run on the CPU: the times mean nothing.** {versions}"
    device = torch.cuda.get_device_properties(0)
    return f"{device.name}, {device.total_memory / 1e9:.0f} GB, CUDA {torch.version.cuda}; {versions}"


def _code_digest() -> str:
    """Return a digest of the code that is measured, and of what measures it."""
    digest = hashlib.sha256()
    for path in sorted(file for name in _CODE for file in (ROOT / name).rglob("*.py")):
        digest.update(f"{path.relative_to(ROOT)}\n".encode() + path.read_bytes())
    return digest.hexdigest()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="Correctness and speed of the trainers on one GPU.")
    parser.add_argument("--minutes", type=float, default=MINUTES, metavar="M", help=f"no row is begun afterwards ({MINUTES:g})")
    parser.add_argument("--results", type=Path, default=Path(RESULTS), metavar="FILE", help=f"where rows are kept, one a line ({RESULTS})")
    parser.add_argument("--only", nargs="+", default=[], metavar="TEXT", help="only rows whose names have one of these in them")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all that was found there, too")
    parser.add_argument("--cpu-dry-run", action="store_true", help="the same code in a small form on the CPU, to try the script itself")
    return parser


if __name__ == "__main__":
    sys.exit(main())
