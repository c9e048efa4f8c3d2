"""Promises of losses that are taken in turn: one graph at a time, the numbers of all at once, and a person's own step as it is."""

from __future__ import annotations

import shutil
import time
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.support.trainers.distilled import dmd2, write_prompted_data, write_teacher
from tests.support.trainers.trainer_ranks import metrics
from trainers.config import TrainConfig
from trainers.control import Control
from trainers.distributed.dtensor import whole
from trainers.distributed.mesh import ParallelContext
from trainers.methods import method_class
from trainers.methods.base import Batch
from trainers.methods.dmd2 import DMD2Method
from trainers.models import build_role
from trainers.training.trainer import Trainer

KINDS = ("dmd2", "dmd2-vsa", "self-forcing", "self-forcing-two-experts")


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """(prompts with a negative one, a network of one expert and of two)."""
    experts = write_teacher(tmp_path_factory.mktemp("experts"), seed=1)
    shutil.copytree(write_teacher(tmp_path_factory.mktemp("low"), seed=2) / "transformer", experts / "transformer_2")
    return write_prompted_data(tmp_path_factory.mktemp("prompted"), samples=8), experts


def block(kind: str, folders: tuple[Path, Path], checkpointing: str = "none") -> dict[str, Any]:
    data, experts = folders
    two = {"family": "wan-a14b" if "two" in kind else "wan", "init_from": str(experts), "activation_checkpointing": checkpointing}
    student = dict(two)
    method: dict[str, Any] = {"kind": "dmd2", "denoising_steps": [1000, 950, 400], "generator_update_interval": 1}
    if kind == "dmd2-vsa":
        student["attention"] = {"kind": "vsa", "sparsity": 0.5, "tile": [1, 1, 2]}
    if kind.startswith("self-forcing"):
        student |= {"family": f"causal-{two['family']}", "num_frames_per_block": 1}
        method |= {"kind": "self-forcing", "require_causal_start": False}
    return dmd2(data, experts, models={"student": student, "teacher": two, "critic": two}, method=method, flow_shift=5.0)


def made(kind: str, folders: tuple[Path, Path], parallel: ParallelContext, wrap: Any = lambda found: found, **more: Any) -> Any:
    """A method of the networks' own, of `wrap(its class)`; seeded."""
    config = TrainConfig.model_validate(block(kind, folders, **more))
    roles = {role: build_role(config, role, parallel, load_weights=True) for role in sorted(config.models)}
    method = wrap(method_class(config.method.kind))(config, roles)
    method.cuda_generator.manual_seed(5)
    method.shared_generator.manual_seed(11)
    return method


def batch() -> Batch:
    return {"prompt": torch.randn(2, 6, 16, generator=torch.Generator().manual_seed(1))}


