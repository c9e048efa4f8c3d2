"""Owns the knobs of validation: samples of fixed prompts and noise, and a loss at fixed noise levels. Must not import torch."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt

from . import denoising_steps as steps
from .attention_window import blocks_fit
from .data import DataConfig
from .export_folder import WeightsKind
from .section import Section

FEW_STEP_SOLVERS = ("sde", "ode")
Step = Annotated[int, Field(ge=1, le=1000)]


class ValidationLossConfig(Section):
    """The loss on clips and noise that are the same at every validation."""

    path: str | None = None
    """Folder of parquet files that the run does not train on. null: the folder `holdout` beside the data, and without one the data
    itself."""
    num_samples: PositiveInt = 8
    """The first so many samples are used, each at every one of `steps`."""
    steps: Annotated[list[Step], Field(min_length=1)] = [200, 400, 600, 800]
    """Noise levels, 1 to 1000, counted before flow_shift is applied to them."""


class ValidationConfig(Section):
    """Sample videos and a loss while training, in the run's folder samples/. Prompts and noise are the same each time."""

    every_steps: PositiveInt = 100
    """Validate at multiples of this step, and at the last one."""
    prompts: Annotated[list[str], Field(min_length=1)] | None = None
    """What the samples show; they are encoded when the run starts. null: the prompts that the data was preprocessed with, or else those of
    the first two samples."""
    seed: NonNegativeInt = 0
    """Prompt number n is sampled from the noise of seed + n."""
    solver: Literal["unipc", "euler", "sde", "ode"] | None = None
    """unipc, euler: many steps, as stock pipelines make them. sde, ode: the few timesteps of a distilled student, with fresh noise after
    each, or with the noise that its prediction implies. null: as a student of few steps is trained, unipc for others."""
    num_steps: PositiveInt | None = None
    """Sampling steps of unipc and euler; null: 50."""
    timesteps: list[int | float] | None = None
    """Timesteps of sde and ode, descending; null: those that the student is trained at."""
    guidance_scale: float | None = Field(None, ge=0)
    """Classifier-free guidance: s of u + s (c - u); 1: none. null: 1 for a student of few steps, 5 for others."""
    negative_prompt: str | None = None
    """Prompt of the unconditional prediction u. null: the one that the data was preprocessed with."""
    flow_shift: PositiveFloat | None = None
    """flow_shift of unipc and euler; null: train.flow_shift."""
    weights: WeightsKind | None = None
    """Sample with the trained weights (live) or with their moving average (ema). null: the average where there is one."""
    num_frames: PositiveInt | None = None
    """Frames of a sample; null: the data's."""
    height: PositiveInt | None = None
    """Height of a sample; null: the data's."""
    width: PositiveInt | None = None
    """Width of a sample; null: the data's."""
    fps: PositiveInt = 16
    """Frame rate of the mp4 files."""
    local_attn_size: PositiveInt | None = None
    """Latent frames that a block of a causal student sees. null: the student's own; where it has none, samples that are longer than the
    data's clips see as many as these have."""
    sink_frames: NonNegativeInt | None = None
    """First latent frames that every block of a causal student sees; null: the student's own."""
    model: str | None = None
    """Whose VAE decodes and whose text encoder encodes: a diffusers folder, a hub id, or `shapes`. null: what the student starts from."""
    videos: bool = True
    """Make sample videos; false: only the loss."""
    loss: ValidationLossConfig | None = ValidationLossConfig()
    """Compute the validation loss; null: only make videos."""

    def filled(self, few_steps: list[float] | None, few_step_solver: Literal["sde", "ode"] = "sde") -> ValidationConfig:
        """Return these settings with what null means for the sampler written out. `few_steps`: the timesteps that the student is trained
        at."""
        solver = self.solver or (few_step_solver if few_steps or self.timesteps else "unipc")
        few = solver in FEW_STEP_SOLVERS
        guidance_scale = (1.0 if few_steps else 5.0) if self.guidance_scale is None else self.guidance_scale
        timesteps = (self.timesteps or few_steps) if few else None
        num_steps = len(timesteps) if timesteps is not None else self.num_steps or 50
        return self.model_copy(update={"solver": solver, "num_steps": num_steps, "timesteps": timesteps, "guidance_scale": guidance_scale})

    def sampler_problem(self, few_steps: list[float] | None, flow_shift: float) -> tuple[str, str, str] | None:
        """Return (key, what is wrong, hint) where the sampler's keys contradict each other or the student; else None."""
        filled = self.filled(few_steps)
        if filled.solver not in FEW_STEP_SOLVERS:
            return None if self.timesteps is None else ("timesteps", f"are not of {filled.solver}", "solver: sde or ode, or num_steps")
        if filled.timesteps is None:
            return (
                "solver",
                f"{filled.solver} needs timesteps: this student is not trained at any few",
                "timesteps: [...], or solver: unipc",
            )
        if self.num_steps not in (None, filled.num_steps):
            hint = "leave num_steps out; timesteps: [...] gives others, and solver: unipc takes any number"
            return "num_steps", f"{self.num_steps} are not the {filled.num_steps} timesteps {filled.timesteps} of {filled.solver}", hint
        if self.flow_shift not in (None, flow_shift):
            return "flow_shift", f"{self.flow_shift:g} is not the {flow_shift:g} that the student is trained with", "leave it out"
        if wrong := steps.wrong(filled.timesteps, flow_shift, warped=False, from_noise=True):
            return "timesteps", *wrong
        return None

    def window(self, student: Any, data: DataConfig) -> tuple[int | None, int] | None:
        """Return (latent frames that a block of a causal student sees, or None for all earlier ones; sink frames); None for another
        student."""
        if not hasattr(student, "local_attn_size"):
            return None
        trained, frames = data.latent_shape[0], self.sizes(data).latent_shape[0]
        size = self.local_attn_size or student.local_attn_size or (trained if frames > trained else None)
        sink = student.sink_frames if self.sink_frames is None else self.sink_frames
        return size, 0 if size is None else sink

    def window_problem(self, student: Any, data: DataConfig) -> tuple[str, str, str] | None:
        """Return (key, what is wrong, hint) where the window does not fit the student; else None."""
        given = [key for key in ("local_attn_size", "sink_frames") if getattr(self, key) is not None]
        window = self.window(student, data)
        if window is None:
            return (given[0], "is of a causal student, which goes on block by block", "leave it out") if given else None
        wrong = blocks_fit(*window, student.num_frames_per_block)
        return (given[0] if given else "num_frames", *wrong) if wrong else None

    def sizes(self, data: DataConfig) -> DataConfig:
        """Return the data's settings with the sizes of the samples."""
        given = {name: value for name in ("num_frames", "height", "width") if (value := getattr(self, name)) is not None}
        return data.model_copy(update=given)
