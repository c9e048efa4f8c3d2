"""Local runs through the command line, with the real agent, real ranks and real kills: each ends as if nothing had happened.

Each test has a run of its own, which waits at a gate until the test has done what it does. The big counts are in test_local_runs_long.py.
"""

from __future__ import annotations

import json
import random
import re
import shutil
import signal
from pathlib import Path

import pytest

from tests.integration.faults.local import (
    EVERY,
    STEPS,
    LocalRuns,
    Terminal,
    condemned,
    flip_a_byte,
    folder,
    kill,
    last_step,
    saved_steps,
    steps_lost,
)
from tests.integration.faults.storms import AHEAD, storm
from tests.support.launcher import losses, metrics
from tests.support.rows import Figures, fault

SEED = 20
SHORT = 2 * EVERY
"""Steps of the run that is copied and damaged."""


@pytest.fixture(scope="module")
def trained(local: LocalRuns) -> Path:
    """A finished run on one rank, with two checkpoints. The tests work on copies of it."""
    run = local.submit("trained", "--ranks", "1", "--set", f"train.max_steps={SHORT}")
    local.over("trained", "finished")
    assert saved_steps(run) == [EVERY, SHORT]
    return run


def copied(local: LocalRuns, trained: Path, name: str) -> Path:
    return Path(shutil.copytree(trained, local.runs / name))


@fault("28", "SIGKILL to the agent of a local run")
def test_closing_the_terminal_and_killing_the_agent_lose_nothing(local: LocalRuns, figure: Figures) -> None:
    terminal = Terminal(local, "submit", "gated", "--cluster", "here", "--name", "chain", "--ranks", "1", "--wait")
    local.until(lambda: terminal.shows("chain") and (local.runs / "chain").exists(), "the terminal shows the run")
    local.gate("chain").reach(3)
    terminal.close()
    assert terminal.process.wait(timeout=240) != 0
    local.gate("chain").reach(12)
    kill(local.agent_pid("chain"))
    local.is_gone("chain")
    local.until(lambda: local.status("chain")["state"] == "lost", "the run is known to be lost")
    status = local.status("chain")
    assert "fvlaunch resume chain" in status["reason"], status
    assert local.call("wait", "chain", check=False).returncode == 1
    figure.count("no rank left, shown as lost", 1, 1)


def test_sigterm_to_the_agent_saves_and_stops(local: LocalRuns) -> None:
    local.submit("signalled", "--ranks", "1", recipe="gated")
    local.gate("signalled").reach(15)
    kill(local.agent_pid("signalled"), signum=signal.SIGTERM)
    status = local.over("signalled", "stopped")
    assert "signal" in status["reason"] or "told" in status["reason"], status
    assert status["last_checkpoint_step"] == status["step"] == last_step(local.runs / "signalled") == 16


@fault("2", "a bit of a local run's newest checkpoint flipped")
def test_a_flipped_byte_costs_one_checkpoint_and_not_the_run(local: LocalRuns, trained: Path, figure: Figures) -> None:
    run = copied(local, trained, "flipped")
    flip_a_byte(folder(run, SHORT), random.Random(SEED))
    former = (run / "run.yaml").read_text()
    local.call("resume", "flipped", "--set", "train.max_steps=40")
    assert (run / f"run.{local.record('flipped')['generation'] - 1:04d}.yaml").read_text() == former != (run / "run.yaml").read_text()
    status = local.over("flipped", "finished")
    assert condemned(run) == [f"step-{SHORT:08d}.bad"]
    assert "is damaged" in local.log("flipped", 2)
    assert local.attempts("flipped")[-1]["step_from"] == EVERY
    assert (status["step"], status["last_checkpoint_step"]) == (40, 40)
    assert [line["step"] for line in metrics(run)] == list(range(1, 41))
    figure.count("found, the older one used", 1, 1)


@fault("31", "num_layers changed in run.yaml")
def test_a_changed_model_at_resume_ends_with_the_mismatched_keys(local: LocalRuns, trained: Path, figure: Figures) -> None:
    changed = copied(local, trained, "changed")
    text = (changed / "run.yaml").read_text()
    (changed / "run.yaml").write_text(re.sub(r"num_layers: 1\b", "num_layers: 2", text))
    assert (changed / "run.yaml").read_text() != text
    local.call("resume", "changed", "--set", f"train.max_steps={STEPS}")
    status = local.over("changed", "failed")
    assert "blocks.1." in status["reason"], status["reason"]
    assert local.attempts("changed")[-1]["cause"] == "no_restart"
    assert condemned(changed) == [] and saved_steps(changed) == saved_steps(trained)
    assert losses(changed) == losses(trained)
    figure.count("told by its keys, nothing condemned", 1, 1)


