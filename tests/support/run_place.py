"""Owns a working directory with runs in every state that the launcher knows, and putting it back as it was after a trial.

The records are written by the launcher's own functions. No job runs: the one that is alive is a process that sleeps.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from pathlib import Path

from fvlaunch.config.compose import compose
from fvlaunch.config.strict_yaml import dump
from fvlaunch.files import append_line, overwrite_json, publish_json
from fvlaunch.planning.planner import plan_of
from fvlaunch.runs.directory import Run, create
from fvlaunch.runs.pipeline_directory import Export, Pipeline, PipelineRecord, StageRecord
from fvlaunch.schedulers.local_process import host_identity, local_job_id
from tests.support.records import record
from trainers.checkpointing import manifest as manifests
from trainers.files import digest_file

RECIPE = """\
extends: base/shapes
train:
  max_steps: 20
  method: {kind: finetune}
  optimizers: {student: {kind: adamw, lr: 1e-3}}
"""
GONE = "local-99999999-7"
"""The job of a run whose job is gone."""
RUNS = {
    "good": "finished", "stopped": "stopped", "failed": "failed", "going": "submitted", "crashed": "submitted", "cut": "submitted",
    "fresh": "submitting", "away": "submitted", "chain/one": "finished", "chain/two": "waiting",
}  # fmt: skip
"""Name -> what its record says. `going` has a job that is alive, `crashed` one that ended while nothing could be written, `cut` one that
was killed, `away` one of a Slurm that does not answer; `chain` is a pipeline."""


class Place:
    """A working directory with runs in every state, of which one has a job that is alive."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.runs = folder, folder / "runs"
        self.runs.mkdir()
        self._child: subprocess.Popen[bytes] | None = None
        self._kept: dict[Path, tuple[bytes, tuple[int, int]]] = {}
        self._make()

    def _make(self) -> None:
        (self.folder / "clusters").mkdir()
        (self.folder / "clusters/here.yaml").write_text("executor: local\npaths: {data: data}\n")
        (self.folder / "own.yaml").write_text(RECIPE)
        self._config = self._resolved()
        past = time.time() - 3600
        for name in RUNS:
            self._run(name, past)
        self._pipeline(past)
        self.keep()

    def _resolved(self) -> str:
        plan = plan_of(compose("own.yaml", "here"), name="x", ranks=None, nodes=None, sbatch={}, runs_dir=None)
        lock = {"git": {"commit": "0" * 40, "dirty": False}, "versions": {"torch": "2.0"}, "request": {"set": []}}
        return dump({"recipe": plan.recipe, "cluster": plan.cluster, "lock": lock})

    def _run(self, name: str, past: float) -> None:
        job = None if name in ("fresh", "chain/two") else self._job() if name == "going" else "777" if name == "away" else GONE
        here = None if name == "away" else host_identity()
        state, reason = RUNS[name], "a reason" if RUNS[name] in ("failed", "stopped") else ""
        path = self.runs / name
        path.parent.mkdir(exist_ok=True)
        run = create(path, record(
            name, state=state, job_id=job, job_ids=(job,) if job else (), executor="slurm" if name == "away" else "local", host=here,
            max_steps=20, ranks=2, submitted_at=past, token=_token(name), reason=reason,
        ))  # fmt: skip
        run.config_file.write_text(self._config)
        if name == "stopped":
            run.write_intent("stop", 1)
        (run.job / _token(name)).mkdir()
        if job is not None:
            run.event("submitted", job_id=job, generation=1)
            if name == "stopped":
                run.event("stop", job_id=job, generation=1)
            _attempts(run, name, job, past)
            _trained(run)
            _job_folder(run.job / _token(name), job, died=name == "crashed")

    def _pipeline(self, past: float) -> None:
        stages = (StageRecord("one"), StageRecord("two", (Export("one", "ema", "student", False, "export-ema"),)))
        Pipeline(self.runs / "chain").write(PipelineRecord("chain", "p", "here", "local", stages, past))

    def _job(self) -> str:
        self._child = subprocess.Popen(["/bin/sleep", "1000000"])
        return local_job_id(self._child.pid) or ""

    def close(self) -> None:
        if self._child is not None:
            self._child.kill()
            self._child.wait()

    # as it was

    def keep(self) -> None:
        self._kept = {
            path: (path.read_bytes(), _times(path)) for path in self.folder.rglob("*") if path.is_file() and not path.is_symlink()
        }

    def files(self) -> list[Path]:
        return sorted(self._kept)

    def restore(self, run: str) -> None:
        """Put back what a trial has changed in a run's folder and in the state folder, and take away what it has made."""
        shutil.rmtree(self.runs / "forked", ignore_errors=True)
        tops = [self.runs / run, self.folder / "state"]
        for path in sorted((path for top in tops for path in top.rglob("*")), reverse=True):
            made = path.is_symlink() or path not in self._kept
            if made and (path.is_symlink() or not path.is_dir()):
                path.unlink()
        for path, (content, times) in self._kept.items():
            if any(path.is_relative_to(top) for top in tops) and not (path.exists() and _times(path) == times):
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(content)
                os.utime(path, ns=times)


