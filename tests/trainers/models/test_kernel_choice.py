"""Promises about the choice among kernels: all ranks make the same one, before weights are read, and what is skipped is told."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import torch

from tests.support.trainers import emulated_kernels as kernels
from tests.support.trainers.one_rank import wan
from trainers.config.attention import SparseAttention
from trainers.control import Control
from trainers.distributed.mesh import ParallelContext
from trainers.errors import UserError
from trainers.models.attention import kernel_choice, kernel_packages, sparse_gpu
from trainers.models.attention.kernel_choice import Candidate


@pytest.fixture(autouse=True)
def undecided() -> Iterator[None]:
    kernel_choice.forget()
    yield
    kernel_choice.forget()


@dataclass
class Others:
    """A world whose ranks have come to these verdicts; this rank is the first."""

    verdicts: list[str | None]

    def any_rank(self, mine: bool) -> list[bool]:
        return [mine or any(verdict is not None for verdict in self.verdicts)]

    def gather(self, mine: str | None) -> list[str | None]:
        assert self.verdicts[0] == mine
        return list(self.verdicts)


def chosen(verdicts: list[str | None]) -> str:
    others: Any = Others(verdicts)
    return kernel_choice.first([Candidate("kernel", "kernels", (64,), lambda: verdicts[0])], "flex", others)


@pytest.mark.parametrize(
    ("verdicts", "expected", "told"),
    [
        ([None, None, None], "kernel", ""),
        (["", "", ""], "flex", ""),
        (["dq is off"] * 3, "flex", "dq is off; next"),
        ([None, None, "dq is off"], "flex", "dq is off (on 1 rank of 3, the first is 2); next"),
        ([None, "", None], "flex", "1 rank (the first is 1) lack what others have"),
        (["", "vsa 0.0.5 gives wrong gradients", None], "flex", "vsa 0.0.5 gives wrong gradients (on 1 rank of 3, the first is 1)"),
    ],
)
def test_all_ranks_use_the_same_and_say_why(verdicts: list[str | None], expected: str, told: str, caplog: pytest.LogCaptureFixture) -> None:
    assert chosen(verdicts) == chosen(verdicts) == expected
    messages = [record.getMessage() for record in caplog.records]
    assert (len(messages) == 1 and told in messages[0]) if told else messages == []


def test_a_verdict_is_reached_once_and_holds_for_all_roles() -> None:
    looked: list[int] = []
    candidate = Candidate("flex", "kernels", (64,), lambda: looked.append(1))
    assert [kernel_choice.first([candidate], "gather") for _ in range(3)] == ["flex"] * 3 and looked == [1]
    kernel_choice.first([Candidate("flex", "kernels", (128,), lambda: looked.append(1))], "gather")
    assert looked == [1, 1]


def test_the_launcher_hears_of_what_is_not_used() -> None:
    reading, writing = os.pipe()
    try:
        Control({"TRAINER_PROGRESS_FD": str(writing)}).report_warnings()
        kernel_choice.log.warning("only for the log")
        chosen(["dq is off"])
        message = json.loads(os.read(reading, 65536))
    finally:
        logging.getLogger().handlers = [handler for handler in logging.getLogger().handlers if type(handler).__name__ != "_Reporter"]
        os.close(reading)
        os.close(writing)
    assert (message["kind"], message["rank"]) == ("warning", 0) and "kernels are not used: dq is off" in message["text"]


def test_a_network_whose_kernel_is_wrong_is_refused_before_its_weights_are_read(
    parallel: ParallelContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kernel_packages, "found", lambda: (kernels.another_dv, ""))
    attention = SparseAttention(kind="vsa", sparsity=0.5, backend="kernel")
    with pytest.raises(UserError, match=r"attention\.backend: kernel was chosen by name, and dv is .* times as far"):
        wan(parallel, precision="bf16", attention=attention, load_weights=False)
    kernel_choice.forget()
    monkeypatch.setattr(kernel_packages, "found", lambda: (kernels.right, ""))
    model = wan(parallel, precision="bf16", attention=attention)
    assert sparse_gpu.backend("kernel", torch.device("cpu"), torch.bfloat16, 64, model.transformer.config.attention_head_dim) == "kernel"
