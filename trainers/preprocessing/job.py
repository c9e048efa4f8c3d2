"""Owns a preprocessing job: which rank does which entries, what is there already, a stop, the report. Must not encode or decode.

The ranks share nothing but the output folder. Rank 0 says at the start what is left to do and at the end what came of it.
"""

from __future__ import annotations

import errno
from collections.abc import Generator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import torch

from .. import files
from ..config.counting import counted
from ..config.data import size_misfits
from ..config.data_folder import places_beside
from ..config.parallel import ParallelConfig
from ..config.programs.preprocess import Config, RewriteConfig, VideosConfig
from ..control import EXIT_FINISHED, EXIT_SAVED, Control
from ..data.parquet_schema import PROMPTS
from ..distributed import mesh
from ..distributed.collectives import RankGroup
from ..errors import UserError
from ..models.codecs.base import Codec
from ..models.codecs.shapes import ShapesCodec
from ..models.codecs.wan import WanCodec, text_encoder_digest
from ..models.loading import model_folder as models
from . import mended_source, output_shards, prompt_writer
from .clips import Settings
from .decode_workers import Decoders
from .output_shards import Shards
from .source_entries import SourceEntries
from .task_loop import Task, work
from .text_task import Prompts
from .video_task import Videos, refuse_too_many

SHAPES = "shapes"
_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
ENTRIES = "entries.json"
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES)


def run(config: Config, run_dir: Path, control: Control) -> int:
    """Do this rank's share and return the exit code. `run_dir` gets nothing but entries.json, how many entries were used: all else is in
    the output, so that another run can go on there."""
    parallel = mesh.start(ParallelConfig())
    control.progress("loading", 0)
    with _room(Path(config.output)):
        code = _Job(config, run_dir, control, parallel).run()
    mesh.stop()
    return code


