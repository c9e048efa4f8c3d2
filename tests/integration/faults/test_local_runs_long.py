"""The big counts and the rarer faults of local runs: `tests/run --long`."""

from __future__ import annotations

import itertools
import json
import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.integration.faults.local import EVERY, STEPS, LocalRuns, condemned, kill, steps_lost
from tests.integration.faults.storms import AHEAD, storm
from tests.support.launcher import losses, metrics, rank_pids
from tests.support.rows import Figures, fault

pytestmark = [pytest.mark.long, pytest.mark.timeout(1200)]

DIFFERENCE = """
import sys, tempfile
import torch
from torch.distributed.checkpoint.format_utils import dcp_to_torch_save

def tensors(value, path=""):
    if isinstance(value, torch.Tensor):
        yield path, value
    elif isinstance(value, (dict, list, tuple)):
        for key, item in value.items() if isinstance(value, dict) else enumerate(value):
            yield from tensors(item, f"{path}.{key}")

def read(folder):
    with tempfile.NamedTemporaryFile() as file:
        dcp_to_torch_save(folder, file.name)
        return dict(tensors(torch.load(file.name, weights_only=True)))

one, two = map(read, sys.argv[1:])
assert one.keys() == two.keys()
for part in ("roles", "callbacks.ema"):
    names = [name for name in one if name.startswith("." + part) and one[name].is_floating_point()]
    assert names, part
    print(max(((one[n] - two[n]).norm() / one[n].norm().clamp(min=1e-12)).item() for n in names))
"""


@pytest.fixture(scope="module")
def alone(local: LocalRuns) -> Path:
    """An undisturbed run on one rank."""
    return local.undisturbed("alone-long", "--ranks", "1")


@fault("1", "SIGKILL to one of two ranks at random, also while saving")
@pytest.mark.parametrize("seed", range(20))
def test_ten_kills_of_a_rank_end_bitwise(local: LocalRuns, reference: Path, figure: Figures, seed: int) -> None:
    dice, name = random.Random(seed), f"storm-{seed}"
    local.submit(name, recipe="gated")
    storm(local, name, dice, kills=10, ranks=2, during_save={3, 7})
    local.ended_as(name, reference)
    assert [a["cause"] for a in local.attempts(name)] == ["crash"] * 10 + ["finished"]
    figure.count("bitwise", 10, 10)
    figure.most("steps lost", steps_lost(local.attempts(name)), EVERY + AHEAD)


@fault("9", "SIGSTOP to a rank")
def test_a_frozen_rank_is_found_and_named_and_the_run_ends_bitwise(local: LocalRuns, reference: Path, figure: Figures) -> None:
    hung = random.Random(9).randrange(2)
    method = ("--set", "train.method.pace_s=0.05", "--set", f"train.method.freeze={{rank: {hung}, step: 26}}")  # once steps have been timed
    local.submit("frozen", *method, recipe="gated", cluster="strict")
    local.gate("frozen").open()
    local.ended_as("frozen", reference)
    frozen, last = local.attempts("frozen")
    assert (frozen["cause"], last["cause"]) == ("hang", "finished")
    assert frozen["failure"]["rank"] == hung, frozen
    assert "stopped by a signal" in local.log("frozen", 1, hung)
    assert "most recent call first" in local.log("frozen", 1, 1 - hung)  # the stacks of the one that waited
    figure.count("found, named, bitwise", 1, 1)


@fault("1", "SIGKILL to all ranks at once; SIGTERM to one rank")
def test_all_ranks_killed_and_a_rank_told_to_end_go_on_by_themselves(local: LocalRuns, reference: Path, figure: Figures) -> None:
    local.submit("odds", recipe="gated")
    gate = local.gate("odds")
    gate.reach(12, ranks=2)
    kill(local.rank_pids("odds", 2)[1], signum=signal.SIGTERM)  # by somebody who is not the agent: saved, and no reason to end
    gate.waits(attempt=2, ranks=2)
    gate.reach(25, attempt=2, ranks=2)
    kill(*local.rank_pids("odds", 2).values())
    gate.open()
    local.ended_as("odds", reference)
    first, second, last = local.attempts("odds")
    assert (first["cause"], second["cause"], last["cause"]) == ("requeued", "crash", "finished")
    assert second["step_from"] == first["step_to"]  # not a step was lost
    figure.count("bitwise", 2, 2)


@fault("28", "SIGKILL to the process that holds a local job")
def test_the_death_of_a_jobs_controller_ends_its_agent(local: LocalRuns, alone: Path, figure: Figures) -> None:
    local.submit("uncontrolled", "--ranks", "1", recipe="gated")
    local.gate("uncontrolled").reach(13)
    agent = local.agent_pid("uncontrolled")
    kill(local.controller_pid("uncontrolled"))
    local.is_gone("uncontrolled")
    local.until(lambda: not alive(agent), "the agent ends")
    assert local.status("uncontrolled")["state"] == "lost"
    local.gate("uncontrolled").open()
    local.call("resume", "uncontrolled")
    local.ended_as("uncontrolled", alone)
    figure.count("no rank left, resumed bitwise", 1, 1)


