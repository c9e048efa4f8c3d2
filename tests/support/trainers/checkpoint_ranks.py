"""Real ranks over gloo for the checkpoint tests: run as a script it forks them from a process that has torch already.

`Ranks` is the tests' side: `start` forks a group of ranks that runs one scenario below, `join` collects what they returned.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
import traceback
from pathlib import Path
from typing import Any

from tests.support.paths import ROOT


class Ranks:
    def __init__(self) -> None:
        root = str(ROOT)
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join([root, os.environ.get("PYTHONPATH", "")])}
        command = [sys.executable, "-W", "error", __file__]
        self._server = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)

    def start(self, world: int, scenario: str, directory: Path, **arguments: Any) -> list[int]:
        """The pids of the ranks, by rank."""
        return self._ask({"do": "start", "world": world, "scenario": scenario, "directory": str(directory), "arguments": arguments})

    def join(self, pids: list[int], timeout_s: float = 240) -> list[dict[str, Any]]:
        """By rank: {code, result}; who is not back in time is killed and has code "timeout"."""
        return self._ask({"do": "join", "pids": pids, "timeout_s": timeout_s})

    def run(self, world: int, scenario: str, directory: Path, **arguments: Any) -> list[Any]:
        """What each rank returned; all must have ended with 0."""
        outcomes = self.join(self.start(world, scenario, directory, **arguments))
        assert [outcome["code"] for outcome in outcomes] == [0] * world, outcomes
        return [outcome["result"] for outcome in outcomes]

    def close(self) -> None:
        assert self._server.stdin and self._server.stdout
        self._server.stdin.close()
        self._server.wait(120)
        self._server.stdout.close()

    def _ask(self, request: dict[str, Any]) -> Any:
        assert self._server.stdin and self._server.stdout
        self._server.stdin.write(json.dumps(request) + "\n")
        self._server.stdin.flush()
        return json.loads(self._server.stdout.readline())


# --- the ranks' side


class RecordingControl:
    """control.Control's part that a checkpointer uses; what is reported is kept."""

    def __init__(self, rank: int, current: str | None = None, attempt: int = 1) -> None:
        from trainers.control import Control

        environment = {"RANK": str(rank), "TRAINER_ATTEMPT": str(attempt)}
        self._control = Control({**environment, "TRAINER_CURRENT": current} if current else environment)
        self.reports: list[dict[str, Any]] = []

    def report(self, kind: str, **details: Any) -> None:
        self.reports.append({"kind": kind, **details})

    def progress(self, phase: str, count: int, **details: Any) -> None:
        pass

    def is_current(self) -> bool:
        return self._control.is_current()

    def warnings(self) -> list[str]:
        return [report["text"] for report in self.reports if report["kind"] == "warning"]


def make_state(step: int, rows: int = 33, extra: dict[str, Any] | None = None) -> dict[str, Any]:
    """What a run holds after `step`: a sharded weight whose rows do not divide evenly, a replicated one, and plain values."""
    import torch
    import torch.distributed as dist
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import Replicate, Shard, distribute_tensor

    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    generator = torch.Generator().manual_seed(step)
    weight, moment, norm = (torch.randn(shape, generator=generator) for shape in ((rows, 7), (rows, 7), (5,)))
    sharded = {"weight": distribute_tensor(weight, mesh, [Shard(0)]), "norm": distribute_tensor(norm, mesh, [Replicate()])}
    moments = {"step": torch.tensor(float(step)), "exp_avg": distribute_tensor(moment, mesh, [Shard(0)])}
    group = {"lr": 1e-3 / (1 + step), "betas": (0.9, 0.95), "fused": None, "params": ["weight"]}
    return {
        "roles": {"student": {"transformer": sharded}},
        "optimizers": {"student": {"state": {"weight": moments}, "param_groups": [group]}},
        "schedulers": {"student": {"last_epoch": step}},
        **(extra or {}),
    }


