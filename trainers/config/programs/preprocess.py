"""Owns the `preprocess` block: clips, prompts or others' parquet files -> training data. Must not import torch."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, PositiveFloat, PositiveInt

from ..section import Section

DEFAULT_NEGATIVE = "default"
MAY_CHANGE = frozenset(
    ("rows_per_file", "max_rejected", "decoders", "decode_limit_s", "warn_crop", "negative_prompt", "validation_prompts")
)
"""Keys that may change between a job and its continuation: they do not change what a sample holds."""


class _Common(Section):
    source: str
    """Where the input is: a folder or file, or the id of a Hugging Face data set that was downloaded."""
    source_revision: str | None = None
    """Commit, branch or tag of a Hugging Face data set; null: the default branch as downloaded."""
    output: str
    """Folder to write: combined_parquet_dataset/, holdout/, prompts.safetensors and report.json. A job that was cut short goes on there."""
    rows_per_file: PositiveInt = 64
    """Samples of one parquet file. A killed job loses at most this many of each rank."""
    max_rejected: float = Field(0.5, ge=0, le=1)
    """A larger share of entries that cannot be used ends the job; report.json lists them. Fewer are logged and left out. A job that
    ended so goes on with a larger share, and writes nothing twice."""
    revision: str | None = None
    """Commit, branch or tag of the model on the Hugging Face hub; null: the default branch as downloaded."""
    dtype: Literal["fp32", "bf16"] = "fp32"
    """Number format in which the VAE and the text encoder compute; float32 is meant in full, without TF32. What is stored is float32 either
    way."""
    negative_prompt: str = DEFAULT_NEGATIVE
    """Prompt whose embedding guidance uses for its unconditional prediction; "default" is the model family's own."""
    validation_prompts: list[str] = []
    """Prompts that are embedded here once, so that a run can show samples without loading a text encoder."""

    def resolved(self) -> dict[str, Any]:
        """Return plain data that parses back to an equal config."""
        return self.model_dump(mode="json")


class VideosConfig(_Common):
    """Clips with captions: videos/ + videos2caption.json, metadata.jsonl or .csv, x.mp4 + x.txt, a Hugging Face dataset, or another of the
    layouts in trainers/README.md."""

    kind: Literal["videos"]
    """Chooses clips with captions."""
    model: str
    """Whose VAE and text encoder encode: a diffusers folder, a hub id, tiny-wan, or `shapes`, the codec of the moving-shapes task."""
    split: str | None = None
    """Only files of this name ("train"), of a Hugging Face data set or in folders. null: all of a data set's tables; of folders with a list
    each, those that are not for testing."""
    video_column: str | None = None
    """Column of a table that names the clip. null: video, file_name, path, clip and other known names, whichever there is."""
    caption_column: str | None = None
    """Column of a table that holds the caption. null: caption, text, prompt, description and other known names, whichever there is."""
    num_frames: PositiveInt = 77
    """Frames that are cut from each clip, 1 plus a multiple of the VAE's time stride."""
    height: PositiveInt = 448
    """Height that clips are scaled and cropped to."""
    width: PositiveInt = 832
    """Width that clips are scaled and cropped to."""
    fps: PositiveFloat = 16.0
    """Rate at which frames are taken, whatever the file's own."""
    duration_tolerance: PositiveFloat = 5.0
    """Clips longer than this many times num_frames / fps are left out: their caption tells of more than what is cut from them."""
    random_start: bool = False
    """Take a stretch of the clip at random, drawn from the seed, rather than its beginning."""
    warn_crop: float = Field(0.5, ge=0, le=1)
    """Warn where more than this share of a clip's picture is cut off to get the wanted aspect ratio."""
    holdout: float = Field(0.0, ge=0, lt=1)
    """Share of clips, chosen by seed and name, that goes to holdout/ instead: for validation, never for training."""
    seed: int = Field(1000, ge=0)
    """Seed of the choice of held-out clips and of random starts."""
    decoders: int = Field(2, ge=0)
    """Processes of a rank that decode clips ahead. 0: the rank itself decodes, and a damaged file can end it."""
    decode_limit_s: PositiveFloat = 120.0
    """A clip that takes longer to decode is left out."""


class TextConfig(_Common):
    """Prompts for the methods that need no clips: a .txt file (one a line), .jsonl, .json, .csv, or a column of a dataset."""

    kind: Literal["text"]
    """Chooses prompts without clips."""
    model: str
    """Whose text encoder encodes: a diffusers folder, a hub id, tiny-wan, or `shapes`."""
    split: str | None = None
    """Of a Hugging Face data set, only files of this name ("train"); null: all."""
    column: str | None = None
    """Column of a table that holds the prompt. null: caption, text, prompt, description and other known names, whichever there is."""


class RewriteConfig(_Common):
    """Others' parquet files of the same columns, written again with one sample a row group, which reads many times faster."""

    kind: Literal["rewrite"]
    """Chooses others' parquet files."""
    model: str | None = None
    """Whose text encoder writes prompts.safetensors where the source has none; null: do without."""


Config = Annotated[VideosConfig | TextConfig | RewriteConfig, Field(discriminator="kind")]
"""The block's type, for a model's field or a TypeAdapter."""
