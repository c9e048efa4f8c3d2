"""Ranks that hang in their own code: found by the heartbeat, named, their stacks saved before they are killed, and the run goes on."""

from __future__ import annotations

import pytest

from tests.integration.faults.local import EVERY, LocalRuns, steps_lost
from tests.support.rows import Figures, fault

pytestmark = [pytest.mark.long, pytest.mark.timeout(600)]

STUCK = '''
"""Finetuning that hangs once, in the first attempt, on rank 1: as a user's own file might."""
import os
import pathlib
import threading
import time

from trainers.methods.finetune import FineTuneMethod


def wait_for_ever(how):
    pathlib.Path("hangs").touch()
    if how == "lock":
        lock = threading.Lock()
        lock.acquire()
        lock.acquire()
    time.sleep(1000)


class Stuck(FineTuneMethod):
    def __init__(self, cfg, role_models):
        self.how = cfg.method.model_extra["how"]
        known = {"weighting_scheme": "uniform", "precondition_outputs": False}
        super().__init__(cfg.model_copy(update={"method": cfg.method.model_copy(update=known)}), role_models)

    def single_train_step(self, batch, iteration):
        time.sleep(0.11)  # so that each step is told
        if iteration == 25 and os.environ["TRAINER_ATTEMPT"] == "1" and os.environ["RANK"] == "1":
            wait_for_ever(self.how)
        return super().single_train_step(batch, iteration)
'''


@fault("9", "a rank sleeps, or waits for a lock, in the user's own method")
@pytest.mark.parametrize("how", ["sleep", "lock"])
def test_a_rank_that_hangs_in_its_own_code_is_named_with_the_line_it_hangs_in(local: LocalRuns, figure: Figures, how: str) -> None:
    local.write("stuck.py", STUCK)
    local.write("templates/recipes/stuck.yaml", {"extends": "tiny", "train": {"method": {"kind": "./stuck.py:Stuck", "how": how}}})
    local.submit(f"stuck-{how}", recipe="stuck", cluster="strict")
    local.over(f"stuck-{how}", "finished")
    first, last = local.attempts(f"stuck-{how}")
    failure = first["failure"]
    assert (first["cause"], failure["rank"]) == ("hang", 1)
    assert 15 <= failure["step"] <= 24  # the last that was heard of it
    assert failure["lines"][0].startswith("Current thread") and "in wait_for_ever" in failure["lines"][1]
    assert "in wait_for_ever" in local.log(f"stuck-{how}", 1, 1) and "most recent call first" in local.log(f"stuck-{how}", 1, 0)
    assert 0 <= first["step_to"] - last["step_from"] <= 10
    figure.count("found, named with its line, gone on", 1, 1)
    figure.most("steps lost", steps_lost([first, last]), EVERY)


@fault("39", "a rank of two sleeps at step 25, every limit as it is by default")
def test_a_hang_under_the_default_limits_is_found_in_two_minutes(local: LocalRuns, figure: Figures) -> None:
    local.write("stuck.py", STUCK)
    local.write("clusters/default.yaml", {"executor": "local", "paths": {"data": "data"}})
    local.write("templates/recipes/default.yaml", {"extends": "tiny", "train": {"method": {"kind": "./stuck.py:Stuck", "how": "sleep"}}})
    run = local.submit("default", recipe="default", cluster="default")
    local.over("default", "finished")
    first, last = local.attempts("default")
    assert (first["cause"], first["failure"]["rank"], last["cause"]) == ("hang", 1, "finished")
    assert "in wait_for_ever" in first["failure"]["lines"][1]
    figure.most("found, and its ranks ended, after", first["ended_at"] - (run / "hangs").stat().st_mtime, 150, "s")
    figure.most("steps lost", steps_lost([first, last]), EVERY)
