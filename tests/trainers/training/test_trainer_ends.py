"""Promises of how a rank ends: exit codes, what it tells its launcher, and what is on the disk by then."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.support.rows import fault
from tests.support.trainers.trainer_ranks import ARCHITECTURE, losses, metrics, read, tiny

OWN_METHODS = '''
"""Methods that go wrong, as a user's own file."""
import errno
import os

from trainers.checkpointing import store
from trainers.methods.finetune import FineTuneMethod


class Own(FineTuneMethod):
    def __init__(self, cfg, role_models):
        known = {"weighting_scheme": "uniform", "precondition_outputs": False}
        self.own = cfg.method.model_extra
        super().__init__(cfg.model_copy(update={"method": cfg.method.model_copy(update=known)}), role_models)


class NotFinite(Own):
    """The loss of these steps is not a number, on the last rank only."""

    def single_train_step(self, batch, iteration):
        losses, outputs, metrics = super().single_train_step(batch, iteration)
        if iteration in self.own["bad_steps"] and int(os.environ["RANK"]) == int(os.environ["WORLD_SIZE"]) - 1:
            losses["total_loss"] = losses["total_loss"] * float("nan")
        return losses, outputs, metrics


class Crashing(Own):
    def single_train_step(self, batch, iteration):
        if iteration in self.own["bad_steps"]:
            raise RuntimeError("the seventh seal")
        return super().single_train_step(batch, iteration)


class WritesOnFullDisk(Own):
    def single_train_step(self, batch, iteration):
        if iteration in self.own["bad_steps"]:
            with open("/dev/full", "w") as file:
                file.write("mine")
        return super().single_train_step(batch, iteration)


class DiskFull(Own):
    def on_train_start(self):
        opened, bad = store.new_temporary, self.own["bad_saves"]

        def refuse(directory, step):
            if step in bad:
                raise OSError(errno.ENOSPC, "No space left on device")
            return opened(directory, step)

        store.new_temporary = refuse
