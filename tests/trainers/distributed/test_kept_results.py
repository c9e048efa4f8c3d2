"""Promises of selective activation checkpointing: attention is computed once, whatever computes it, and nothing but its result is kept."""

from __future__ import annotations

import gc
import weakref
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from trainers.distributed import activation_checkpointing
from trainers.distributed.kept_results import kept

calls: list[int] = []


def seen_by_torch(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Operations that selective checkpointing also keeps outside of it: they must not be mixed up."""
    calls.append(1)
    return (query @ key.mT).softmax(-1) @ value


class Hidden(torch.autograd.Function):
    """What torch's selective checkpointing cannot keep by itself: its backward pass needs inputs, views of them, and its output."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        calls.append(1)
        output = scaled_dot_product_attention(query, key, value)
        ctx.save_for_backward(query.flatten(0, 1), key.transpose(1, 2), value, output)
        return output

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, ...]:
        query, key, value, output = ctx.saved_tensors
        with torch.enable_grad():
            parts = [part.detach().requires_grad_() for part in (query.unflatten(0, value.shape[:2]), key.transpose(1, 2), value)]
            again = scaled_dot_product_attention(*parts)
        assert output.equal(again)
        return torch.autograd.grad(again, parts, gradients[0])


def hidden(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    result: Tensor = Hidden.apply(query, key, value)
    return result


class Block(nn.Module):
    def __init__(self, attention: Any) -> None:
        super().__init__()
        self.into, self.out, self.attention = nn.Linear(16, 48), nn.Linear(16, 16), attention
        self.seen: list[Any] = []

    def forward(self, tokens: Tensor) -> Tensor:
        query, key, value = (part.unflatten(2, (2, 8)).transpose(1, 2) for part in self.into(tokens).chunk(3, 2))
        query, key = query.tanh(), key * 0.5
        if not torch.compiler.is_compiling():
            self.seen.append(weakref.ref(query.untyped_storage()))
        attended = kept(self.attention, query, key, value) + kept(self.attention, key, query, value)
        return tokens + self.out(attended.transpose(1, 2).flatten(2))


def gradients(kind: Any, attention: Any, passes: int = 1) -> tuple[list[Tensor], int, nn.ModuleList]:
    """(the output and all gradients, how often attention was computed, the blocks)"""
    torch.manual_seed(0)
    blocks = nn.ModuleList(Block(attention) for _ in range(3))
    if kind != "none":
        activation_checkpointing.checkpoint_blocks(blocks, kind)
    tokens = torch.randn(2, 5, 16, requires_grad=True)
    calls.clear()
    outputs = []
    for _ in range(passes):  # several graphs at once, as in a rollout
        hidden_states = tokens
        for block in blocks:
            hidden_states = block(hidden_states)
        outputs.append(hidden_states)
    gc.collect()
    alive = [storage for block in blocks for storage in block.seen if storage() is not None]
    assert kind == "none" or not alive, "the inputs of attention are kept"
    sum(output.square().mean() for output in outputs).backward()
    return [outputs[0].detach(), tokens.grad, *(parameter.grad for parameter in blocks.parameters())], len(calls), blocks  # type: ignore[list-item]


@pytest.mark.parametrize("attention", [hidden, seen_by_torch])
@pytest.mark.parametrize("passes", [1, 3])
def test_attention_is_computed_once_and_its_gradients_are_the_same_bit_by_bit(attention: Any, passes: int) -> None:
    expected, plain, _ = gradients("none", attention, passes)
    selective, kept_calls, _ = gradients("selective", attention, passes)
    full, again, _ = gradients("full", attention, passes)
    assert (plain, kept_calls, again) == (6 * passes, 6 * passes, 12 * passes)
    for ours, theirs, others in zip(selective, expected, full, strict=True):
        assert ours.equal(theirs) and others.equal(theirs)


@pytest.mark.filterwarnings("ignore")  # dynamo's own
def test_a_compiled_function_is_kept_too() -> None:
    torch._dynamo.reset()
    compiled = torch.compile(lambda query, key, value: (query @ key.mT).softmax(-1) @ value, backend="aot_eager", fullgraph=True)

    def counted(*parts: Tensor) -> Tensor:
        calls.append(1)
        result: Tensor = compiled(*parts)
        return result

    (expected, _, _), (selective, number, _) = gradients("none", counted), gradients("selective", counted)
    assert number == 6 and all(ours.equal(theirs) for ours, theirs in zip(selective, expected, strict=True))
    torch._dynamo.reset()


def test_a_graph_that_is_given_up_leaves_nothing_behind() -> None:
    torch.manual_seed(0)
    block = Block(seen_by_torch)
    activation_checkpointing.checkpoint_blocks([block], "selective")
    found: list[Any] = []

    def watched(*parts: Tensor) -> Tensor:
        result = seen_by_torch(*parts)
        found.append(weakref.ref(result.untyped_storage()))
        return result

    block.attention = watched
    output = block(torch.randn(2, 5, 16, requires_grad=True))
    assert all(one() is not None for one in found)
    del output
    gc.collect()
    assert found and all(one() is None for one in found)


def test_without_gradients_nothing_is_kept() -> None:
    block = Block(seen_by_torch)
    activation_checkpointing.checkpoint_blocks([block], "selective")
    calls.clear()
    with torch.no_grad():
        assert block(torch.randn(2, 5, 16)).shape == (2, 5, 16)
    assert len(calls) == 2


@pytest.mark.filterwarnings("ignore")  # dynamo's own
def test_a_compiled_block_keeps_attention_by_its_operation() -> None:
    from functorch.compile import make_boxed_func, min_cut_rematerialization_partition
    from torch._functorch.aot_autograd import aot_module_simplified

    attentions: list[int] = []

    def counting(graph: Any, _examples: Any) -> Any:
        attentions.append(sum("dot_product" in str(node.target) and "backward" not in str(node.target) for node in graph.graph.nodes))
        return make_boxed_func(graph.forward)

    def backend(graph: Any, examples: Any) -> Any:
        return aot_module_simplified(graph, examples, counting, bw_compiler=counting, partition_fn=min_cut_rematerialization_partition)

    torch._dynamo.reset()
    block = Block(scaled_dot_product_attention)
    activation_checkpointing.checkpoint_blocks([block], "selective")
    compiled: Any = torch.compile(block.forward, backend=backend)
    compiled(torch.randn(2, 5, 16, requires_grad=True)).square().mean().backward()
    assert attentions == [2, 0]
    torch._dynamo.reset()
