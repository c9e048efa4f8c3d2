"""Runs that an earlier version recorded go on under this one, with their own copy of the old code or with today's, bitwise.

What is compared is told by tests/support/stored_runs.py: bitwise only where this machine computes as the recording one did (same CPU
capability, same torch and diffusers), else losses to a relative 1e-5. Tests of one run are in the order in which it lives.
"""

from __future__ import annotations

import copy
import hashlib
import importlib
import json
import pickletools
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.faults.local import LocalRuns
from tests.support import stored_runs
from tests.support.source_copy import environment
from tests.support.stored_runs import assert_same_numbers, old_code, unpack, without_code_copy

STOPPED_AT = {"finetune": 17, "dmd2": 9}


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalRuns]:
    """The stored runs, each with the copy of the code that it was recorded by."""
    local = _unpacked(tmp_path_factory.mktemp("stored"))
    yield local
    local.call("cancel", "chain", check=False)  # it waits at its gate where its test has failed


@pytest.fixture(scope="module")
def copyless(tmp_path_factory: pytest.TempPathFactory) -> LocalRuns:
    """The stored runs without a copy of code, as `submit --no-snapshot` makes them: today's code runs them."""
    local = _unpacked(tmp_path_factory.mktemp("copyless"))
    for stage in stored_runs.STAGES:
        without_code_copy(local.runs / stage)
    return local


def _unpacked(folder: Path) -> LocalRuns:
    local = LocalRuns(folder)
    unpack(folder)
    return local


def test_every_name_of_ours_in_a_stored_job_is_still_there(stored: LocalRuns) -> None:
    """A job's pickle names a function of ours, and checkpoints name nothing of ours: only torch's own types."""
    names = {name for path in stored.runs.glob("**/job/*/*.pkl") for name in _names(path)}
    ours = {(module, name) for module, name in names if module.split(".")[0] in ("fvlaunch", "trainers")}
    assert ours == {("fvlaunch.agent.main", "run_agent")}
    for module, name in ours:
        function = getattr(importlib.import_module(module), name)
        assert (function.__module__, function.__qualname__) == (module, name)  # so that a new pickle is found by old code too
    indices = list(stored.runs.glob("**/checkpoints/*/.metadata"))
    assert len(indices) == 3
    assert not any(word in path.read_bytes() for path in indices for word in (b"fvlaunch", b"trainers"))


def _names(pickled: Path) -> set[tuple[str, str]]:
    """(module, name) of all that a pickle imports; cloudpickle writes them as two strings and STACK_GLOBAL."""
    found, strings = set(), [""]
    for code, argument, _ in pickletools.genops(pickled.read_bytes()):
        if code.name == "STACK_GLOBAL":
            found.add((strings[-2], strings[-1]))
        if isinstance(argument, str):
            strings.append(argument)
    return found


def test_stored_runs_are_listed_with_their_attempts_and_causes(stored: LocalRuns) -> None:
    whole = {one["run"]: one for one in json.loads(stored.call("status", *STOPPED_AT, "chain", "--json").stdout)}
    assert {name: (one["state"], one["step"]) for name, one in whole.items() if name in STOPPED_AT} == {
        name: ("stopped", step) for name, step in STOPPED_AT.items()
    }
    assert stored.status("finetune")["last_checkpoint_step"] == 17
    assert [a["cause"] for a in stored.attempts("finetune")] == ["stopped", "crash", "stopped"]
    crash = stored.attempts("finetune")[1]["failure"]
    assert (crash["rank"], crash["node"], crash["step"], crash["what"]) == (1, "recorder", 12, "killed by SIGKILL")
    assert [stage["state"] for stage in stored.status("chain")["stages"]] == ["stopped", "stopped"]


def test_logs_and_digests_of_stored_runs_are_read(stored: LocalRuns) -> None:
    assert "Connection reset by peer" in stored.call("logs", "finetune", "--attempt", "2").stdout
    assert "resumed from step 9" in stored.call("logs", "finetune").stdout
    for name in (*STOPPED_AT, "chain/first"):
        stored.call("verify", name)


