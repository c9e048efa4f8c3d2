"""Owns the interface of a codec: videos to latents and back, prompts to embeddings. Must not know any codec."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Protocol

from torch import Tensor


class Codec(Protocol):
    """Turns pixels and words into what a model is trained on, and latents back into pixels."""

    negative_prompt: str

    def encode_video(self, frames: Tensor) -> Tensor:
        """Return un-normalised latents [C, T', H', W'] (a VAE's posterior mean) of frames [3, T, H, W] in [-1, 1]."""

    def decode_video(self, latents: Tensor) -> Tensor:
        """Return the video [3, T, H, W] in [-1, 1] of un-normalised latents [C, T', H', W']."""

    def decode_parts(self, parts: Iterable[Tensor]) -> Iterator[Tensor]:
        """Decode a video's latents as they come: for each part [C, n, H', W'] yield the frames [3, m, H, W] that it adds."""

    def encode_text(self, text: str) -> Tensor:
        """Return the embedding [L, D] of a prompt, without padding."""
