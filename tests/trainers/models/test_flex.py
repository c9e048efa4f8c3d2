"""Promises about flex_attention on a GPU: it is compiled, or there is one clear error; the whole matrix of scores is never made."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
import torch._dynamo.config as dynamo
from torch import Tensor

from trainers.errors import UserError
from trainers.models.attention import flex


@pytest.fixture(autouse=True)
def limit() -> Iterator[None]:
    torch._dynamo.reset()
    with dynamo.patch(recompile_limit=2):
        yield
    torch._dynamo.reset()


def doubled(part: Tensor) -> Tensor:
    assert torch.compiler.is_compiling(), "called uncompiled"
    return part * 2


@pytest.mark.filterwarnings("ignore")  # dynamo's own
def test_more_shapes_than_torch_compiles_are_an_error_and_never_computed_uncompiled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flex, "_SHAPES", 3)
    compiled = flex.always_compiled(doubled, backend="eager")
    for length in (2, 3, 4):
        assert compiled(torch.ones(length)).sum() == 2 * length
    with pytest.raises(UserError, match="compiled for 3 combinations of shapes, and torch compiles no more") as refused:
        compiled(torch.ones(5))
    assert "attention: dense" in refused.value.hint
    assert compiled(torch.ones(3)).sum() == 6


def test_a_run_may_use_many_shapes() -> None:
    flex.always_compiled(doubled, backend="eager")
    assert dynamo.recompile_limit == 64


@pytest.mark.parametrize("switch", ["disable", "suppress_errors"])
def test_an_environment_in_which_nothing_is_compiled_is_refused(switch: str) -> None:
    with dynamo.patch({switch: True}), pytest.raises(UserError, match="must be compiled, and the environment keeps torch from that"):
        flex.attention("cuda")


def test_an_error_of_the_compiled_code_stays_what_it_is() -> None:
    compiled = flex.always_compiled(lambda part: part @ part, backend="eager")
    with pytest.raises(Exception, match="mat"):
        compiled(torch.ones(2, 3))
