"""Owns validation during training: videos of fixed prompts and noise, a loss at fixed noise levels. Must not change the training.

Weights are swapped and put back bit by bit, no generator of the training is touched, and every rank makes the same number of forward
passes. The result is published as RUN/samples/step-00000500/: NNN.mp4, sheet.png and validation.json.
"""

from __future__ import annotations

import itertools
import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..checkpointing.step_names import step_name
from ..config import TrainConfig, data_folder
from ..config.stored_json import read_object
from ..control import Control, StopRequested
from ..data.dataset import ParquetDataset, normalised, statistics
from ..diffusion.flow_schedule import FlowSchedule
from ..diffusion.losses import velocity_loss
from ..distributed.collectives import RankGroup
from ..distributed.mesh import ParallelContext, drop_gathered
from ..errors import UserError
from ..files import fsync_path
from ..inference import generation, prompt_encoding, settings, video_files
from ..inference.prompt_encoding import Embedded
from ..models.base import ModelBase
from ..optim.ema import EMACallback
from ..seeding import derived_seed

_ROLE = "student"
_FILE = "validation.json"
Numbers = dict[str, float]


@dataclass(frozen=True)
class Outcome:
    """What a validation found: `numbers` for the step's record, and the files of rank 0's folder, if any, with the videos as (prompt,
    mp4)."""

    numbers: Numbers
    sheet: Path | None
    videos: list[tuple[str, Path]]


