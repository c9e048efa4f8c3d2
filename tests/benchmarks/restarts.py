"""What a restart costs, stage by stage, from the runs' own records: `python tests/benchmarks/restarts.py [ROUNDS] [--against CHECKOUT]`.

Whole runs on two ranks are hurt once, and the table tells how long each stage took until the first step of the next attempt: a rank
killed on one machine (restarted in place), once with the other rank left waiting for it, as on GPUs; and on a real Slurm that this starts
(where it is installed) a rank killed on the second of two nodes, a requeue by an administrator, a lost node. `--against`: another
checkout's code, by turns with this one's. The time that Slurm itself makes a requeued job wait (two minutes on a default site) is cut
short.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

from tests.integration.slurm.cluster import SlurmCluster, missing_programs  # noqa: E402
from tests.integration.slurm.runs import job_of  # noqa: E402
from tests.support.launcher import RECIPE, Workspace, metrics, rank_pids  # noqa: E402

ROUNDS = 4
EVERY = 4
"""Steps between checkpoints."""
ARCHITECTURE = {"num_layers": 4, "num_attention_heads": 8, "attention_head_dim": 64, "ffn_dim": 2048}
"""20 million parameters: a checkpoint of 0.3 GB with the average and AdamW's moments."""
STAGES = (
    *("detect", "end ranks, save", "queue", "agent", "imports, fork", "process group"),
    *("networks", "checkpoint", "records", "first step", "all"),
)
Stages = dict[str, float]
Hurt = Callable[[Workspace, Path], None]


def main() -> int:
    options = _parser().parse_args()
    checkouts = {"ours": ROOT, **({"against": options.against.resolve()} if options.against else {})}
    found: dict[tuple[str, str], list[Stages]] = {}
    with tempfile.TemporaryDirectory() as folder, _slurm() as slurm:
        spaces = {name: _workspace(Path(folder) / name, checkout, slurm) for name, checkout in checkouts.items()}
        for number in range(options.rounds):
            for what, (hurt, cluster) in _ways(slurm).items():
                if options.only and what not in options.only:
                    continue
                for name, space in spaces.items():
                    print(f"round {number + 1}: {what}, {name}", file=sys.stderr, flush=True)
                    found.setdefault((what, name), []).append(_way_back(space, f"{what.replace(' ', '-')}-{number}", hurt, cluster))
    _print_table(found, options.rounds)
    return 0


def _print_table(found: dict[tuple[str, str], list[Stages]], rounds: int) -> None:
    several = len({name for _what, name in found}) > 1
    print("| seconds | " + " | ".join(f"{what}{f' ({name})' if several else ''}" for what, name in found) + " |")
    print("|---|" + "---:|" * len(found))
    for stage in STAGES:
        cells = [[trial[stage] for trial in trials if stage in trial] for trials in found.values()]
        print(f"| {stage} | " + " | ".join(f"{statistics.median(cell):.2f}" if cell else "" for cell in cells) + " |")
    print(f"\nmedians of {rounds} rounds{' by turns' if several else ''}; a blank stage is in the next one: nobody noted it")


# --- what is done to a run


@contextlib.contextmanager
def _slurm() -> Iterator[SlurmCluster | None]:
    if missing := missing_programs():
        print(f"Not measured on Slurm: {', '.join(missing)} not found (apt-get install slurm-wlm munge)\n")
        yield None
        return
    with SlurmCluster(nodes=2, cpus=8, memory_mb=8000, grace_s=60, kill_wait_s=60) as cluster:
        yield cluster
        cluster.cancel_all()


def _ways(slurm: SlurmCluster | None) -> dict[str, tuple[Hurt, str]]:
    ways: dict[str, tuple[Hurt, str]] = {"crash in place": (_kill_a_rank, "here"), "crash unnoticed": (_kill_unnoticed, "here")}
    if slurm is not None:
        ways["crash on two nodes"] = _kill_a_rank, "real"
        ways["requeue"] = (lambda space, run: slurm.requeue_now(job_of(space, run.name))), "real"
        ways["lost node"] = (lambda _space, _run: _lose_a_node(slurm)), "real"
    return ways


