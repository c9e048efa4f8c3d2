"""Promises of whole runs on disks that refuse: no rank ends, losses stay bitwise, and metrics.jsonl has every step once afterwards."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.paths import ROOT
from tests.support.rows import fault
from tests.support.small_disk import SmallDisk, small_disk
from tests.support.trainers.trainer_ranks import losses, metrics, tiny
from trainers.training.metrics_file import CARRIED

STEPS = 12
OWN_METHOD = f'''
"""Trains as finetune does, and does something to a disk or to itself before steps, on rank 0: {{step: what}}."""
import os
import sys
from pathlib import Path

sys.path.insert(0, {str(ROOT)!r})
from tests.support.disk import fill
from trainers.methods.finetune import FineTuneMethod


class Harmed(FineTuneMethod):
    def __init__(self, cfg, role_models):
        self.own = cfg.method.model_extra
        known = {{"weighting_scheme": "uniform", "precondition_outputs": False}}
        super().__init__(cfg.model_copy(update={{"method": cfg.method.model_copy(update=known)}}), role_models)

    def single_train_step(self, batch, iteration):
        what, place = self.own["harm"].get(str(iteration)), Path(self.own["place"])
        if what and os.environ["RANK"] == "0" and os.environ["TRAINER_ATTEMPT"] == "1":
            print("step", iteration, what)
            if what == "fill":
                fill(place)
            elif what == "empty":
                place.unlink()
            elif what == "kill":
                os.kill(os.getpid(), 9)
            del self.own["harm"][str(iteration)]
        return super().single_train_step(batch, iteration)
'''


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("own") / "harmed.py"
    path.write_text(OWN_METHOD)
    return str(path)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[SmallDisk]:
    with small_disk(tmp_path / "disk", kb=3000) as made:
        yield made


def config(data: Path, own: str, place: Path, harm: dict[int, str], **changes: Any) -> dict[str, Any]:
    method = {"kind": f"{own}:Harmed", "place": str(place), "harm": {str(step): what for step, what in harm.items()}}
    every = {"checkpoint__every_steps": 2, "failed_saves": 9, "tracking__tensorboard": True}
    return tiny(data, max_steps=STEPS, method=method, **every, **changes)


@pytest.fixture(scope="module")
def undisturbed(runs: Any, data: Path, own: str, tmp_path_factory: pytest.TempPathFactory) -> list[float]:
    folder = tmp_path_factory.mktemp("undisturbed")
    return losses(runs.finish(config(data, own, folder, {}), folder / "run", world=2))


def warnings(attempt: Any) -> list[str]:
    return [message["text"] for message in attempt.sent() if message["kind"] == "warning"]


@fault("3", "every record and checkpoint of a run on a full disk")
def test_a_run_outlives_a_full_disk_and_has_every_loss_afterwards(
    runs: Any, data: Path, own: str, undisturbed: list[float], disk: SmallDisk
) -> None:
    attempt = runs.start(config(data, own, disk.path / "filler", {3: "fill", 9: "empty"}), disk.path / "run", world=2)
    assert attempt.join() == [0, 0]
    run = disk.path / "run"
    assert losses(run) == undisturbed
    assert [line["step"] for line in metrics(run)] == list(range(1, STEPS + 1))
    assert "the checkpoint of step 4 failed (" in attempt.log()
    saved = sorted(path.name for path in (run / "checkpoints").iterdir())
    assert saved[-2:] == ["step-00000010", "step-00000012"] and not [name for name in saved if name.startswith(".")]
    assert "Traceback" not in attempt.log() and "Traceback" not in attempt.log(1)


@fault("3", "kill -9 while metrics.jsonl cannot be written and checkpoints can")
def test_kill_9_loses_no_line_that_a_checkpoint_carries(runs: Any, data: Path, own: str, undisturbed: list[float], tmp_path: Path) -> None:
    run = tmp_path / "run"
    (run / "metrics.jsonl").mkdir(parents=True)
    harmed = config(data, own, tmp_path, {8: "kill"})
    attempt = runs.start(harmed, run, world=2)
    assert attempt.join()[0] == -signal.SIGKILL
    assert [text.split(":")[0] for text in warnings(attempt)] == ["metrics.jsonl cannot be written"]
    newest = sorted((run / "checkpoints").glob("step-*"))[-1]
    assert (newest / CARRIED).exists()
    (run / "metrics.jsonl").rmdir()
    runs.finish(harmed, run, world=2, attempt=2)
    assert losses(run) == undisturbed
    assert [line["step"] for line in metrics(run)] == list(range(1, STEPS + 1))


def test_a_run_that_ends_without_its_losses_says_so_and_the_next_start_writes_them(
    runs: Any, data: Path, own: str, undisturbed: list[float], tmp_path: Path
) -> None:
    run = tmp_path / "run"
    (run / "metrics.jsonl").mkdir(parents=True)
    attempt = runs.start(config(data, own, tmp_path, {}), run, world=2)
    assert attempt.join() == [0, 0]
    told = warnings(attempt)
    assert any("lacks steps 1 to 12" in text for text in told) and f"the checkpoint of step {STEPS} carries" in told[-1]
    (run / "metrics.jsonl").rmdir()
    runs.finish(config(data, own, tmp_path, {}), run, world=2, attempt=2)
    assert losses(run) == undisturbed
