"""How long `fvlaunch status` takes with thousands of runs, as a whole process: `python tests/benchmarks/many_runs.py [ROUNDS]`.

10,000 run directories as they lie there after months, 20 of them not over; squeue is a stand-in that knows the 20 and answers at
once, and counts how often it is asked. Judged by the processor's time, which others on the machine change least. Prints a table; ends
with 1 where a limit is not kept.
"""

from __future__ import annotations

import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

from fvlaunch.runs.directory import Record  # noqa: E402
from fvlaunch.schedulers.slurm.parsing import FIELD, QUEUE_FIELDS, RECORD  # noqa: E402

RUNS, OPEN = 10_000, 20
ROUNDS = 4
CASES: tuple[tuple[str, list[str], float], ...] = (
    ("`fvlaunch status`", [], 1.0),
    ("`fvlaunch status --json`", ["--json"], 1.0),
    ("`fvlaunch status --all`", ["--all"], 1.5),
)
"""(name, words, limit in seconds)"""
STEPS = 50


def main(rounds: int) -> int:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for number in range(RUNS):
            make_run(folder / "runs" / f"run-{number:05}", number, RUNS - number <= OPEN)
        environment = stand_ins(folder)
        rows = [(name, limit, *_measure(words, folder, environment, rounds)) for name, words, limit in CASES]
    print("| command, 10,000 runs | processor s | limit | wall s | bare typer app | calls of squeue | of sacct |")
    print("|---|---:|---:|---:|---:|---:|---:|")
    for name, limit, seconds, wall, bare, squeue, sacct in rows:
        print(f"| {name} | {seconds:.2f} | {limit:g} | {wall:.2f} | {bare:.2f} | {squeue} | {sacct} |")
    print(f"\nmedians of {rounds} rounds by turns; the first round fills caches and is not counted")
    return int(any(row[2] > row[1] or row[5] > 1 or row[6] > 1 for row in rows))


def make_run(path: Path, number: int, is_open: bool) -> None:
    """A run directory as training leaves it; of the open ones half wait and half run."""
    for part in ("attempts", "checkpoints/step-00000050", "logs/attempt-0001", "job"):
        os.makedirs(path / part)  # noqa: PTH103
    waits = is_open and number % 2 == 0
    record = Record(
        name=path.name, recipe="finetune", cluster="main", executor="slurm", generation=1, token=f"{number:016x}", max_steps=STEPS,
        ranks=8, nodes=1, submitted_at=float(number), updated_at=float(number), state="submitted" if is_open else "finished",
        job_id=str(100_000 + number), job_ids=(str(100_000 + number),), scheduler="main",
    )  # fmt: skip
    (path / "run.json").write_text(json.dumps(asdict(record), indent=1))
    (path / "intent.json").write_text('{"want": "run", "generation": 1}')
    (path / "attempt.json").write_text("{}\n")
    if waits:
        return
    lines: list[dict[str, Any]] = [{"time": 1.0, "event": "started", "generation": 1, "job_id": record.job_id, "nodes": ["n1"], "ranks": 8}]
    lines += [{"time": 2.0, "event": "checkpoint", "step": STEPS, "save_s": 3.0}]
    lines += [] if is_open else [{"time": 3.0, "event": "ended", "cause": "finished"}]
    (path / "attempts" / "0001.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    metrics = ({"step": n, "loss": 0.123456789, "grad_norm": 1.0, "lr": 1e-5, "step_s": 1.0, "attempt": 1} for n in range(1, STEPS + 1))
    (path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in metrics))
    beat = {"time": time.time(), "attempt": 1, "phase": "stepping", "count": STEPS, "median_step_s": 1.0, "allocation_left_s": 100.0}
    (path / "heartbeat.json").write_text(json.dumps(beat))


def stand_ins(folder: Path) -> dict[str, str]:
    """squeue and sacct on PATH, which count their calls."""
    (folder / "bin").mkdir()
    queue = "".join(_queued(number) for number in range(RUNS - OPEN, RUNS))
    (folder / "queue").write_text(queue)
    answers = {"squeue": f"cat {folder}/queue", "sacct": 'echo "Slurm accounting storage is disabled" >&2; exit 1'}
    for name, shell in answers.items():
        program = folder / "bin" / name
        program.write_text(f"#!/bin/sh\necho {name} >>{folder}/calls\n{shell}\n")
        program.chmod(0o755)
    paths = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    own = {
        "PYTHONPATH": paths,
        "PATH": f"{folder / 'bin'}:{os.environ['PATH']}",
        "XDG_STATE_HOME": str(folder),
        "XDG_CONFIG_HOME": str(folder),
    }
    kept = {k: v for k, v in os.environ.items() if k not in ("PYTHONDONTWRITEBYTECODE", "FVLAUNCH_RUNS", "FVLAUNCH_CLUSTER")}
    return {**kept, **own, "PYTHONPYCACHEPREFIX": str(folder / "compiled")}


def _queued(number: int) -> str:
    state = "PENDING" if number % 2 == 0 else "RUNNING"
    values = {
        "JobID": str(100_000 + number),
        "Name": f"run-{number:05}",
        "State": state,
        "Reason": "Priority",
        "RestartCnt": "0",
        "exit_code": "0",
    }
    values |= {"Comment": f"fvlaunch:{number:016x}", "WorkDir": f"/runs/{number:016x}"}
    return FIELD.join(values.get(key, "N/A") for key in QUEUE_FIELDS.split(",")) + RECORD + "\n"


def _measure(words: list[str], folder: Path, environment: dict[str, str], rounds: int) -> tuple[float, float, float, int, int]:
    """(medians: processor's seconds, wall seconds, processor's seconds of a bare app; calls of squeue and of sacct in one command)."""
    rows = []
    for _ in range(rounds + 1):
        (folder / "calls").write_text("")
        ours = _seconds([sys.executable, "-m", "fvlaunch", "status", *words], folder, environment)
        rows.append((*ours, _seconds([sys.executable, "-c", "import typer"], folder, environment)[0]))
    calls = (folder / "calls").read_text().split()
    seconds, wall, bare = (statistics.median(side) for side in zip(*rows[1:], strict=True))
    return seconds, wall, bare, calls.count("squeue"), calls.count("sacct")


def _seconds(argv: list[str], folder: Path, environment: dict[str, str]) -> tuple[float, float]:
    """(the processor's time, wall time) of a process and all that it starts."""
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run(argv, cwd=folder, env=environment, stdout=subprocess.DEVNULL, check=True)
    after, wall = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter() - started
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, wall


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]) if len(sys.argv) > 1 else ROUNDS))
