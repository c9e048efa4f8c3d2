"""Local runs through the command line, with the real agent, real ranks and real kills: each ends as if nothing had happened.

The runs on one rank go first, beside each other; two ranks fill both cores. The big counts are in test_local_runs_long.py.
Tests of one run are in the order in which it lives.
"""

from __future__ import annotations

import json
import random
import re
import shutil
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.faults.conftest import Figure
from tests.integration.faults.local import STEPS, LocalRuns, Terminal, condemned, flip_a_byte, folder, kill, last_step, saved_steps
from tests.integration.faults.storms import storm
from tests.support.launcher import losses, metrics

SEED = 20


@pytest.fixture(scope="module")
def beside(local: LocalRuns) -> Iterator[None]:
    """Runs that need no attention, started before all others: undisturbed ones, and one that raises at each start."""
    local.submit("boom", "--ranks", "1", "--set", "train.method.raise_at=4", "--set", "train.method.pace_s=0", recipe="paced")
    local.submit("reference")
    yield
    for name in ("boom", "reference"):
        local.call("cancel", name, check=False)


def test_closing_the_terminal_and_killing_the_agent_lose_nothing(local: LocalRuns, beside: None, figure: Figure) -> None:
    terminal = Terminal(local, "submit", "paced", "--cluster", "here", "--name", "chain", "--ranks", "1", "--wait")
    local.until(lambda: terminal.shows("chain") and last_step(local.runs / "chain") >= 3, "the run steps, and the terminal shows it")
    terminal.close()
    assert terminal.process.wait(timeout=30) != 0
    local.reaches("chain", 12)
    kill(local.agent_pid("chain"))
    assert local.is_gone("chain", within_s=10)
    local.until(lambda: local.status("chain")["state"] == "lost", "the run is known to be lost", 20)
    status = local.status("chain")
    assert "fvlaunch resume chain" in status["reason"], status
    assert local.call("wait", "chain", check=False).returncode == 1
    figure("28", "local: agent killed, no rank left behind within 2 s, shown as lost", 1, 1)


def test_sigterm_to_the_agent_saves_and_stops(local: LocalRuns) -> None:
    local.call("resume", "chain")
    local.reaches("chain", 15, attempt=2)
    kill(local.agent_pid("chain"), signum=signal.SIGTERM)
    status = local.over("chain", "stopped")
    assert "signal" in status["reason"] or "told" in status["reason"], status
    assert status["last_checkpoint_step"] == status["step"] == last_step(local.runs / "chain")


def test_a_flipped_byte_costs_one_checkpoint_and_not_the_run(local: LocalRuns, figure: Figure) -> None:
    run, dice = local.runs / "chain", random.Random(SEED)
    *_, older, newest = saved_steps(run)
    flip_a_byte(folder(run, newest), dice)
    former = (run / "run.yaml").read_text()
    local.call("resume", "chain", "--set", "train.max_steps=40")
    assert (run / f"run.{local.record('chain')['generation'] - 1:04d}.yaml").read_text() == former != (run / "run.yaml").read_text()
    status = local.over("chain", "finished")
    assert condemned(run) == [f"step-{newest:08d}.bad"]
    assert "is damaged" in local.log("chain", 3)
    assert local.attempts("chain")[-1]["step_from"] == older
    assert (status["step"], status["last_checkpoint_step"]) == (40, 40)
    assert [line["step"] for line in metrics(run)] == list(range(1, 41))
    figure("2", "local: byte flipped in the newest checkpoint, the older one used", 1, 1)


@pytest.mark.long
def test_a_finished_run_trains_on_stops_and_resumes(local: LocalRuns, figure: Figure) -> None:
    refused = local.call("resume", "chain", check=False)
    assert refused.returncode == 1 and "finished at step 40" in refused.stderr
    local.call("resume", "chain", "--set", f"train.max_steps={STEPS}")
    local.reaches("chain", 42, attempt=4)
    local.call("stop", "chain")
    status = local.over("chain", "stopped")
    assert status["last_checkpoint_step"] == status["step"] < STEPS
    local.call("resume", "chain")
    local.ended_as("chain", local.undisturbed("alone", "--ranks", "1"))
    assert [a["cause"] for a in local.attempts("chain")] == ["interrupted", "stopped", "finished", "stopped", "finished"]
    figure("1", "local: agent killed, signalled, checkpoint damaged, stopped, trained on: bitwise", 1, 1)


