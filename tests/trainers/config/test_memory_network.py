"""What a network's passes hold is counted as torch keeps it: a real block is passed, and what it saves for the backward pass is weighed."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from trainers.config import network_size
from trainers.config.memory_network import Network
from trainers.config.models.base import LoraConfig
from trainers.config.models.wan import WanArchitecture
from trainers.models import lora
from trainers.models.loading.light_diffusers import WanTransformer3DModel

ARCHITECTURE = WanArchitecture(num_layers=1, num_attention_heads=2, attention_head_dim=32, ffn_dim=256, text_dim=16)
TOKENS, TEXT, WIDTH = 512, 32, 64


def weighed(adapters: LoraConfig | None) -> int:
    """Return the bytes that one block's pass in float32 keeps for the backward pass, beside its parameters and inputs of its own."""
    network = WanTransformer3DModel(**ARCHITECTURE.model_dump())
    if adapters is not None:
        lora.inject(network, adapters)
    left_out = {p.untyped_storage().data_ptr() for p in network.parameters()}
    angles = torch.randn(1, TOKENS, 1, 32), torch.randn(1, TOKENS, 1, 32)
    left_out |= {part.untyped_storage().data_ptr() for part in angles}
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in left_out:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    whole = adapters is None
    hidden, text = torch.randn(1, TOKENS, WIDTH, requires_grad=True), torch.randn(1, TEXT, WIDTH, requires_grad=whole)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        network.blocks[0](hidden, text, torch.randn(1, 6, WIDTH, requires_grad=whole), angles)
    return sum(kept.values())


@pytest.mark.parametrize(
    "adapters",
    [
        None,
        LoraConfig(rank=2),
        LoraConfig(rank=2, target_modules=["ffn.net.0.proj", "ffn.net.2", "attn2.to_q"]),
        LoraConfig(rank=2, target_modules=["to_out.0"]),
    ],
)
def test_a_block_keeps_what_is_counted(adapters: LoraConfig | None) -> None:
    size = network_size.transformer_size(ARCHITECTURE, adapters)
    layers = frozenset() if adapters is None else network_size.adapted_layers(adapters)
    counted = Network(size, 4, True, TOKENS, TEXT, adapted=layers).left()
    if adapters is None:  # on a CPU rms_norm is made of several operations, which keep what was normed, too: of two queries and a key
        counted += 3 * 4 * WIDTH * TOKENS
    assert weighed(adapters) == pytest.approx(counted, rel=0.04)


def network(kind: str = "none", low: int = 2, **more: object) -> Network:
    size = network_size.transformer_size(WanArchitecture())
    return Network(size, low, True, 29120, 512, checkpointing=kind, **more)  # type: ignore[arg-type]


def test_what_is_not_kept_is_in_hand_once() -> None:
    none, some, full = (network(kind) for kind in ("none", "selective", "full"))
    assert none.left() > some.left() > full.left() == 30 * 2 * 1536 * 29120
    assert none.backward() < some.backward() < full.backward() < none.left() / 10


def test_a_world_of_one_in_float32_gathers_nothing() -> None:
    assert network(low=4).gathered == 0 and network(low=2).gathered > 0
    assert network(low=4, shard=8).gathered > 0


def test_a_cache_is_of_keys_and_values_of_all_layers() -> None:
    assert network().past(1000) == 30 * 2 * 2 * 1536 * (1000 + 512)