def _token(name: str) -> str:
    return f"{list(RUNS).index(name):016x}"


def _times(path: Path) -> tuple[int, int]:
    found = path.stat()
    return found.st_mtime_ns, found.st_mtime_ns


def _checkpoint(folder: Path, step: int) -> None:
    target = folder / f"step-{step:08d}"
    target.mkdir()
    for name in (".metadata", "__0_0.distcp"):
        (target / name).write_bytes(name.encode() * 100)
    entries = {name: digest_file(target / name) for name in (".metadata", "__0_0.distcp")}
    manifests.write(target, manifests.Manifest(step, 2, "0" * 16, {"threads": 1}, entries))


def _attempts(run: Run, name: str, job: str, past: float) -> None:
    """Two attempts: one that crashed, and one that ended as the run did, or goes on."""
    living = name in ("going", "away")
    life = {"generation": 1, "job_id": job, "restart_count": 0}
    for number in (1, 2):
        log, at = run.attempt_log(number), past + 100 * number
        append_line(log, {"time": at, "event": "started", "attempt": number, **life, "nodes": ["n1"], "ranks": 2})
        append_line(log, {"time": at + 20, "event": "checkpoint", "rank": 0, "step": 5 * number, "save_s": 0.5})
        publish_json(run.attempts / f"{number:04d}.config.json", {"train": {}})
        if number == 1 or not (living or name == "cut"):
            cause = "crash" if number == 1 or name in ("crashed", "failed") else "stopped" if name == "stopped" else "finished"
            failure = {"rank": 1, "node": "n1", "step": 7, "what": "RuntimeError: boom", "lines": ["a", "b"]} if cause == "crash" else None
            append_line(log, {"time": at + 50, "event": "ended", "cause": cause, "failure": failure, "step": 5 * number})
            follows = {"next": "restart" if number == 1 else "end", "state": "", "reason": "", "exclude": []}
            append_line(log, {"time": at + 50, "event": "decided", **follows})
    pulse = {"phase": "stepping", "count": 10, "rank": 0, "silent_s": 0.1, "median_step_s": 0.1}
    beat = {"time": time.time() if living else past + 250, "attempt": 2, "job_id": job, "allocation_left_s": 100.0 if living else None}
    publish_json(run.heartbeat_file, {**beat, **pulse})
    address = {"host": "127.0.0.1", "port": 4000, "nonce": "91eda0a4"}
    overwrite_json(run.attempt_file, {"attempt": 2, **life, **address, "outcome": None if living else "end"})


def _trained(run: Run) -> None:
    """What its ranks left: metrics, logs, checkpoints."""
    for step in range(1, 11):
        line = {"step": step, "loss": 2.0 / step, "critic_loss": 1.0, "lr": 0.1, "step_s": 0.1, "attempt": 1 + (step > 5)}
        append_line(run.metrics_file, line)
    publish_json(run.entries_file, {"entries": 12, "written": 10, "holdout": 1, "rejected": {"too short": 2}})
    for number, rank in ((1, 0), (1, 1), (2, 0), (2, 1)):
        log = run.rank_log(number, rank)
        log.parent.mkdir(exist_ok=True)
        log.write_text("2026-01-02 10:00:00,000 INFO step 1\nTraceback\n  x\n" * 3)
    for step in (5, 10):
        _checkpoint(run.checkpoints, step)


def _job_folder(folder: Path, job: str, *, died: bool) -> None:
    texts = {f"said.{job}.0": "\n\n", "started": f"{job}\n", "start.log": "started\n", "7_0_log.out": "agent: hello\nerror: something\n"}
    if died:
        texts |= {"given_up": "the same failure thrice\n", f"died.{job}.0": "not_begun\nkilled\n"}
    for name, text in texts.items():
        (folder / name).write_text(text)
