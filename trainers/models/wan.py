"""Owns Wan as a role: diffusers' WanTransformer3DModel, its layout and types, and reading a diffusers folder into shards."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
import torch.distributed.checkpoint as dcp
from diffusers import WanTransformer3DModel
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import get_model_state_dict

from ..errors import UserError
from .base import ModelBase

_SHOWN = 10


class Wan(ModelBase):
    def build(self) -> nn.Module:
        if self.config.init_from is None:
            network = WanTransformer3DModel(**self.config.architecture.model_dump())
        else:
            network = WanTransformer3DModel.from_config(read_config(self._folder))
        network.register_forward_hook(_copy_output)
        return network

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
        """Each rank reads only its own rows of each tensor."""
        reader = dcp.HuggingFaceStorageReader(str(self._folder))
        state = get_model_state_dict(self.transformer)
        check_same_tensors(state, reader.read_metadata().state_dict_metadata, self._folder)
        dcp.load(state, storage_reader=reader)

    def predict_velocity(self, noisy: Tensor, timesteps: Tensor, prompt: Tensor) -> Tensor:
        """The zeros that pad a prompt are attended to, as when Wan was trained: there is no text mask."""
        hidden = noisy.transpose(1, 2).to(self.compute_type)
        if timesteps.ndim == 2:
            timesteps = timesteps.repeat_interleave(self._tokens_of_a_frame(hidden), dim=1)
        velocity = self.transformer(hidden, timestep=timesteps, encoder_hidden_states=prompt.to(self.compute_type), return_dict=False)[0]
        return velocity.transpose(1, 2).float()

    def _tokens_of_a_frame(self, hidden: Tensor) -> int:
        frames, height, width = self.transformer.config.patch_size
        assert frames == 1, "a patch over several frames has no noise level of its own"
        return int((hidden.shape[-2] // height) * (hidden.shape[-1] // width))

    @property
    def _folder(self) -> Path:
        folder = Path(self.config.init_from)
        return folder / "transformer" if (folder / "transformer").is_dir() else folder


def _copy_output(_module: nn.Module, _inputs: Any, output: Any) -> Any:
    """fully_shard warns of an output that is a view: an operation in place on it would lose gradients."""
    return tuple(tensor.clone() for tensor in output) if isinstance(output, tuple) else output


def read_config(folder: Path) -> dict[str, Any]:
    """A diffusers folder's config.json."""
    try:
        found: dict[str, Any] = json.loads((folder / "config.json").read_text())
    except (OSError, ValueError) as error:
        raise UserError(
            f"init_from: {folder} is no diffusers folder of a Wan transformer ({type(error).__name__}: config.json)",
            "download the model first; init_from is the local folder that holds transformer/config.json",
        ) from None
    if found.get("_class_name") != "WanTransformer3DModel":
        raise UserError(f"init_from: {folder} holds a {found.get('_class_name')}, not a WanTransformer3DModel")
    return {key: value for key, value in found.items() if not key.startswith("_")}


def check_same_tensors(wanted: dict[str, Tensor], found: dict[str, Any], folder: Path) -> None:
    """UserError that names what is missing, too much, or of another shape."""
    lines = [f"missing: {name}" for name in sorted(wanted.keys() - found.keys())]
    lines += [f"unexpected: {name}" for name in sorted(found.keys() - wanted.keys())]
    for name in sorted(wanted.keys() & found.keys()):
        if torch.Size(found[name].size) != wanted[name].shape:
            lines.append(f"{name} is {list(found[name].size)}, not {list(wanted[name].shape)}")
    if lines:
        more = f"; and {len(lines) - _SHOWN} more" if len(lines) > _SHOWN else ""
        raise UserError(f"init_from: the weights in {folder} do not fit their config.json: {'; '.join(lines[:_SHOWN])}{more}")
