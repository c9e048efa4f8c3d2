"""Owns the task of encoding clips with their captions: entries -> t2v samples. Must not know ranks or what is on the disk already."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Generator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..config.counting import counted
from ..data.parquet_schema import Floats, Sample
from ..errors import UserError
from ..files import publish_json
from ..models.codecs.base import Codec
from ..sources.entries import Columns, Entry, Rejected
from ..sources.listing import entries
from . import prompt_writer
from .clips import Clip, Settings, read_clip
from .decode_workers import Decoders, Job
from .output_shards import REPORT, Shards, summary
from .task_loop import Outcome, work


class Videos:
    """Encodes clips. `holdout` is the share of entries to hold out, chosen by seed and id; without `decoders` clips are decoded in this
    process."""

    def __init__(
        self,
        listed: Sequence[Entry],
        codec: Codec,
        settings: Settings,
        *,
        seed: int = 0,
        random_start: bool = False,
        holdout: float = 0.0,
        decoders: Decoders | None = None,
    ) -> None:
        self.names = [entry.name for entry in listed]
        self._entries, self._codec, self._settings, self._decoders = listed, codec, settings, decoders
        self._seed, self._random_start = seed, random_start
        self._held_out = held_out([entry.id for entry in listed], holdout, seed)

    def outcomes(self, indices: Sequence[int], waiting: Callable[[], None]) -> Generator[Outcome, None, None]:
        jobs = (self._job(self._entries[index]) for index in indices)
        clips = self._decoders.clips(jobs, waiting) if self._decoders is not None else map(self._decode, jobs)
        for index, clip in zip(indices, clips, strict=True):
            yield self._outcome(self._entries[index], clip)

    def _job(self, entry: Entry) -> Job | Rejected:
        start = draw(self._seed, "start", entry.id) if self._random_start else 0.0
        try:
            if entry.problem is not None:
                return entry.problem
            video = entry.video() if callable(entry.video) else entry.video
        except Rejected as problem:
            return problem
        assert video is not None, entry
        return video, start

    def _decode(self, job: Job | Rejected) -> Clip | Rejected:
        try:
            return job if isinstance(job, Rejected) else read_clip(job[0], self._settings, job[1])
        except Rejected as problem:
            return problem

    def _outcome(self, entry: Entry, clip: Clip | Rejected) -> Outcome:
        if isinstance(clip, Rejected):
            return Outcome(clip)
        try:
            sample = self._sample(entry, clip)
        except Rejected as problem:
            return Outcome(problem)
        return Outcome(sample, entry.id in self._held_out, clip.kept)

    def _sample(self, entry: Entry, clip: Clip) -> Sample:
        return Sample(
            id=entry.id,
            latents=finite("latents", self._codec.encode_video(clip.frames)),
            text=encode_text(self._codec, entry.caption),
            file_name=entry.name,
            caption=entry.caption,
            width=clip.width,
            height=clip.height,
            duration_s=clip.duration_s,
            fps=clip.fps,
        )


def encode_text(codec: Codec, text: str) -> Floats:
    """Return a prompt's embedding [L, D]; Rejected where it is not finite, or the codec refuses the words."""
    try:
        return finite("text embeddings", codec.encode_text(text))
    except UserError as error:
        raise Rejected("bad_caption", error.message) from error


def finite(what: str, values: Tensor) -> Floats:
    if not torch.isfinite(values).all():
        raise Rejected("not_finite", f"its {what} are not finite: the codec overflows in this dtype, or is damaged")
    array: Floats = values.float().cpu().numpy()
    return array


def held_out(ids: Sequence[str], share: float, seed: int) -> set[str]:
    """Return a share of the ids, chosen by lot: at least one where the share is not zero, and never all."""
    if not share or len(ids) < 2:
        return set()
    number = min(max(1, round(share * len(ids))), len(ids) - 1)
    return set(sorted(ids, key=lambda name: (draw(seed, "holdout", name), name))[:number])


def draw(seed: int, purpose: str, name: str) -> float:
    """Return a number uniform in [0, 1) that follows from the arguments alone, whatever else is drawn."""
    digest = hashlib.sha256(f"{purpose} {seed} {name}".encode()).digest()
    return int.from_bytes(digest[:8], "little") / 2**64


def preprocess(
    source: Path, output: Path, codec: Codec, settings: Settings, *, report: Callable[[int], None], validation_prompts: Sequence[str] = ()
) -> dict[str, Any]:
    """Preprocess a small folder of clips, in this process, into a fresh `output`, and return what report.json holds.

    `report` gets the number of clips done.
    """
    task = Videos(entries(source, Columns()), codec, settings)
    shards = Shards(output, 0, rows_per_file=64)
    work(task, shards, range(len(task.names)), done=report)
    prompt_writer.write(output, codec, prompt_writer.texts(codec, validation=list(validation_prompts)), encoder=type(codec).__name__)
    report_content = summary(len(task.names), shards.records)
    publish_json(output / REPORT, report_content)
    refuse_too_many(report_content, 1.0)
    return report_content


def refuse_too_many(report: dict[str, Any], max_rejected: float) -> None:
    """Raise UserError where a report says that nothing, or too little, could be used."""
    problems, entries = report["problems"], report["entries"]
    if report["written"] and len(problems) <= max_rejected * entries:
        return
    first = "; ".join(f"{problem['name']}: {problem['text']}" for problem in problems[:5])
    listed = f"{REPORT} lists why; the first: {first}"
    if not report["written"]:
        raise UserError(f"none of {counted(entries, 'entry', 'entries')} can be used", listed)
    needed = math.ceil(100 * len(problems) / entries) / 100
    raise UserError(
        f"only {report['written']} of {counted(entries, 'entry', 'entries')} can be used: {len(problems)} "
        f"rejected {'is' if len(problems) == 1 else 'are'} more than max_rejected "
        f"{max_rejected:g} of them",
        f"mend them, or set max_rejected to {needed:g} or more, and resume: what is written stays; {listed}",
    )