def _kill_a_rank(space: Workspace, run: Path) -> None:
    os.kill(space.until(lambda: rank_pids(run).get(1), "rank 1 is there"), signal.SIGKILL)


def _kill_unnoticed(space: Workspace, run: Path) -> None:
    """The other rank is left waiting, as on GPUs, where a collective with a dead rank does not end."""
    os.kill(space.until(lambda: rank_pids(run).get(0), "rank 0 is there"), signal.SIGSTOP)
    _kill_a_rank(space, run)


def _lose_a_node(slurm: SlurmCluster) -> None:
    slurm.kill_slurmd(slurm.nodes[1])
    slurm.start_slurmd(slurm.nodes[1], wait=False)


def _way_back(space: Workspace, name: str, hurt: Hurt, cluster: str) -> Stages:
    """Begin a run, hurt it two steps after a checkpoint, and return what its way back took once it has made a step again."""
    run = space.submit(name, cluster=cluster)
    try:
        saved = run / f"checkpoints/step-{EVERY:08d}"
        space.until(lambda: saved.exists() and _last_step(run) >= EVERY + 2, f"{name} has saved, and goes on")
        hurt_at = time.time()
        hurt(space, run)
        space.until(lambda: "begun" in _events(run, 2), f"{name} is back")
    finally:
        space.call("cancel", name)
        space.finish(name)
    return _stages(hurt_at, _events(run, 1), _events(run, 2))


def _last_step(run: Path) -> int:
    lines = metrics(run)
    return int(lines[-1]["step"]) if lines else 0


# --- what the records say


def _events(run: Path, attempt: int) -> dict[str, Any]:
    """The last event of each kind of an attempt."""
    try:
        lines = (run / "attempts" / f"{attempt:04d}.jsonl").read_text().split("\n")[:-1]
    except OSError:
        return {}
    return {event["event"]: event for event in map(json.loads, lines)}


def _stages(hurt_at: float, before: dict[str, Any], after: dict[str, Any]) -> Stages:
    noticed = before["notice"]["time"] if "notice" in before else before.get("ended", {}).get("first_end_at")
    started, reached = after["started"], after["begun"]["reached"]
    times = {
        "detect": noticed,
        "end ranks, save": before.get("decided", {}).get("time"),
        "queue": started["agent_at"],
        "agent": started["time"],
        "imports, fork": reached["process"],
        "process group": reached["process_group"],
        **{stage: reached[stage] for stage in ("networks", "checkpoint", "records")},
        "first step": reached["first_step"],
    }
    found, last = Stages(), hurt_at
    for stage, at in times.items():
        if at is not None and not (stage == "queue" and at < last):  # in place the agent is the old one
            found[stage], last = max(0.0, at - last), max(at, last)
    return {**found, "all": reached["first_step"] - hurt_at}


# --- where it happens


def _workspace(folder: Path, checkout: Path, slurm: SlurmCluster | None) -> Workspace:
    kept = {name: value for name, value in os.environ.items() if name not in ("PYTHONDONTWRITEBYTECODE", "OMP_NUM_THREADS")}
    space = Workspace(folder, {**kept, **(slurm.env if slurm else {}), "PYTHONPATH": str(checkout)})
    train = RECIPE["train"]
    student = {**train["models"]["student"], "architecture": ARCHITECTURE}
    data = {**train["data"], "global_batch_size": 2, "workers": 1}
    saves = {"every_steps": EVERY, "every_minutes": None}
    changes = {"models": {"student": student}, "data": data, "checkpoint": saves, "max_steps": 10_000}
    space.write("templates/recipes/tiny.yaml", {**RECIPE, "train": {**train, **changes}})
    space.slurm_cluster(slurm={"partition": "low", "cpus-per-task": 1, "mem": "4000", "time": "00:30:00"})
    return space


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="What a restart costs, stage by stage.")
    parser.add_argument("rounds", nargs="?", type=int, default=ROUNDS)
    parser.add_argument("--against", type=Path, metavar="CHECKOUT", help="another checkout, measured by turns with this one")
    parser.add_argument("--only", action="append", metavar="WHAT", help="of the table's columns, such as 'crash in place'; may be repeated")
    return parser


if __name__ == "__main__":
    sys.exit(main())
