"""Owns Wan as a role: diffusers' WanTransformer3DModel, its layout and types, and where its weights come from. Must not know any method."""

from __future__ import annotations

import inspect
import math
from collections.abc import Iterable
from functools import cached_property
from pathlib import Path
from types import MethodType
from typing import Any, ClassVar

from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import get_model_state_dict

from ..config.attention import SparseAttention
from ..distributed.mesh import ParallelContext
from . import lora
from .attention import masks, sparse_gpu, sparse_network
from .attention.sparse_network import SparseSelfAttention
from .base import OneNetwork
from .loading import diffusers_weights, model_folder
from .loading.light_diffusers import WanTransformer3DModel


class Wan(OneNetwork):
    """A role of one Wan network."""

    float32_parts: ClassVar[tuple[str, ...]] = ("time_embedder", "scale_shift_table", "norm1", "norm2", "norm3")
    _sparse: SparseSelfAttention | None = None

    @cached_property
    def attention(self) -> SparseAttention | None:
        """The sparse attention that the configuration asks for, or that the starting weights were trained with; None: dense."""
        return sparse_network.attention_of(self.config.attention, None if self.config.init_from is None else self._folder)

    def build(self) -> nn.Module:
        if self.config.init_from is None:
            network = WanTransformer3DModel(**self.config.architecture.model_dump())
        else:
            network = WanTransformer3DModel.from_config(diffusers_weights.read_config(self._folder, "WanTransformer3DModel"))
        # without diffusers' wrapper, which imports peft at each call only to scale adapters by 1
        network.forward = MethodType(inspect.unwrap(type(network).forward), network)
        network.register_forward_hook(_copy_output)
        if self.attention is not None:
            self._sparse = sparse_network.install(network, self.attention)
        return network

    def choose_kernels(self, parallel: ParallelContext) -> None:
        head_dim, requested = int(self.transformer.config.attention_head_dim), self.config.attention
        if self.attention is not None:
            tile = math.prod(self.attention.tile)
            sparse_gpu.backend(self.attention.backend, self.device, self.compute_type, tile, head_dim, parallel)
        elif isinstance(requested, str):  # of a block-causal network
            masks.backend(requested, self.device, head_dim, self.compute_type, parallel)

    def on_step(self, step: int) -> None:
        if self._sparse is not None:
            self._sparse.at(step)

    def blocks(self) -> Iterable[nn.Module]:
        return list(self.transformer.blocks)

    def keep_float32(self) -> Iterable[nn.Module]:
        return [self.transformer.condition_embedder.time_embedder]

    def restore_buffers(self) -> None:
        rope: Any = self.transformer.rope
        fresh = type(rope)(rope.attention_head_dim, rope.patch_size, rope.max_seq_len)
        for name, buffer in fresh.named_buffers():
            rope.get_buffer(name).copy_(buffer)

    def load_weights(self) -> None:
        """Read the folder's weights; each rank reads only its own rows of each tensor. Collective."""
        sparse_network.zero_gates(self.transformer)  # the folder holds gates only if it was exported with them
        adapters = lora.adapters_of(self.transformer)
        state = get_model_state_dict(self.transformer)
        state = {lora.base_name(name): tensor for name, tensor in state.items() if name not in adapters}
        diffusers_weights.load(state, self._folder, added={name for name in state if sparse_network.is_gate(name)})

    def predict_velocity(self, noisy: Tensor, timesteps: Tensor, prompt: Tensor) -> Tensor:
        """Return the velocity [B, T, C, H, W] in float32. The zeros that pad a prompt are attended to, as when Wan was trained: there is no
        text mask."""
        hidden = noisy.transpose(1, 2).to(self.compute_type)
        if timesteps.ndim == 2:
            timesteps = timesteps.repeat_interleave(self._tokens_of_a_frame(hidden), dim=1)
        velocity = self.transformer(hidden, timestep=timesteps, encoder_hidden_states=prompt.to(self.compute_type), return_dict=False)[0]
        return velocity.transpose(1, 2).float()

    def _tokens_of_a_frame(self, hidden: Tensor) -> int:
        """Return the number of tokens of a latent frame."""
        frames, height, width = self.transformer.config.patch_size
        assert frames == 1, "a patch over several frames has no noise level of its own"
        return int((hidden.shape[-2] // height) * (hidden.shape[-1] // width))

    @cached_property
    def _folder(self) -> Path:
        return diffusers_weights.subfolder(model_folder.resolve(self.config.init_from, self.config.revision), "transformer")


def _copy_output(_module: nn.Module, _inputs: Any, output: Any) -> Any:
    """Copy a forward pass's output: fully_shard warns of one that is a view, since an operation in place on it would lose gradients."""
    return tuple(tensor.clone() for tensor in output) if isinstance(output, tuple) else output