'''


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("own") / "own_methods.py"
    path.write_text(OWN_METHODS)
    return str(path)


def method(own: str, name: str, bad_steps: tuple[int, ...] = (), bad_saves: tuple[int, ...] = ()) -> dict[str, Any]:
    return {"kind": f"{own}:{name}", "bad_steps": list(bad_steps), "bad_saves": list(bad_saves)}


def failures(attempt: Any, rank: int = 0) -> list[str]:
    return [m["text"] for m in attempt.sent(rank) if m["kind"] == "failure"]


def test_the_launcher_sees_each_phase_in_order(runs: Any, data: Path, tmp_path: Path) -> None:
    attempt = runs.start(tiny(data, max_steps=6, checkpoint__every_steps=4), tmp_path)
    assert attempt.join() == [0]
    told = [m for m in attempt.sent() if m["kind"] == "progress"]
    phases = list(dict.fromkeys(m["phase"] for m in told))
    assert phases == ["starting", "loading", "preparing", "warming", "stepping", "saving", "finishing"]
    stepping = [m for m in told if m["phase"] == "stepping"]
    assert all(m["max_steps"] == 6 and m["count"] > 3 and m["loss"] > 0 for m in stepping)
    assert stepping[0]["step_s"] > 0
    assert [m["step"] for m in attempt.sent() if m["kind"] == "checkpoint"] == [4, 6]


@fault("10", "a gradient of one step of one of two ranks")
def test_a_gradient_that_is_not_finite_skips_the_update_on_all_ranks(runs: Any, data: Path, own: str, tmp_path: Path) -> None:
    config = tiny(data, max_steps=4, checkpoint__every_steps=1, checkpoint__keep_last=9, method=method(own, "NotFinite", (2,)))
    run = runs.finish(config, tmp_path, world=2)
    before, after = read(run, 1), read(run, 2)
    weights = [k for k in before if k.startswith(("roles.", "optimizers."))]
    assert weights
    assert all(before[k].equal(after[k]) for k in weights)
    assert [m["grad_norm"] is None for m in metrics(run)] == [False, True, False, False]
    assert not read(run, 3)["roles.student.transformer.proj_out.weight"].equal(after["roles.student.transformer.proj_out.weight"])


@fault("10", "gradients with on_nonfinite: stop, or over nonfinite_limit")
@pytest.mark.parametrize("policy", [{"on_nonfinite": "stop"}, {"nonfinite_limit": 2}], ids=["stop", "limit"])
def test_too_many_of_them_end_the_run_for_good(runs: Any, data: Path, own: str, tmp_path: Path, policy: dict[str, Any]) -> None:
    attempt = runs.start(tiny(data, method=method(own, "NotFinite", (2, 3)), **policy), tmp_path)
    assert attempt.join() == [76]
    (text,) = failures(attempt)
    assert "not finite" in text
    assert "hint: " in text
    assert "Traceback" not in attempt.log()


def test_a_mistake_is_told_once_and_without_a_traceback(runs: Any, data: Path, tmp_path: Path) -> None:
    attempt = runs.start(tiny(data, data__height=16), tmp_path, world=2)
    assert attempt.join() == [76, 76]
    assert "Traceback" not in attempt.log()
    assert attempt.log().count("error: ") == 1
    assert "height" in attempt.log()
    assert failures(attempt)


def test_a_configuration_that_does_not_fit_the_world_is_refused_in_the_rank(runs: Any, data: Path, tmp_path: Path) -> None:
    attempt = runs.start(tiny(data, parallel={"shard": 3}), tmp_path, world=1)
    assert attempt.join() == [76]
    assert "shard 3" in failures(attempt)[0]


def test_a_crash_leaves_its_last_lines_and_a_code_that_restarts(runs: Any, data: Path, own: str, tmp_path: Path) -> None:
    attempt = runs.start(tiny(data, method=method(own, "Crashing", (2,))), tmp_path)
    assert attempt.join() == [1]
    assert "Traceback" in attempt.log()
    assert failures(attempt)[0].endswith("RuntimeError: the seventh seal")


@fault("3", "saves that fail once, and in a row")
def test_what_a_disk_refuses_a_users_code_is_one_line_that_says_where(runs: Any, data: Path, own: str, tmp_path: Path) -> None:
    attempt = runs.start(tiny(data, method=method(own, "WritesOnFullDisk", (2,))), tmp_path)
    assert attempt.join() == [1]
    (text,) = failures(attempt)
    assert "no space left on the device" in text and f"{own}:" in text and "hint: make room" in text
    assert attempt.log().count("error: ") == 1 and "Traceback" not in attempt.log()


def test_failed_saves_in_a_row_end_the_run_and_one_does_not(runs: Any, data: Path, own: str, tmp_path: Path) -> None:
    run = runs.finish(
        tiny(data, checkpoint__every_steps=2, failed_saves=2, method=method(own, "DiskFull", bad_saves=(2,))), tmp_path / "one"
    )
    assert len(metrics(run)) == 4
    attempt = runs.start(
        tiny(data, checkpoint__every_steps=2, failed_saves=2, max_steps=20, method=method(own, "DiskFull", bad_saves=(4, 6))),
        tmp_path / "two",
        world=2,
    )
    assert attempt.join() == [76, 76]
    (text,) = failures(attempt)
    assert "2 checkpoints in a row" in text
    assert "of step 2" in text


def test_a_run_whose_last_checkpoint_failed_is_not_finished(runs: Any, data: Path, own: str, tmp_path: Path) -> None:
    attempt = runs.start(tiny(data, method=method(own, "DiskFull", bad_saves=(4,))), tmp_path)
    assert attempt.join() == [1]
    assert "last step, 4" in failures(attempt)[0]


def test_a_checkpoint_by_time_is_rank_0s_decision_for_all(runs: Any, data: Path, tmp_path: Path) -> None:
    config = tiny(data, max_steps=3, checkpoint__every_steps=None, checkpoint__every_minutes=1e-9, checkpoint__keep_last=5)
    attempt = runs.start(config, tmp_path, world=2)
    assert attempt.join() == [0, 0]
    assert [m["step"] for m in attempt.sent() if m["kind"] == "checkpoint"] == [1, 2, 3]


def test_roles_that_the_checkpoint_holds_are_not_read_from_init_from(runs: Any, data: Path, tmp_path: Path) -> None:
    from diffusers import WanTransformer3DModel

    folder = tmp_path / "model" / "transformer"
    WanTransformer3DModel(**ARCHITECTURE).save_pretrained(folder)
    config = tiny(data, max_steps=2, models={"student": {"init_from": str(tmp_path / "model")}})
    run = runs.finish(config, tmp_path / "run")
    (folder / "diffusion_pytorch_model.safetensors").write_bytes(b"")
    runs.finish({**config, "max_steps": 3}, run, attempt=2)


def test_tensorboard_gets_the_same_numbers(runs: Any, data: Path, tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run = runs.finish(tiny(data, max_steps=3, tracking__tensorboard=True), tmp_path)
    written = EventAccumulator(str(run / "tensorboard")).Reload().Scalars("train/loss")
    assert [event.step for event in written] == [1, 2, 3]
    assert [event.value for event in written] == pytest.approx(losses(run))