class Validation:
    """The validation that callbacks.validation configures. All ranks make it together before any network, as encoding prompts may need a
    text encoder's memory."""

    def __init__(self, train: TrainConfig, run_dir: Path, parallel: ParallelContext, control: Control) -> None:
        assert train.callbacks.validation is not None
        self.config, self._train, self._parallel, self._control = train.sampling(), train, parallel, control
        self._samples, self._peers = run_dir / "samples", RankGroup(control)
        self._averaged = _use_averages(train)
        self._sampling = settings.sampling_of(train, self.config, len(statistics(train.data)[0]))
        self._reference = prompt_encoding.model_reference(train, self.config.model, _ROLE)
        self._schedule = FlowSchedule(train.flow_shift, parallel.device)
        self._prompts, self._negative = self._embedded() if self.config.videos else ([], None)
        self._held_out = self._open_held_out()
        self._ticks = 0
        self.cut_off = False
        """Whether a stop notice ended the last one."""

    def due(self, step: int) -> bool:
        """Return whether the run is to be validated after this step."""
        return step > 0 and (step % self.config.every_steps == 0 or step == self._train.max_steps)

    def stored(self, step: int) -> Outcome | None:
        """Return what an earlier attempt found at this step, if it did; the same answer on all ranks. Collective."""
        return self._peers.from_rank_0(lambda: _read(self._folder(step)))

    def run(self, step: int, model: ModelBase, ema: EMACallback | None) -> Outcome | None:
        """Validate the model after `step`. Collective. Returns None where a stop notice ended it."""
        try:
            with _evaluation_mode(model), ema.in_place_of_weights(_ROLE) if self._averaged and ema is not None else nullcontext():
                numbers = self._loss(model) if self._held_out is not None else {}
                latents = self._latents(model) if self._prompts else {}
        except StopRequested:
            self.cut_off = True
            return None
        return self._publish(step, numbers, latents)

    # --- the loss

    def _open_held_out(self) -> ParquetDataset | None:
        section = self.config.loss
        if section is None or self._train.method.needs != "latents":
            return None
        places = [data_folder.places_beside(Path(folder)) for folder in self._train.data.folders]
        beside = [place / data_folder.HOLDOUT for level in itertools.zip_longest(*places) for place in level if place is not None]
        held_out = [str(folder) for folder in beside if folder.is_dir() and data_folder.parquet_files(folder)]
        apart = section.path or (held_out[0] if held_out else None)
        data = self._train.data if apart is None else self._train.data.model_copy(update={"path": apart, "source": None})
        return ParquetDataset(data.model_copy(update={"text_dropout": 0.0}), self._train.seed)

    def _loss(self, model: ModelBase) -> Numbers:
        """Return validation_loss, and validation_loss_STEP at each noise level: means over the held-out samples."""
        assert self.config.loss is not None and self._held_out is not None
        steps = self.config.loss.steps
        pairs = [(i, level) for i in range(min(self.config.loss.num_samples, len(self._held_out))) for level in range(len(steps))]
        sums = torch.zeros(2, len(steps), dtype=torch.float64, device=self._parallel.device)
        for index, level, counts in self._share(pairs):
            value = self._pair_loss(model, index, steps[level])
            sums[:, level] += counts * torch.stack([value.double(), torch.ones_like(value, dtype=torch.float64)])
            self._heartbeat()
        losses, weights = self._parallel.mean(sums).tolist()
        by_step = [loss / weight for loss, weight in zip(losses, weights, strict=True)]
        single = {f"validation_loss_{step}": loss for step, loss in zip(steps, by_step, strict=True)}
        return {"validation_loss": sum(by_step) / len(by_step), **single}

    def _share(self, work: list[Any]) -> Iterator[tuple[Any, ...]]:
        """Yield this rank's items of `work`, each followed by 1 if it counts, else 0. All ranks get equally many: the last ones repeat what
        others have."""
        ranks, mine = self._parallel.data_parallel, self._parallel.data_rank
        for start in range(0, len(work), ranks):
            yield *work[min(start + mine, len(work) - 1)], int(start + mine < len(work))

    @torch.no_grad()
    def _pair_loss(self, model: ModelBase, index: int, step: int) -> Tensor:
        """Return the loss of one held-out sample at the noise level of `step` (1000 to 0), with noise that is always the same."""
        assert self._held_out is not None
        row = self._held_out[(0, index)]
        clean = normalised(row["latents"], *statistics(self._train.data)).transpose(0, 1)[None]
        generator = torch.Generator().manual_seed(derived_seed("validation", self.config.seed, index, step))
        noise = torch.randn(clean.shape, generator=generator).to(model.device)
        clean, timesteps = clean.to(model.device), torch.tensor([self._schedule.warp(step)], device=model.device)
        velocity = model.predict_velocity(
            self._schedule.add_noise(clean, noise, timesteps), timesteps, row["prompt"][None].to(model.device)
        )
        return velocity_loss(velocity, noise, clean)

    # --- the videos

    def _embedded(self) -> tuple[list[Embedded], Embedded | None]:
        """Return the prompts' and the negative prompt's embeddings, encoded on rank 0 where they are not stored. Collective."""

        def make() -> tuple[list[Embedded], Embedded | None]:
            texts = prompt_encoding.validation_texts(self._train, self.config)
            # a folder that cannot be used is an error now, not after hours of training
            prompt_encoding.make_codec(self._reference, self._train, self._parallel.device, text=False, video=False)

            def codec() -> Any:
                return prompt_encoding.make_codec(self._reference, self._train, self._parallel.device, text=True, video=False)

            unguided = self.config.guidance_scale == 1
            negative = None if unguided else prompt_encoding.negative_embedding(self._train, self.config.negative_prompt, codec)
            embedded = prompt_encoding.embed(texts, self._train, codec) if texts else prompt_encoding.sample_prompts(self._train)
            return embedded, negative

        return self._peers.from_rank_0(make)

    def _latents(self, model: ModelBase) -> dict[int, Tensor]:
        """Return this rank's videos as normalised latents [C, T, H, W], by the prompt's number."""
        negative = None if self._negative is None else self._negative.embedding
        made = {}
        for number, counts in self._share([(n,) for n in range(len(self._prompts))]):
            prompt = self._prompts[number].embedding
            latents = generation.latents(model, prompt, negative, self.config.seed + number, self._sampling, self._heartbeat)
            if counts:
                made[number] = latents
        return made

    def _heartbeat(self) -> None:
        """Send a heartbeat, and raise StopRequested on all ranks where any has a stop notice."""
        self._ticks += 1
        self._control.progress("validating", self._ticks)
        self._parallel.raise_if_stopping(self._control.stop_requested)

    # --- files

    def _publish(self, step: int, numbers: Numbers, latents: dict[int, Tensor]) -> Outcome:
        """Write the folder of this step. Where the disk takes no samples, warn and go on without. Collective."""
        temporary, problem = self._peers.from_rank_0(lambda: self._open(step))
        rows, problem = self._write(temporary, latents) if temporary is not None else ({}, problem)
        everyone = self._peers.gather((rows, problem))
        problems = [text for _, text in everyone if text]
        strips = {number: strip for part, _ in everyone for number, strip in part.items()}
        problem = self._peers.from_rank_0(lambda: self._finish(step, temporary, numbers, strips, problems))
        if problem:
            if self._parallel.rank == 0:
                self._peers.warn(f"the samples of step {step} could not be written: {problem}")
            return Outcome(numbers, None, [])
        return _read(self._folder(step)) or Outcome(numbers, None, [])

    def _open(self, step: int) -> tuple[Path | None, str]:
        """Make the folder's temporary form on rank 0: (path, "") or (None, what is wrong)."""
        self._peers.end_if_superseded()
        folder = self._samples / f".{self._folder(step).name}"
        try:
            shutil.rmtree(folder, ignore_errors=True)  # left over from an attempt that died
            folder.mkdir(parents=True)
            return folder, ""
        except OSError as error:
            return None, str(error)

    def _write(self, folder: Path, latents: dict[int, Tensor]) -> tuple[dict[int, video_files.Pixels], str]:
        """Write this rank's mp4s; return their rows of the contact sheet, and what went wrong, if anything."""
        strips: dict[int, video_files.Pixels] = {}
        codec = prompt_encoding.make_codec(self._reference, self._train, self._parallel.device, text=False, video=True) if latents else None
        try:
            for number, values in latents.items():
                assert codec is not None
                video = generation.decode(codec, values, self._train)
                fsync_path(video_files.write_mp4(folder / f"{number:03d}.mp4", video, self.config.fps))
                strips[number] = video_files.contact_sheet([(self._prompts[number].text, video)])
                self._control.progress("validating", self._ticks + len(strips))
        except OSError as error:
            return strips, str(error)
        return strips, ""

    def _finish(
        self, step: int, temporary: Path | None, numbers: Numbers, strips: dict[int, video_files.Pixels], problems: list[str]
    ) -> str:
        """Complete the folder on rank 0 and give it its name, in place of one that an earlier attempt left. Return what is wrong, if
        anything: then it is removed."""
        if temporary is None or problems:
            if temporary is not None:
                shutil.rmtree(temporary, ignore_errors=True)
            return problems[0]
        target = self._folder(step)
        try:
            if strips:
                video_files.write_png(temporary / "sheet.png", video_files.stacked([strips[number] for number in sorted(strips)]))
            videos = {f"{number:03d}.mp4": self._prompts[number].text for number in sorted(strips)}
            (temporary / _FILE).write_text(
                json.dumps({"step": step, "numbers": numbers, "videos": videos, **self._provenance()}, indent=1) + "\n"
            )
            fsync_path(temporary / _FILE)
            fsync_path(temporary)
            self._peers.end_if_superseded()
            shutil.rmtree(target, ignore_errors=True)
            temporary.rename(target)
            fsync_path(self._samples)
        except OSError as error:
            shutil.rmtree(temporary, ignore_errors=True)
            return str(error)
        return ""

    def _provenance(self) -> dict[str, Any]:
        """Return what it takes to make the videos again."""
        negative = None if self._negative is None else self._negative.text
        return {"settings": self.config.model_dump(mode="json"), "negative_prompt": negative}

    def _folder(self, step: int) -> Path:
        return self._samples / step_name(step)


def _use_averages(train: TrainConfig) -> bool:
    """Return whether averaged weights are sampled from. UserError where there is no role to validate."""
    section = train.callbacks.validation
    if _ROLE not in train.models:
        raise UserError(f"callbacks.validation samples from the role {_ROLE!r}, which this method lacks", "remove callbacks.validation")
    return train.callbacks.ema is not None and (section is None or section.weights != "live")


@contextmanager
def _evaluation_mode(model: ModelBase) -> Iterator[None]:
    """Put the model's networks into evaluation mode inside; restore their modes afterwards."""
    networks = list(model.networks.values())
    training = [network.training for network in networks]
    for network in networks:
        network.eval()
    try:
        yield
    finally:
        for network, before in zip(networks, training, strict=True):
            network.train(before)
            drop_gathered(network)


def _read(folder: Path) -> Outcome | None:
    """Return what a published folder holds; None where it is missing or damaged."""
    try:
        record = read_object(folder / _FILE)
        videos = [(str(text), folder / str(name)) for name, text in record["videos"].items()]
        sheet = folder / "sheet.png"
        return Outcome(dict(record["numbers"]), sheet if sheet.exists() else None, videos)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