def same(left: Any, right: Any) -> bool:
    import torch
    from torch.distributed.tensor import DTensor

    if isinstance(left, dict):
        return left.keys() == right.keys() and all(same(left[key], right[key]) for key in left)
    if isinstance(left, list):
        return len(left) == len(right) and all(same(a, b) for a, b in zip(left, right, strict=True))
    if isinstance(left, DTensor):
        return torch.equal(left.full_tensor(), right.full_tensor())
    return torch.equal(left, right) if isinstance(left, torch.Tensor) else left == right


def make_checkpointer(directory: str, control: Any, *, keep_last: int = 3, keep_every: int | None = None, **facts: Any) -> Any:
    from trainers.checkpointing.saver import Checkpointer
    from trainers.config.checkpoint import CheckpointConfig

    keep = CheckpointConfig(keep_last=keep_last, keep_every_steps=keep_every)
    return Checkpointer(Path(directory), keep, control=control, facts={"threads": 1, **facts}, config_digest="c0ffee")


def scenario_save(rank: int, directory: str, steps: list[int], rows: int = 33, keep_last: int = 3) -> Any:
    control = RecordingControl(rank)
    checkpointer = make_checkpointer(directory, control, keep_last=keep_last)
    for step in steps:
        checkpointer.save(step, make_state(step, rows))
    checkpointer.close()
    return {"failed": checkpointer.failed_in_a_row, "last": checkpointer.last_published, "reports": control.reports}


def scenario_threads(rank: int, directory: str, tensors: int) -> Any:
    """How many threads gloo had before a save and a load of so many tensors, and has afterwards: a thread's helpers inherit its name."""
    import torch

    torch.set_num_threads(2)
    checkpointer = make_checkpointer(directory, RecordingControl(rank))
    extra = {"callbacks": {f"tensor_of_a_name_as_long_as_they_are_{n}": torch.zeros(1) for n in range(tensors)}}
    checkpointer.save(1, make_state(1), wait=True)  # whatever even a small one needs
    before = _gloo_threads()
    checkpointer.save(2, make_state(2, extra=extra), wait=True)
    saved = _gloo_threads()
    step = checkpointer.load(make_state(0, extra=extra))
    checkpointer.close()
    return {"step": step, "threads": [before, saved, _gloo_threads()]}


def _gloo_threads() -> int:
    return sum(path.read_text().strip() == "pt_gloo_runloop" for path in Path("/proc/self/task").glob("*/comm"))


def scenario_load(rank: int, directory: str, rows: int = 33, threads: int = 1) -> Any:
    control = RecordingControl(rank)
    checkpointer = make_checkpointer(directory, control, threads=threads)
    roles, state = checkpointer.expected().roles, make_state(0, rows)
    step = checkpointer.load(state)
    checkpointer.close()
    equal = step is not None and same(state, make_state(step, rows))
    return {"step": step, "roles": sorted(roles), "equal": equal, "warnings": control.warnings()}


def scenario_load_error(rank: int, directory: str, rows: int = 33, rename_role: bool = False) -> Any:
    checkpointer = make_checkpointer(directory, RecordingControl(rank))
    state = make_state(0, rows)
    if rename_role:
        state["roles"] = {"teacher": state["roles"]["student"]}
    try:
        checkpointer.load(state)
    except Exception as error:
        return {"type": type(error).__name__, "text": str(error)}
    return None


def scenario_damage(rank: int, directory: str, damages: list[list[list[Any]]]) -> Any:
    """For each set of damages, on a fresh copy of `directory`: what is loaded, and which folders are there afterwards."""
    import torch.distributed as dist

    from tests.support.disk import damage
    from trainers.checkpointing import manifest

    manifest.REREAD_AFTER_S = 0.01
    results = []
    for number, targets in enumerate(damages):
        copy = f"{directory}.{number}"
        if rank == 0:
            shutil.copytree(directory, copy)
            for step, name, kind, place in targets:
                damage(Path(copy) / f"step-{step:08d}" / name, kind, place)
        dist.barrier()
        result = scenario_load(rank, copy)
        results.append({**result, "folders": names(copy)})
        dist.barrier()
    return results