@pytest.fixture(scope="module")
def doomed(local: LocalRuns) -> dict[str, Path]:
    """Copies of a finished run that cannot go on: one whose model was changed by hand, one whose checkpoints are all damaged."""
    changed, broken = (Path(shutil.copytree(local.runs / "chain", local.runs / name)) for name in ("changed", "broken"))
    text = (changed / "run.yaml").read_text()
    (changed / "run.yaml").write_text(re.sub(r"num_layers: 1\b", "num_layers: 2", text))
    assert (changed / "run.yaml").read_text() != text
    for step in saved_steps(broken):
        flip_a_byte(folder(broken, step), random.Random(step))
    for name in ("changed", "broken"):
        local.call("resume", name, "--set", f"train.max_steps={STEPS + 20}")
    return {"changed": changed, "broken": broken}


def test_a_changed_model_at_resume_ends_with_the_mismatched_keys(local: LocalRuns, doomed: dict[str, Path], figure: Figure) -> None:
    before = saved_steps(local.runs / "chain")
    status = local.over("changed", "failed")
    assert "blocks.1." in status["reason"], status["reason"]
    assert local.attempts("changed")[-1]["cause"] == "no_restart"
    assert condemned(doomed["changed"]) == condemned(local.runs / "chain")
    assert saved_steps(doomed["changed"]) == before
    assert losses(doomed["changed"]) == losses(local.runs / "chain")
    figure("31", "local: model changed at resume, told by its keys, nothing condemned", 1, 1)


def test_a_run_whose_checkpoints_are_all_damaged_never_starts_again_silently(
    local: LocalRuns, doomed: dict[str, Path], figure: Figure
) -> None:
    damaged = saved_steps(local.runs / "chain")
    status = local.over("broken", "failed")
    assert "none verifies" in status["reason"], status["reason"]
    assert local.attempts("broken")[-1]["cause"] == "no_restart"
    assert set(condemned(doomed["broken"])) >= {f"step-{step:08d}.bad" for step in damaged}
    assert saved_steps(doomed["broken"]) == []
    assert losses(doomed["broken"]) == losses(local.runs / "chain")
    figure("2", "local: all checkpoints damaged, ended with the reason", 1, 1)


def test_the_same_crash_at_each_start_ends_the_run_and_names_it(local: LocalRuns, beside: None, figure: Figure) -> None:
    status = local.over("boom", "failed")
    attempts = local.attempts("boom")
    assert [a["cause"] for a in attempts] == ["crash"] * 4  # the first one still got to new steps
    told = local.call("status", "boom").stdout
    for words in ("3 starts in a row failed without a new step", "rank 0 on ", "at step 3", "ValueError: boom at iteration 4"):
        assert words in status["reason"] and words in told, (words, told)
    assert "Traceback" in status["reason"] or "raise ValueError" in status["reason"], status["reason"]
    figure("11", "local: the same crash at each start, ended after 3 without a new step", 1, 1)


def test_five_random_kills_of_a_rank_end_bitwise(local: LocalRuns, reference: Path, figure: Figure) -> None:
    """On two ranks, one kill while a checkpoint is written; a person looks on for a while."""
    dice, run = random.Random(SEED), local.runs / "storm"
    submitted_at = time.monotonic()
    printed = json.loads(local.call("submit", "tiny", "--cluster", "here", "--name", "storm", "--json").stdout)  # as $(…) reads it
    assert time.monotonic() - submitted_at < 20 and last_step(run) == 0
    assert (printed["run"], printed["state"]) == ("storm", "running")
    looking = Terminal(local, "attach", "storm")
    local.until(lambda: looking.shows("storm"), "the run is shown")
    looking.type("\x03")
    local.until(lambda: looking.shows("detached") or looking.process.poll() is not None, "attach ends", 30)
    assert looking.process.wait(timeout=30) == 130, looking.shown[-2000:]
    looking.close()
    victims = storm(local, "storm", dice, kills=5, ranks=2, during_save={2})
    local.ended_as("storm", reference)
    *killed, last = local.attempts("storm")
    assert ([a["cause"] for a in killed], last["cause"]) == (["crash"] * 5, "finished")
    assert [(a["failure"]["rank"], a["failure"]["what"]) for a in killed] == [(v, "killed by SIGKILL") for v in victims]
    figure("1", "local: one of two ranks killed at random, bitwise", 5, 5)