@fault("2", "a bit of each checkpoint of a local run flipped")
def test_a_run_whose_checkpoints_are_all_damaged_never_starts_again_silently(local: LocalRuns, trained: Path, figure: Figures) -> None:
    broken = copied(local, trained, "broken")
    for step in saved_steps(broken):
        flip_a_byte(folder(broken, step), random.Random(step))
    local.call("resume", "broken", "--set", f"train.max_steps={STEPS}")
    status = local.over("broken", "failed")
    assert "none verifies" in status["reason"], status["reason"]
    assert local.attempts("broken")[-1]["cause"] == "no_restart"
    assert condemned(broken) == [f"step-{step:08d}.bad" for step in (EVERY, SHORT)]
    assert saved_steps(broken) == []
    assert losses(broken) == losses(trained)
    figure.count("found, ended with the reason", 1, 1)


@fault("1", "one run: its agent killed, signalled, its checkpoint damaged, stopped, trained on")
@pytest.mark.long
def test_a_run_that_is_killed_signalled_damaged_stopped_and_trained_on_ends_bitwise(local: LocalRuns, figure: Figures) -> None:
    run, gate = local.submit("hard", "--ranks", "1", "--set", "train.max_steps=40", recipe="gated"), local.gate("hard")
    gate.reach(12)
    kill(local.agent_pid("hard"))
    local.is_gone("hard")
    local.until(lambda: local.status("hard")["state"] == "lost", "the run is known to be lost")
    local.call("resume", "hard")
    gate.reach(15, attempt=2)
    kill(local.agent_pid("hard"), signum=signal.SIGTERM)
    local.over("hard", "stopped")
    flip_a_byte(folder(run, saved_steps(run)[-1]), random.Random(SEED))
    gate.open()
    local.call("resume", "hard")
    local.over("hard", "finished")
    refused = local.call("resume", "hard", check=False)
    assert refused.returncode == 1 and "finished at step 40" in refused.stderr
    gate.let(42)
    local.call("resume", "hard", "--set", f"train.max_steps={STEPS}")
    gate.waits(42, attempt=4)
    local.call("stop", "hard")
    status = local.over("hard", "stopped")
    assert status["last_checkpoint_step"] == status["step"] == 43
    gate.open()
    local.call("resume", "hard")
    local.ended_as("hard", local.undisturbed("alone", "--ranks", "1"))
    assert [a["cause"] for a in local.attempts("hard")] == ["interrupted", "stopped", "finished", "stopped", "finished"]
    figure.count("bitwise", 5, 5)


@fault("11", "an exception at step 4 of each attempt")
def test_the_same_crash_at_each_start_ends_the_run_and_names_it(local: LocalRuns, figure: Figures) -> None:
    local.submit("boom", "--ranks", "1", "--set", "train.method.raise_at=4", recipe="gated")
    local.gate("boom").open()
    status = local.over("boom", "failed")
    attempts = local.attempts("boom")
    assert [a["cause"] for a in attempts] == ["crash"] * 4  # the first one still got to new steps
    told = local.call("status", "boom").stdout
    for words in ("3 starts in a row failed without a new step", "rank 0 on ", "at step 3", "ValueError: boom at iteration 4"):
        assert words in status["reason"] and words in told, (words, told)
    assert "Traceback" in status["reason"] or "raise ValueError" in status["reason"], status["reason"]
    figure.most("starts without a new step", len(attempts) - 1, 3)


def test_a_command_line_returns_before_its_run_ends_and_detaches_at_ctrl_c(local: LocalRuns) -> None:
    words = ("submit", "gated", "--cluster", "here", "--name", "seen", "--ranks", "1", "--json")
    printed = json.loads(local.call(*words).stdout)  # as $(…) reads it
    assert (printed["run"], printed["state"]) == ("seen", "running")
    looking = Terminal(local, "attach", "seen")
    local.until(lambda: looking.shows("seen"), "the run is shown")
    looking.type("\x03")
    local.until(lambda: looking.shows("detached") or looking.process.poll() is not None, "attach ends")
    assert looking.process.wait(timeout=240) == 130, looking.shown[-2000:]
    looking.close()
    local.gate("seen").reach(1)  # it goes on
    local.call("cancel", "seen")


@fault("1", "SIGKILL to one of two ranks at random, also while saving")
def test_five_random_kills_of_a_rank_end_bitwise(local: LocalRuns, reference: Path, figure: Figures) -> None:
    """On two ranks, one kill while a checkpoint is written."""
    local.submit("storm", recipe="gated")
    victims = storm(local, "storm", random.Random(SEED), kills=5, ranks=2, during_save={2})
    local.ended_as("storm", reference)
    *killed, last = local.attempts("storm")
    assert ([a["cause"] for a in killed], last["cause"]) == (["crash"] * 5, "finished")
    assert [(a["failure"]["rank"], a["failure"]["what"]) for a in killed] == [(v, "killed by SIGKILL") for v in victims]
    figure.count("bitwise", 5, 5)
    figure.most("steps lost", steps_lost([*killed, last]), EVERY + AHEAD)