def names(directory: str | Path) -> list[str]:
    return sorted(path.name for path in Path(directory).iterdir())


def scenario_skewed(rank: int, directory: str, steps: int, every: int, pauses_s: list[list[float]]) -> Any:
    """A loop in which each rank dawdles elsewhere, that polls each step and mutates its state as soon as `save` returns.

    Rank 0 prunes slowly, so its save ends steps after the other's.
    """
    import torch.distributed as dist

    from trainers.checkpointing import store

    store.prune = lambda *_args, **_kwargs: time.sleep(0.1) or []
    checkpointer = make_checkpointer(directory, RecordingControl(rank))
    seen = []
    for step in range(1, steps + 1):
        time.sleep(pauses_s[rank][step % len(pauses_s[rank])])
        state = make_state(step)
        checkpointer.poll()
        seen.append([checkpointer.failed_in_a_row, checkpointer.last_published])
        if step % every == 0:
            checkpointer.save(step, state)
            state["roles"]["student"]["transformer"]["weight"].to_local().zero_()
            state["schedulers"]["student"]["last_epoch"] = -1
    checkpointer.wait()
    dist.barrier()
    return {"seen": seen, "last": checkpointer.last_published}


def scenario_full_disk(rank: int, directory: str, broken_ranks: list[int], limit_bytes: int, rows: int) -> Any:
    """Save, then twice with no room on `broken_ranks`, then with room again; with the folder's entries after each."""
    import resource

    import torch.distributed as dist

    control = RecordingControl(rank)
    checkpointer = make_checkpointer(directory, control)
    hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
    seen = []
    for step, full in ((1, False), (2, True), (3, True), (4, False)):
        limit = limit_bytes if full and rank in broken_ranks else hard
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
        checkpointer.save(step, make_state(step, rows), wait=True)
        resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
        seen.append([checkpointer.failed_in_a_row, checkpointer.last_published, names(directory)])
        dist.barrier()
    checkpointer.close()
    return {"seen": seen, "warnings": control.warnings()}


def scenario_full_tmpfs(rank: int, directory: str, filler: str, rows: int) -> Any:
    """The same on a real file system that `filler` fills up."""
    import torch.distributed as dist

    from tests.support.disk import fill

    checkpointer = make_checkpointer(directory, RecordingControl(rank))
    seen = []
    for step in (1, 2, 3):
        if rank == 0 and step == 2:
            fill(Path(filler))
        if rank == 0 and step == 3:
            Path(filler).unlink()
        dist.barrier()
        checkpointer.save(step, make_state(step, rows), wait=True)
        seen.append([checkpointer.failed_in_a_row, checkpointer.last_published, names(directory)])
        dist.barrier()
    checkpointer.close()
    return seen


def scenario_undeletable(rank: int, directory: str, steps: list[int], stuck: int, kind: str) -> Any:
    """Save `steps` while the manifest or the other files of step `stuck` cannot be deleted; then once more when they can."""
    from trainers.checkpointing import store

    def refuse(path: Path) -> None:
        if path.parent.name == f"step-{stuck:08d}" and (kind == "manifest") == (path.name == "MANIFEST.json"):
            raise PermissionError(13, "Permission denied", str(path))
        path.unlink()

    delete, control = store.delete, RecordingControl(rank)
    store.delete = lambda folder: delete(folder, refuse)
    checkpointer, seen = make_checkpointer(directory, control, keep_last=2), []
    for step in [*steps, 0]:
        if step == 0:
            step, store.delete = steps[-1] + 1, delete
        checkpointer.save(step, make_state(step), wait=True)
        seen.append(names(directory))
    checkpointer.close()
    return {"seen": seen, "warnings": control.warnings(), "failed": checkpointer.failed_in_a_row}


