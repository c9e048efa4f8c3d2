"""Owns the knobs of training data: which parquet files, the sizes they must hold, how batches are cut. Must not import torch."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, PositiveFloat, PositiveInt, Tag

from .section import Problem, Section

Needs = Literal["latents", "text", "trajectory"]
"""What a method reads of a sample, always with its prompt: clips, prompts alone, or a teacher's sampling trajectories."""


def _is_mapping(value: Any) -> str:
    return "folders" if isinstance(value, dict) else "folder"


Folders = Annotated[
    Annotated[str, Tag("folder")] | Annotated[dict[str, PositiveInt], Field(min_length=1), Tag("folders")], Discriminator(_is_mapping)
]


SHAPES_CLIP = (5, 8, 8)
"""Frames, height and width of a moving-shape clip."""
SHAPES_STRIDE = (1, 2, 2)
"""Pixels of such a clip for one latent over time, height and width."""


class ShapesConfig(Section):
    """The moving-shape clips of a laptop-sized run, made on first use: real mp4 files with captions, then preprocessed."""

    kind: Literal["shapes"] = "shapes"
    """The only kind there is: the moving shapes."""
    repeats: PositiveInt = 4
    """Clips of each of the 60 training modes (shape, direction and place)."""
    upscale: PositiveInt = 8
    """Pixels of the mp4, in each direction, for one pixel of the 8x8 video, so that a person can look at it."""

    @property
    def num_samples(self) -> int:
        """Return how many clips that makes."""
        return 60 * self.repeats


class DataConfig(Section):
    """Which parquet files are read, the sizes that their samples must have, and how batches are cut."""

    path: Folders
    """Folder of parquet files as `preprocess` writes them, searched recursively, or one parquet file; or a mapping, each of them with the
    number of times that it is read an epoch."""
    source: str | None = Field(None, pattern=r"^.+:\w+$")
    """A DataSource of your own that reads `path`, as ./file.py:ClassName (trainers/README.md); `path` may then be a file. null: parquet
    files."""
    prepare: ShapesConfig | None = None
    """Make the data at `path` when it is not there yet; null: it must be there."""
    num_frames: PositiveInt = 77
    """Frames of a clip, 1 plus a multiple of the VAE's time stride."""
    height: PositiveInt = 448
    """Height of a clip, a multiple of 16 with Wan's VAE."""
    width: PositiveInt = 832
    """Width of a clip, a multiple of 16 with Wan's VAE."""
    vae_stride: tuple[PositiveInt, PositiveInt, PositiveInt] = (4, 8, 8)
    """Pixels of a clip for one latent over time, height and width; (4, 8, 8) is Wan2.1's VAE."""
    latents_mean: list[float] | None = None
    """Mean of the latents of each channel. Stored latents are as the VAE makes them; training subtracts this and divides by latents_std.
    null: those of Wan2.1's VAE."""
    latents_std: list[PositiveFloat] | None = None
    """Standard deviation of the latents of each channel; null: those of Wan2.1's VAE."""
    text_len: PositiveInt = 512
    """Tokens of a prompt's embedding: shorter ones are padded with zeros, longer ones cut."""
    text_dropout: float = Field(0.0, ge=0, lt=1)
    """Share of samples that are trained on the empty prompt, for classifier-free guidance."""
    global_batch_size: PositiveInt
    """Samples of one step, over all ranks. It must be a multiple of micro_batch_size times the data-parallel ranks."""
    micro_batch_size: PositiveInt | None = None
    """Samples of one forward pass on one rank; gradients are accumulated over as many passes as the batch needs. null: global_batch_size /
    data-parallel ranks, fixed at submission."""
    workers: int = Field(1, ge=0)
    """Processes of a rank that load data ahead; 0: the rank itself loads."""
    cache_gb: float = Field(1.0, gt=0)
    """Memory for decoded rows in one loader process. Larger data with many rows a row group is shuffled by row groups."""
    max_bad_share: float = Field(0.05, ge=0, le=1)
    """A row that cannot be used is replaced by another one, and logged. More than this share of the rows read end the run; 0: the first one
    does."""
    check_statistics: bool = True
    """Refuse to start where the normalised latents of a few samples are far from mean 0 and deviation 1."""

    @property
    def folders(self) -> dict[str, int]:
        """Return how often each folder is read in an epoch."""
        return {self.path: 1} if isinstance(self.path, str) else dict(self.path)

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """Return the shape (T, H, W) of one sample's latents."""
        t, h, w = self.vae_stride
        return (self.num_frames - 1) // t + 1, self.height // h, self.width // w

    def misfits(self) -> list[Problem]:
        """Return the sizes that the VAE's strides and the network's 2x2 patches do not take; paths are below `data`."""
        return size_misfits(self.vae_stride, num_frames=self.num_frames, height=self.height, width=self.width)


def size_misfits(
    stride: tuple[int, int, int], *, num_frames: int | None = None, height: int | None = None, width: int | None = None
) -> list[Problem]:
    """Return those sizes of a clip that a VAE of this stride over time, height and width and 2x2 patches do not take; None fits."""
    problems, (time_stride, *space) = [], stride
    if num_frames is not None and (num_frames - 1) % time_stride:
        near = (num_frames - 1) // time_stride * time_stride + 1
        message = f"{num_frames} frames are not 1 + a multiple of the VAE's time stride {time_stride}"
        problems.append(Problem(("num_frames",), message, f"use {near} or {near + time_stride}"))
    for name, size, step in zip(("height", "width"), (height, width), space, strict=True):
        if size is not None and size % (step * 2):
            message = f"{size} is not a multiple of {step * 2} (VAE stride {step} x patch 2)"
            near = size // (step * 2) * step * 2
            problems.append(Problem((name,), message, f"use {f'{near} or ' if near else ''}{near + step * 2}"))
    return problems
