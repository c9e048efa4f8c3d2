"""Owns hitting ranks at random moments of a run: killed between and inside saves. The dice are the test's, the run waits at its gate."""

from __future__ import annotations

import random
import time

from tests.integration.faults.local import EVERY, STEPS, LocalRuns, kill, until_saved

AHEAD = 3
"""Steps that a run may make while a rank of it is killed: at most so many more than the interval are lost where a save is in flight."""


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
    gate = local.gate(name)
    targets = sorted(dice.sample(range(2, STEPS - AHEAD - 1), kills))
    victims = []
    for number, target in enumerate(targets):
        step = gate.reach(target, attempt=number + 1, ranks=ranks)
        until_saved(local, name, step)
        pids = local.rank_pids(name, ranks)
        victim, pause = dice.randrange(ranks), dice.random() * 0.05
        if number in during_save:
            gate.hold_saves()
            gate.let(step - step % EVERY + EVERY)
            gate.save_waits(attempt=number + 1)
        else:
            gate.let(target + AHEAD)
            time.sleep(pause)  # in a step, between two, in a save that is just due
        kill(pids[victim])
        gate.let_saves()
        victims.append(victim)
        print(f"{name}: attempt {number + 1}, rank {victim} killed at about step {target}{', saving' if number in during_save else ''}")
    gate.open()
    return victims