@fault("12", "4 -> 2 -> 4 ranks")
def test_the_same_numbers_at_another_number_of_ranks(local: LocalRuns, figure: Figures) -> None:
    """Four ranks, then two, then four: the same samples and noise; sums are rounded in another order."""
    small = ("--ranks", "4", "--set", "train.data.micro_batch_size=2")
    whole, run = local.undisturbed("four", *small), local.submit("worlds", *small, "--set", "train.max_steps=20")
    local.over("worlds", "finished")
    for ranks, steps in ((2, 40), (4, STEPS)):
        local.call("resume", "worlds", "--ranks", str(ranks), "--set", f"train.max_steps={steps}")
        local.over("worlds", "finished")
    expected, found = losses(whole), losses(run)
    assert [step for step, _ in found] == [step for step, _ in expected]
    assert found[:20] == expected[:20]
    assert [loss for _, loss in found] == pytest.approx([loss for _, loss in expected], rel=1e-6)
    command = [sys.executable, "-W", "ignore", "-c", DIFFERENCE, *(str(r / "checkpoints" / f"step-{STEPS:08d}") for r in (whole, run))]
    weights, ema = map(float, subprocess.run(command, capture_output=True, text=True, check=True).stdout.split())
    figure.most("relative difference of the weights", max(weights, ema), 1e-5)


@fault("29", "SIGSTOP to a local run, --assume-dead, SIGCONT after its successor got on")
@fault("18", "resume of a run whose processes are stopped: refused until --assume-dead")
def test_an_attempt_that_wakes_up_late_changes_nothing(local: LocalRuns, alone: Path, figure: Figures) -> None:
    run, gate = local.submit("stale", "--ranks", "1", recipe="gated"), local.gate("stale")
    gate.reach(14)
    old = [local.agent_pid("stale"), *local.rank_pids("stale", 1).values()]
    kill(*old, signum=signal.SIGSTOP)
    job = local.record("stale")["job_id"]
    refused = local.call("resume", "stale", check=False)
    assert refused.returncode == 1 and job in refused.stderr
    local.call("resume", "stale", "--assume-dead", job)
    gate.reach(22, attempt=2)
    kill(*old, signum=signal.SIGCONT)
    local.until(lambda: not any(alive(pid) for pid in old), "the old attempt ends")
    assert local.status("stale")["state"] == "running"
    gate.open()
    local.ended_as("stale", alone)
    assert {line["attempt"] for line in metrics(run)} == {1, 2}
    assert [line["attempt"] for line in metrics(run)] == sorted(line["attempt"] for line in metrics(run))
    assert condemned(run) == []
    assert not [p.name for p in (run / "checkpoints").iterdir() if p.name.startswith(".")]
    figure.count("refused, then bitwise", 1, 1)


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


STAGES = ("submitted", "loading", "stepping", "saving")


@fault("30", "stop, stop and cancel, cancel; each then resumed; at submission, loading, stepping, saving")
@pytest.mark.parametrize("stage", STAGES)
def test_the_last_intent_wins_at_each_stage(local: LocalRuns, alone: Path, figure: Figures, stage: str) -> None:
    """Stopped; stopped and then cancelled; cancelled: each time at the same stage and then resumed, at last to the end."""
    name, right = f"intent-{stage}", 0
    run = local.submit(name, "--ranks", "1", recipe="gated")
    for attempt, wanted in enumerate((["stop"], ["stop", "cancel"], ["cancel"]), 1):
        reached(local, name, stage, attempt)
        accepted = [want for want in wanted if local.call(want, name, check=False).returncode == 0]
        assert accepted[0] == wanted[0]  # the second one may come when the run has stopped already, and is refused then
        state = {"stop": "stopped", "cancel": "cancelled"}[accepted[-1]]
        local.over(name, state)
        local.is_gone(name)
        local.until(lambda: not alive(local.controller_pid(name)), "nobody is left who could start an attempt")
        assert (local.status(name)["state"], rank_pids(run)) == (state, {})
        right += 1
        local.gate(name).let_saves()
        local.call("resume", name)
    local.gate(name).open()
    local.ended_as(name, alone)
    figure.count("the last word counted", right, 3)


def reached(local: LocalRuns, name: str, stage: str, attempt: int) -> None:
    """Wait until the attempt is at the stage, at a gate of which it stays."""
    gate = local.gate(name)
    if stage == "loading":
        local.until(lambda: rank_pids(gate.run), f"{name}: attempt {attempt} has a rank")
    elif stage == "stepping":
        gate.reach(gate.waits(attempt=attempt) + 3, attempt=attempt)
    elif stage == "saving":
        gate.hold_saves()
        step = gate.waits(attempt=attempt)
        gate.let(step - step % EVERY + EVERY)
        gate.save_waits(attempt=attempt)


@fault("10", "a learning rate of 1e30 with on_nonfinite: stop")
def test_a_loss_that_is_not_finite_ends_the_run_at_once_where_it_shall(local: LocalRuns, figure: Figures) -> None:
    changes = ["train.on_nonfinite=stop", "train.optimizers.student.lr=1.0e+30", "train.callbacks.grad_clip=null"]
    local.submit("exploding", "--ranks", "1", *itertools.chain.from_iterable(("--set", change) for change in changes))
    status = local.over("exploding", "failed")
    [attempt] = local.attempts("exploding")
    assert attempt["cause"] == "no_restart" and "not finite" in status["reason"]
    assert json.loads((local.runs / "exploding" / "run.json").read_text())["state"] == "failed"
    figure.most("attempts", len(local.attempts("exploding")), 1)