def scenario_endless(rank: int, directory: str, rows: int) -> Any:
    """Save as fast as the disk allows, until killed."""
    checkpointer = make_checkpointer(directory, RecordingControl(rank), keep_last=2)
    step = checkpointer.load(make_state(0, rows)) or 0
    while True:
        step += 1
        checkpointer.save(step, make_state(step, rows))


def scenario_attempt(rank: int, directory: str, current: str, attempt: int, step: int, hold: str | None = None) -> Any:
    """One attempt that loads and saves `step`; with `hold` it sleeps right before it publishes, until that file is gone."""
    checkpointer = make_checkpointer(directory, RecordingControl(rank, current, attempt))
    state = make_state(0)
    loaded = checkpointer.load(state)

    def sleep(_step: int) -> dict[str, bytes]:
        Path(f"{hold}.reached").touch()
        while hold and Path(hold).exists():
            time.sleep(0.01)
        return {}

    if hold:
        checkpointer.before_publish = sleep
    checkpointer.save(step, make_state(step), wait=True)
    checkpointer.close()
    return {"loaded": loaded, "last": checkpointer.last_published}


def scenario_timing(rank: int, directory: str, megabytes: int, saves: int) -> Any:
    """Seconds that `save` kept the loop, and seconds until published; for each save."""
    control = RecordingControl(rank)
    checkpointer = make_checkpointer(directory, control)
    state, blocked = make_state(0, rows=megabytes * 1_000_000 // (2 * 7 * 4)), []
    for step in range(1, saves + 1):
        started = time.monotonic()
        checkpointer.save(step, state)
        blocked.append(round(time.monotonic() - started, 3))
        checkpointer.wait()
    checkpointer.close()
    return {"blocked_s": blocked, "save_s": [report["save_s"] for report in control.reports if report["kind"] == "checkpoint"]}


def _rank(rank: int, world: int, request: dict[str, Any], exchange: str) -> None:
    import torch.distributed as dist

    os.environ["RANK"] = str(rank)
    dist.init_process_group("gloo", store=dist.FileStore(f"{exchange}.store", world), rank=rank, world_size=world)
    result = globals()[f"scenario_{request['scenario']}"](rank, request["directory"], **request["arguments"])
    Path(f"{exchange}.{rank}.json").write_text(json.dumps(result))
    dist.barrier()
    dist.destroy_process_group()


def _fork(request: dict[str, Any], exchange: str) -> list[int]:
    pids = []
    for rank in range(request["world"]):
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                os.dup2(2, 1)
                _rank(rank, request["world"], request, exchange)
                code = 0
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(code)
        pids.append(pid)
    return pids


def _join(pids: list[int], timeout_s: float, exchange: str) -> list[dict[str, Any]]:
    deadline, outcomes = time.monotonic() + timeout_s, []
    for rank, pid in enumerate(pids):
        while (found := os.waitpid(pid, os.WNOHANG)) == (0, 0) and time.monotonic() < deadline:
            time.sleep(0.005)
        if found == (0, 0):
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
        code: int | str = "timeout" if found == (0, 0) else os.waitstatus_to_exitcode(found[1])
        path = Path(f"{exchange}.{rank}.json")
        outcomes.append({"code": code, "result": json.loads(path.read_text()) if path.exists() else None})
    return outcomes


def _serve() -> None:
    import tempfile

    import torch._dynamo  # noqa: F401  DTensor loads it on first use, which would take each forked rank a second

    import trainers.checkpointing.saver  # noqa: F401

    exchanges: dict[int, str] = {}
    with tempfile.TemporaryDirectory() as folder:
        for number, line in enumerate(sys.stdin):
            request = json.loads(line)
            if request["do"] == "start":
                answer: Any = _fork(request, f"{folder}/{number}")
                exchanges[answer[0]] = f"{folder}/{number}"
            else:
                answer = _join(request["pids"], request["timeout_s"], exchanges[request["pids"][0]])
            print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    _serve()
