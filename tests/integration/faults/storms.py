"""Owns hitting ranks at random moments of a run: killed between and inside saves, or frozen. The dice are the test's."""

from __future__ import annotations

import random
import signal
import time
from pathlib import Path

from tests.integration.faults.local import STEPS, LocalRuns, kill, save_in_flight
from tests.support.launcher import metrics, rank_pids


def storm(
    local: LocalRuns,
    name: str,
    dice: random.Random,
    *,
    kills: int,
    ranks: int,
    during_save: set[int],
) -> list[int]:
    """Kill a random rank at random steps, an attempt each, later and later in the run; returns the ranks killed."""
    run = local.runs / name
    targets = sorted(dice.sample(range(2, STEPS - 4), kills))
    victims = []
    for number, target in enumerate(targets):
        attempt = number + 1
        local.reaches(name, target, attempt=attempt)
        pids = local.rank_pids(name, ranks)
        victim, pause = dice.randrange(ranks), dice.random() * 0.05
        if number in during_save:
            wait_for_a_save(local, run)
        time.sleep(pause)
        kill(pids[victim])
        victims.append(victim)
        print(f"{name}: attempt {attempt}, rank {victim} killed at about step {target}{', saving' if number in during_save else ''}")
    return victims


def wait_for_a_save(local: LocalRuns, run: Path, timeout_s: float = 60) -> None:
    deadline = time.monotonic() + timeout_s
    while not save_in_flight(run):
        assert time.monotonic() < deadline, local.told()
        time.sleep(0.002)


def freeze_a_rank(local: LocalRuns, name: str, dice: random.Random) -> int:
    """SIGSTOP a random rank of the first attempt between two saves, once its steps have been timed; returns it when it is killed."""
    run, victim = local.runs / name, dice.randrange(2)

    def timed() -> bool:
        steps = len(metrics(run))
        return steps > 20 and steps % 10 in (4, 5, 6) and len(rank_pids(run)) == 2

    local.until(timed, "steps have been timed")
    kill(rank_pids(run)[victim], signum=signal.SIGSTOP)
    frozen_at = time.monotonic()
    local.until(lambda: victim not in rank_pids(run), "the frozen rank is killed", 60)
    print(f"{name}: rank {victim} frozen, found and killed after {time.monotonic() - frozen_at:.1f} s")
    return victim