@pytest.mark.parametrize("name", ["finetune", "dmd2"])
@pytest.mark.long
def test_weights_of_a_stored_run_are_exported_as_the_old_code_did(stored: LocalRuns, name: str) -> None:
    stored.call("export", name, "--weights", "ema", "--to", f"exported-{name}")
    arguments = [str(stored.runs / name), "--weights", "ema", "--to", f"exported-{name}-before"]
    subprocess.run(
        [sys.executable, "-m", "trainers.export", *arguments], cwd=stored.folder, env=environment(old_code(stored.folder), stored.env),
        capture_output=True, timeout=200, check=True,
    )  # fmt: skip
    now, before = ({p.name: _digest(p) for p in (stored.folder / f"exported-{name}{e}").rglob("*.safetensors")} for e in ("", "-before"))
    assert now and now == before


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.long
def test_a_fork_of_a_stored_run_trains_on_with_todays_code(stored: LocalRuns) -> None:
    stored.call("fork", "finetune", "--step", "17", "--name", "forked", "--wait")
    assert_same_numbers(stored.folder, stored.runs / "forked", "finetune")


@pytest.mark.parametrize("name", ["finetune", pytest.param("dmd2", marks=pytest.mark.long)])
def test_a_stored_run_resumes_with_its_own_copy_of_the_old_code(stored: LocalRuns, name: str) -> None:
    stored.call("resume", name, "--wait")
    assert_same_numbers(stored.folder, stored.runs / name, name)
    assert stored.attempts(name)[-1]["step_from"] == STOPPED_AT[name]


@pytest.mark.parametrize("name", sorted(STOPPED_AT))
def test_a_stored_run_resumes_with_todays_code(copyless: LocalRuns, name: str) -> None:
    copyless.call("resume", name, "--wait")
    assert_same_numbers(copyless.folder, copyless.runs / name, name)
    assert copyless.attempts(name)[-1]["step_from"] == STOPPED_AT[name]


def test_a_stored_pipeline_goes_on_by_todays_code(copyless: LocalRuns) -> None:
    copyless.call("resume", "chain", "--wait")
    _assert_pipeline_ended(copyless)


@pytest.mark.long
def test_a_pipeline_that_old_processes_are_running_is_steered_and_goes_on(stored: LocalRuns) -> None:
    """Driver, agent and ranks were started by the old version's launcher and run its code; all else that is done is today's."""
    gate, old = stored.folder / "gate", copy.copy(stored)
    allow(gate, 9)
    old.env = environment(old_code(stored.folder), stored.env)
    old.call("resume", "chain")
    assert b"fvlaunch.pipeline_submit" in Path(f"/proc/{_driver_pid(stored)}/cmdline").read_bytes()  # the old version's name of it
    stored.until(lambda: _heartbeat(stored, "chain/first") == (2, 9), "the second attempt waits at the gate before step 10")
    assert [stage["state"] for stage in stored.status("chain")["stages"]] == ["running", "queued"]
    refused = stored.call("resume", "chain", check=False)
    assert refused.returncode == 1 and "chain is not over" in refused.stderr
    stored.call("stop", "chain")
    stored.until(lambda: "fvlaunch stop" in (stored.runs / "chain/first/attempts/0002.jsonl").read_text(), "the old agent has heard it")
    allow(gate, 10)
    assert stored.call("wait", "chain", check=False).returncode == 1
    assert [stage["state"] for stage in stored.status("chain")["stages"]] == ["stopped", "stopped"]
    assert stored.status("chain/first")["step"] == 10
    gate.unlink()
    stored.call("resume", "chain", "--wait")
    _assert_pipeline_ended(stored)


def allow(gate: Path, step: int) -> None:
    """Let the ranks go up to a step. By rename: they read the file all the time, and must never find it empty."""
    written = gate.with_suffix(".new")
    written.write_text(str(step))
    written.replace(gate)


def _driver_pid(local: LocalRuns) -> int:
    return int(json.loads((local.runs / "chain/pipeline.json").read_text())["driver"].split("-")[1])


def _heartbeat(local: LocalRuns, name: str) -> tuple[int, int]:
    """Attempt and step, as the agent told them last."""
    found = json.loads((local.runs / name / "heartbeat.json").read_text())
    return found["attempt"], found["count"]


def _assert_pipeline_ended(local: LocalRuns) -> None:
    assert [stage["state"] for stage in local.status("chain")["stages"]] == ["finished", "finished"]
    for stage in ("chain/first", "chain/second"):
        assert_same_numbers(local.folder, local.runs / stage, stage)
