"""Owns clips -> parquet: reads `videos/` and `videos2caption.json`, decodes, encodes through a codec, writes samples and prompts.

A clip that cannot be used is counted and told in report.json, never dropped in silence. Must not know any particular codec.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import av
import safetensors.torch
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from ..errors import UserError
from .schema import FOLDER, PROMPTS, PartWriter, Sample, sync


class Codec(Protocol):
    """What turns pixels and words into what a model is trained on."""

    negative_prompt: str

    def encode_video(self, frames: Tensor) -> Tensor:
        """[3, T, H, W] in [-1, 1] -> un-normalised latents [C, T', H', W'] (a VAE's posterior mean)."""

    def encode_text(self, text: str) -> Tensor:
        """[L, D], without padding."""


@dataclass(frozen=True)
class Settings:
    num_frames: int
    height: int
    width: int
    train_fps: float
    rows_per_file: int = 64
    duration_tolerance: float = 5.0
    """Clips longer than this many training clips are left out: their caption tells of more than what is cut from them."""


@dataclass(frozen=True)
class Clip:
    """`frames` [3, T, H, W] in [-1, 1], and the file's own size, length and rate."""

    frames: Tensor
    width: int
    height: int
    duration_s: float
    fps: float


class Rejected(Exception):
    """A clip that cannot be used: `reason` is what is counted, the text is for a person."""

    def __init__(self, reason: str, text: str) -> None:
        super().__init__(text)
        self.reason = reason


def preprocess(source: Path, output: Path, codec: Codec, settings: Settings, *, report: Callable[[int], None]) -> dict[str, Any]:
    """Writes FOLDER, PROMPTS and report.json into `output`; what report.json holds. `report` gets the number of clips done."""
    listed = captions(source)
    problems: list[dict[str, str]] = []
    with PartWriter(output / FOLDER / "worker_0", settings.rows_per_file) as writer, torch.no_grad():
        for done, (name, caption) in enumerate(listed, 1):
            try:
                writer.write(_encode(source / "videos" / name, name, caption, codec, settings))
            except Rejected as problem:
                problems.append({"path": name, "reason": problem.reason, "text": str(problem)})
            report(done)
        prompts = {"empty": codec.encode_text(""), "negative": codec.encode_text(codec.negative_prompt)}
    _write_prompts(output / PROMPTS, prompts)
    summary = {
        "clips": len(listed),
        "written": len(listed) - len(problems),
        "rejected": dict(sorted(Counter(p["reason"] for p in problems).items())),
        "problems": problems,
    }
    (output / "report.json").write_text(json.dumps(summary, indent=1))
    if not summary["written"]:
        first = f"{problems[0]['path']}: {problems[0]['text']}" if problems else f"{source / 'videos2caption.json'} lists none"
        raise UserError(f"none of {len(listed)} clips in {source} can be used", f"the first: {first}")
    return summary


def captions(source: Path) -> list[tuple[str, str]]:
    """(path below videos/, caption) of each clip listed; a list of captions gives its first."""
    path = source / "videos2caption.json"
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}", "a folder of clips holds videos/ and videos2caption.json") from error
    except ValueError as error:
        raise UserError(f"{path} is not JSON: {error}") from error
    hint = 'it is a list of {"path": "clip.mp4", "cap": "what it shows"}'
    if not isinstance(found, list):
        raise UserError(f"{path} is not a list", hint)
    return [_caption(path, number, entry, hint) for number, entry in enumerate(found)]


def _caption(path: Path, number: int, entry: object, hint: str) -> tuple[str, str]:
    if isinstance(entry, dict):
        name, caption = entry.get("path"), entry.get("cap")
        if isinstance(caption, list) and caption:
            caption = caption[0]
        if isinstance(name, str) and name and isinstance(caption, str):
            return name, caption
    raise UserError(f"{path}: entry {number} has no path or no cap", hint)