class _Job:
    def __init__(self, config: Config, run_dir: Path, control: Control, parallel: mesh.ParallelContext) -> None:
        self._config, self._run_dir, self._control, self._parallel = config, run_dir, control, parallel
        self._peers = RankGroup(control)
        self._output = Path(config.output).expanduser()
        self._done = 0

    def run(self) -> int:
        listing = SourceEntries(self._config)
        self._same_on_all_ranks(listing.digest)
        for remark in listing.remarks if self._parallel.rank == 0 else ():
            self._warn(remark)
        settled = self._settled(listing)
        self._parallel.on_first(lambda: self._refuse_listed(listing), self._waiting)
        left = output_shards.remaining(len(listing.names), settled)
        mine = output_shards.share(left, self._parallel.rank, self._parallel.world_size)
        with ExitStack() as opened:
            task = self._task(listing, mine, opened)
            finished = self._work(task, mine, (len(listing.names) - len(left)) // self._parallel.world_size)
        self._parallel.on_first(lambda: None, lambda seconds: self._control.progress("finishing", seconds))
        if self._parallel.any_rank(not finished)[0]:
            return EXIT_SAVED
        self._report(len(listing.names), settled)
        return EXIT_FINISHED

    def _same_on_all_ranks(self, digest: str) -> None:
        if len(set(self._peers.gather(digest))) > 1:
            raise UserError(f"the ranks do not see the same entries in {self._config.source}", "is it on a disk that all nodes share?")

    def _settled(self, listing: SourceEntries) -> list[output_shards.Record]:
        """Return the records of earlier attempts; rank 0 reads them, so that all ranks have the same."""
        records: list[output_shards.Record] = []
        settings = listing.settings()

        def read() -> None:
            with suppress(OSError):
                (self._run_dir / ENTRIES).unlink(missing_ok=True)
            mended = output_shards.claim(self._output, settings)
            there = output_shards.settled(self._output, self._warn)
            if mended:
                kept = mended_source.carried_over(self._output, there, listing.keys())
            else:
                kept = mended_source.without_mended(there, listing.names, self._written_s, listing.is_newer)
            if mended or kept is not there:
                output_shards.replace(self._output, kept, settings)
                number = sum(record.written for record in kept)
                self._warn(
                    f"the source was mended: what is written stays ({counted(number, 'sample')}), and what was rejected is tried again"
                )
            records.extend(kept)

        self._parallel.on_first(read, self._waiting)
        return self._peers.from_rank_0(lambda: records)

    def _written_s(self, record: output_shards.Record) -> float:
        """Return when a record was written, in seconds."""
        return record.path(self._output / output_shards.HIDDEN / output_shards.RECORDS).stat().st_mtime

    def _refuse_listed(self, listing: SourceEntries) -> None:
        """Raise UserError, before anything is encoded, where the source's list alone says that too little can be used."""
        if not listing.entries:
            return
        problems = [{"name": e.name, "reason": e.problem.reason, "text": e.problem.text} for e in listing.entries if e.problem is not None]
        listed = output_shards.Record(0, 0, written=len(listing.entries) - len(problems), problems=problems)
        report = output_shards.summary(len(listing.names), [listed])
        try:
            refuse_too_many(report, self._config.max_rejected if problems else 1.0)
        except UserError:
            self._publish({**report, "written": 0})
            raise

    def _task(self, listing: SourceEntries, mine: list[int], opened: ExitStack) -> Task:
        """Return the task with its codec loaded, and have rank 0 write the prompts."""
        config, task, codec = self._config, listing.task, None
        decoders = None
        if isinstance(config, VideosConfig) and config.decoders and mine:
            decoders = Decoders(min(config.decoders, len(mine)), _clip(config), config.decode_limit_s)
            opened.callback(decoders.close)
        if config.model is not None:
            codec = _codec(config.model, config.revision, config, self._parallel.device)
        self._parallel.on_first(lambda: self._prompts(codec, listing.source), self._waiting)
        if task is not None:
            return task
        assert codec is not None
        if isinstance(config, VideosConfig):
            _check_sizes(config, codec)
            chosen = {"seed": config.seed, "random_start": config.random_start, "holdout": config.holdout}
            return Videos(listing.entries, codec, _clip(config), decoders=decoders, **chosen)  # type: ignore[arg-type]
        return Prompts(listing.entries, codec)

    def _prompts(self, codec: Codec | None, source: Path) -> None:
        """Write prompts.safetensors, on rank 0, or copy it where data is rewritten."""
        config = self._config
        if isinstance(config, RewriteConfig):
            stored = next((path for place in places_beside(source) if (path := place / PROMPTS).is_file()), None)
            if stored is not None:
                prompt_writer.copy(stored, self._output)
                return
            if codec is None:
                self._warn(f"{source} has no {PROMPTS}, and no model was named to write one: guidance and text dropout need it")
                return
        assert codec is not None and config.model is not None
        texts = prompt_writer.texts(codec, config.negative_prompt, config.validation_prompts)
        if not prompt_writer.holds(self._output / PROMPTS, texts):
            prompt_writer.write(self._output, codec, texts, self._encoder(config.model))

    def _encoder(self, model: str) -> str:
        if model == SHAPES:
            return ShapesCodec.__name__
        read = 0

        def tick(count: int) -> None:
            nonlocal read
            read += count
            self._control.progress("loading", read)

        return text_encoder_digest(models.resolve(model, self._config.revision), tick)

    def _work(self, task: Task, mine: Sequence[int], before: int) -> bool:
        total = before + len(mine)

        def done(number: int) -> None:
            self._control.progress("preprocessing", before + number, max_steps=total)

        out = Shards(self._output, self._parallel.rank, self._config.rows_per_file, self._peers.end_if_superseded)
        self._records = out.records
        self._control.progress("preprocessing", before, max_steps=total)
        warn_crop = self._config.warn_crop if isinstance(self._config, VideosConfig) else 1.0
        return work(task, out, mine, done=done, stop=lambda: self._control.stop_requested, warn_crop=warn_crop)

    def _report(self, total: int, settled: list[output_shards.Record]) -> None:
        """Write report.json and warn of what in it is worth it; too many entries that cannot be used are a UserError, on all ranks."""
        report = output_shards.summary(total, [*settled, *(record for rank in self._peers.gather(self._records) for record in rank)])

        def publish() -> None:
            self._publish(report)
            if report["problems"]:
                reasons = ", ".join(f"{count} {reason}" for reason, count in report["rejected"].items())
                self._warn(
                    f"{len(report['problems'])} of {counted(total, 'entry', 'entries')} could not "
                    f"be used ({reasons}): see {output_shards.REPORT} in the output"
                )
            if report["heavy_crops"]:
                worst = min(report["heavy_crops"], key=lambda crop: crop["kept"])
                self._warn(
                    f"most of the picture of {counted(len(report['heavy_crops']), 'clip')} is lost to the wanted aspect ratio; "
                    f"the worst, {worst['name']}, keeps {worst['kept']:.0%}"
                )
            refuse_too_many(report, self._config.max_rejected)

        self._parallel.on_first(publish, self._waiting)

    def _publish(self, report: dict[str, Any]) -> None:
        """Write report.json into the output, and the numbers of it where whoever launched this looks."""
        files.publish_json(self._output / output_shards.REPORT, report)
        numbers = {key: report[key] for key in ("entries", "written", "holdout", "rejected")}
        try:
            files.publish_json(self._run_dir / ENTRIES, numbers)
        except OSError as error:  # the data are whole, and the report is beside them
            self._warn(f"{self._run_dir / ENTRIES} cannot be written: {error.strerror or error}")

    def _waiting(self, seconds: int) -> None:
        self._control.progress("loading", seconds)

    def _warn(self, text: str) -> None:
        self._peers.warn(text)


def _clip(config: VideosConfig) -> Settings:
    return Settings(config.num_frames, config.height, config.width, config.fps, config.duration_tolerance)


def _codec(model: str, revision: str | None, config: Config, device: torch.device) -> Codec:
    if model == SHAPES:
        return ShapesCodec()
    return WanCodec(models.resolve(model, revision), device, _DTYPES[config.dtype], video=isinstance(config, VideosConfig))


def _check_sizes(config: VideosConfig, codec: Codec) -> None:
    """Raise UserError, before any clip is decoded, for sizes that the VAE and the transformer's 2x2 patches cannot take."""
    if not isinstance(codec, WanCodec):
        return
    for wrong in size_misfits(codec.strides, num_frames=config.num_frames, height=config.height, width=config.width):
        raise UserError(f"{wrong.path[-1]}: {wrong.message}", wrong.hint)


@contextmanager
def _room(output: Path) -> Generator[None, None, None]:
    try:
        yield
    except OSError as error:
        if error.errno in _NO_ROOM:
            raise UserError(f"cannot write to {output}: {error.strerror}", "output must be on a disk with room") from error
        raise
