"""Owns what a codec has to offer: videos to latents and back, prompts to embeddings."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Protocol

from torch import Tensor


class Codec(Protocol):
    """What turns pixels and words into what a model is trained on, and latents back into pixels."""

    negative_prompt: str

    def encode_video(self, frames: Tensor) -> Tensor:
        """[3, T, H, W] in [-1, 1] -> un-normalised latents [C, T', H', W'] (a VAE's posterior mean)."""

    def decode_video(self, latents: Tensor) -> Tensor:
        """Un-normalised latents [C, T', H', W'] -> [3, T, H, W] in [-1, 1]."""

    def decode_parts(self, parts: Iterable[Tensor]) -> Iterator[Tensor]:
        """The same, of a video's latents as they come, [C, n, H', W'] each -> the frames [3, m, H, W] that they add."""

    def encode_text(self, text: str) -> Tensor:
        """[L, D], without padding."""
