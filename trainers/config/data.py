"""Owns the knobs of training data: which parquet files, the sizes they must hold, how batches are cut. Must not import torch."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, PositiveFloat, PositiveInt

from .section import Section


class ShapesConfig(Section):
    """The moving-shape clips of a laptop-sized run, made on first use: real mp4 files with captions, then preprocessed."""

    kind: Literal["shapes"] = "shapes"
    repeats: PositiveInt = 4
    """Clips of each of the 60 training modes."""
    upscale: PositiveInt = 8
    """Pixels of the mp4 for each pixel of the 8x8 video, so that a person can look at it."""


class DataConfig(Section):
    path: str
    """Folder of parquet files (ALGORITHMS.md section 2's t2v schema), searched recursively."""
    prepare: ShapesConfig | None = None
    """Make the data at `path` when it is not there yet."""
    num_frames: PositiveInt = 77
    height: PositiveInt = 448
    width: PositiveInt = 832
    vae_stride: tuple[PositiveInt, PositiveInt, PositiveInt] = (4, 8, 8)
    """Pixels per latent over (time, height, width); Wan2.1's is (4, 8, 8)."""
    latents_mean: list[float] | None = None
    """Per channel; null: the Wan2.1 VAE's. Stored latents are un-normalised, (z - mean) / std is done when training."""
    latents_std: list[PositiveFloat] | None = None
    text_len: PositiveInt = 512
    """Prompt embeddings are zero-padded or cut to this many tokens."""
    text_dropout: float = Field(0.0, ge=0, lt=1)
    """Share of samples trained on the empty prompt, for classifier-free guidance."""
    global_batch_size: PositiveInt
    micro_batch_size: PositiveInt | None = None
    """Samples of one forward pass on one rank; null: global_batch_size / data-parallel ranks, fixed at submission."""
    workers: int = Field(1, ge=0)
    """Loader processes a rank; 0 loads in the rank itself."""

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """(T, H, W) of one sample's latents."""
        t, h, w = self.vae_stride
        return (self.num_frames - 1) // t + 1, self.height // h, self.width // w