def gradients(method: Any) -> dict[str, Tensor]:
    return {name: whole(p.grad).clone() for name, p in method.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("checkpointing", ["none", "full"])
@pytest.mark.parametrize("kind", KINDS)
def test_nothing_of_the_students_graph_is_alive_when_the_critics_rollout_begins(
    folders: tuple[Path, Path], parallel: ParallelContext, kind: str, checkpointing: str
) -> None:
    kept, alive = list[Any](), list[int]()

    class Packed:
        """A tensor that a graph keeps."""

        def __init__(self, tensor: Tensor) -> None:
            self.tensor = tensor
            kept.append(weakref.ref(self))

    def watched(found: Any) -> Any:
        class Watched(found):  # type: ignore[misc]
            def critic_rollout(self, batch: Batch) -> Tensor:
                alive.append(sum(ref() is not None for ref in kept))
                rollout: Tensor = super().critic_rollout(batch)
                return rollout

        return Watched

    method = made(kind, folders, parallel, watched, checkpointing=checkpointing)
    if opens := getattr(method.student, "open_cache", None):

        def opened(*arguments: Any) -> Any:
            kept.append(weakref.ref(cache := opens(*arguments)))
            return cache

        method.student.open_cache = opened
    for network in method.student.networks.values():
        for part in network.blocks:  # what recomputing keeps: a block's input; and what it makes
            part.register_forward_hook(
                lambda _part, inputs, output: kept.extend(weakref.ref(t) for t in (inputs[0], output) if torch.is_grad_enabled())
            )
    with torch.autograd.graph.saved_tensors_hooks(Packed, lambda packed: packed.tensor):
        method.accumulate(batch(), 1)
    assert len(kept) > 20 and alive == [0]


@pytest.mark.parametrize("kind", KINDS)
def test_the_numbers_in_turn_are_those_of_all_at_once(folders: tuple[Path, Path], parallel: ParallelContext, kind: str) -> None:
    """To the bit: losses, gradients of two rounds, and where the generator is after them."""
    turns, once = (made(kind, folders, parallel) for _ in range(2))
    for _ in range(2):
        reported = turns.accumulate(batch(), 1, 2)
        loss_map, outputs, metrics = once.single_train_step(batch(), 1)
        once.backward(loss_map, outputs, grad_accum_rounds=2)
        assert list(reported) == ["loss", "generator_loss", "critic_loss"] and not metrics
        assert torch.equal(reported["loss"], loss_map["total_loss"])
        assert all(torch.equal(reported[name], loss_map[name]) and not reported[name].requires_grad for name in list(reported)[1:])
    ours, theirs = gradients(turns), gradients(once)
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert turns.cuda_generator.get_state().equal(once.cuda_generator.get_state())


@pytest.mark.parametrize("kind", ["dmd2", pytest.param("self-forcing-two-experts", marks=pytest.mark.long)])
def test_whole_steps_of_sharded_networks_in_turn_are_those_of_all_at_once(
    folders: tuple[Path, Path], parallel: ParallelContext, tmp_path: Path, kind: str
) -> None:
    """To the bit, norms of gradients too, though the student's last pass comes after its gradient and before its update; clipped hard."""
    found = []
    for turns in (True, False):
        run = tmp_path / str(turns)
        run.mkdir()
        clip = {"grad_clip": {"max_norm": 0.01}}
        config = {**block(kind, folders), "precision": "bf16", "max_steps": 9, "callbacks": clip}
        trainer = Trainer(TrainConfig.model_validate(config), run, Control({}), parallel)
        trainer.method.takes_turns = lambda turns=turns: turns  # type: ignore[misc]
        for _ in range(2):
            trainer.step += 1
            trainer._train_step(next(trainer.batches), time.monotonic())
        trainer._flush()
        trainer.close()
        found.append([{key: value for key, value in line.items() if key != "step_s"} for line in metrics(run)])
    assert len(found[0]) == 2 and found[0] == found[1]
    assert all(any(key.startswith("grad_norm_student") for key in line) for line in found[0])


# --- a person's own


class OwnStep(DMD2Method):
    """Adds a term to the student's loss."""

    def single_train_step(self, batch: Batch, iteration: int) -> tuple[dict[str, Tensor], dict[str, Any], dict[str, Any]]:
        loss_map, outputs, metrics = super().single_train_step(batch, iteration)
        loss_map["generator_loss"] = loss_map["generator_loss"] * 3
        return loss_map, outputs, {**metrics, "mine": 1.0}


class OwnBackward(DMD2Method):
    def backward(self, loss_map: dict[str, Tensor], outputs: dict[str, Any], grad_accum_rounds: int = 1) -> None:
        super().backward({**loss_map, "generator_loss": loss_map["generator_loss"] * 3}, outputs, grad_accum_rounds)


class Tripled:
    """A mixin."""

    def backward(self, loss_map: dict[str, Tensor], outputs: dict[str, Any], grad_accum_rounds: int = 1) -> None:
        super().backward({**loss_map, "generator_loss": loss_map["generator_loss"] * 3}, outputs, grad_accum_rounds)  # type: ignore[misc]


class Mixed(Tripled, DMD2Method):
    pass


class OfOwn(OwnStep):
    """Has nothing of its own, its parent has."""


class OwnTurns(OwnStep):
    """Says anew which losses come in turn, and both of the others agree."""

    single_train_step = DMD2Method.single_train_step

    def losses_in_turn(self, batch: Batch, iteration: int) -> Iterator[tuple[str, Tensor]]:
        for name, loss in super().losses_in_turn(batch, iteration):
            yield name, loss * (3 if name == "generator_loss" else 1)


class OnTheObject(DMD2Method):
    """Given its backward when it is made."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        plain: Any = super().backward
        self.backward = lambda loss_map, outputs, grad_accum_rounds=1: plain(  # type: ignore[method-assign]
            {**loss_map, "generator_loss": loss_map["generator_loss"] * 3}, outputs, grad_accum_rounds
        )


@pytest.mark.parametrize("own", [OwnStep, OwnBackward, Mixed, OfOwn, OwnTurns, OnTheObject], ids=lambda own: own.__name__)
def test_a_step_or_backward_of_ones_own_is_what_trains(folders: tuple[Path, Path], parallel: ParallelContext, own: Any) -> None:
    """Each triples the student's gradient."""
    plain, changed = made("dmd2", folders, parallel), made("dmd2", folders, parallel, lambda _found: own)
    plain.accumulate(batch(), 1)
    reported = changed.accumulate(batch(), 1)
    assert ("mine" in reported) == (own in (OwnStep, OfOwn))
    before, after = gradients(plain), gradients(changed)
    assert before.keys() == after.keys()
    for name, gradient in before.items():
        torch.testing.assert_close(after[name], gradient * (3 if ".student." in name else 1), rtol=1e-5, atol=1e-9)