def _encode(path: Path, name: str, caption: str, codec: Codec, settings: Settings) -> Sample:
    if not caption.strip():
        raise Rejected("no_caption", "the caption is empty")
    clip = read_clip(path, settings)
    return Sample(
        id=Path(name).with_suffix("").as_posix(),
        latents=codec.encode_video(clip.frames).float().cpu().numpy(),
        text=codec.encode_text(caption).float().cpu().numpy(),
        file_name=name,
        caption=caption,
        width=clip.width,
        height=clip.height,
        duration_s=clip.duration_s,
        fps=clip.fps,
    )


def read_clip(path: Path, settings: Settings) -> Clip:
    """The clip's first training frames, resampled to the training rate, cut and scaled to the training size."""
    try:
        with av.open(str(path)) as container:
            return _read(container, settings)
    except (OSError, av.FFmpegError) as error:
        raise Rejected("unreadable", str(error)) from error


def _read(container: Any, settings: Settings) -> Clip:
    if not container.streams.video:
        raise Rejected("unreadable", "it has no video stream")
    stream = container.streams.video[0]
    stream.thread_type = "AUTO"
    fps, listed = float(stream.average_rate or 0), int(stream.frames)
    if fps <= 0:
        raise Rejected("no_rate", "its frame rate is unknown")
    duration = listed / fps if listed else float((stream.duration or 0) * (stream.time_base or 0))
    longest = settings.duration_tolerance * settings.num_frames / settings.train_fps
    if duration > longest:
        raise Rejected("too_long", f"{duration:.2f} s, at most {longest:.2f} s are used")
    wanted = frame_indices(settings.num_frames, fps, settings.train_fps)
    if listed and listed <= wanted[-1]:
        raise Rejected("too_short", f"{listed} frames at {fps:g} fps, {wanted[-1] + 1} are needed")
    frames = dict(_frames(container, stream, wanted, settings))
    if wanted[-1] not in frames:
        if listed:
            raise Rejected("unreadable", f"says {listed} frames, but frame {wanted[-1]} cannot be decoded")
        raise Rejected("too_short", f"it ends before frame {wanted[-1]}")
    size = stream.codec_context
    return Clip(torch.stack([frames[i] for i in wanted], 1), size.width, size.height, duration or (wanted[-1] + 1) / fps, fps)


def frame_indices(num_frames: int, fps: float, train_fps: float) -> list[int]:
    """The first `num_frames` of arange(0, n, fps / train_fps), rounded down: a slower file's frames repeat."""
    return [int(k * (fps / train_fps)) for k in range(num_frames)]


def _frames(container: Any, stream: Any, wanted: list[int], settings: Settings) -> Iterator[tuple[int, Tensor]]:
    """(index, [3, H, W]) of the frames wanted, each scaled as soon as it is decoded: a whole clip at full size is gigabytes."""
    keep, last = set(wanted), wanted[-1]
    for index, frame in enumerate(container.decode(stream)):
        if index in keep:
            yield index, fit(torch.from_numpy(frame.to_ndarray(format="rgb24")), settings.height, settings.width)
        if index >= last:
            return


def fit(image: Tensor, height: int, width: int) -> Tensor:
    """uint8 [h, w, 3] -> [3, height, width] in [-1, 1]: the centre cut to the wanted aspect ratio, then scaled.

    Whole-number reductions average exactly (so a clip drawn in blocks gives its pixels back); others are antialiased bilinear.
    """
    h, w = image.shape[:2]
    cut_h, cut_w = min(h, max(1, round(w * height / width))), min(w, max(1, round(h * width / height)))
    top, left = (h - cut_h) // 2, (w - cut_w) // 2
    cut = image[top : top + cut_h, left : left + cut_w].permute(2, 0, 1)[None].float() / 127.5 - 1
    if cut_h % height == 0 and cut_w % width == 0:
        return interpolate(cut, (height, width), mode="area")[0]
    return interpolate(cut, (height, width), mode="bilinear", antialias=True, align_corners=False)[0]


def _write_prompts(path: Path, prompts: dict[str, Tensor]) -> None:
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_bytes(safetensors.torch.save({name: p.float().cpu().contiguous() for name, p in prompts.items()}))
    sync(temporary)
    temporary.rename(path)
