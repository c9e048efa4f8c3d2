"""Owns decoding the required frames of a video, by FFmpeg through PyAV. Must not scale or judge them.

Decoding begins at the last key frame before the first of them, where the container leads there, and ends with the last one; one frame at a
time is held.
"""

from __future__ import annotations

import contextlib
from bisect import bisect_right
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av

from ..errors import first_line
from ..sources.entries import Rejected
from .frame_times import Timeline
from .video_streams import TS_DISCONTINUITIES, frames_of, opened, packets


class _OutOfOrder(Exception):
    """The frames' time stamps are missing or do not rise."""


class _TooFar(Exception):
    """Seeking led behind the first required frame."""


def required_frames(video: Path | bytes, timeline: Timeline, required: list[int]) -> Iterator[tuple[int, Any]]:
    """Yield (index, frame of PyAV) of the frames `required`, rising; a frame may come twice, and the later one is right.

    Ends early where the video does; Rejected where it is damaged before.
    """
    left = sorted(set(required))
    if not timeline.numbered:
        for start in dict.fromkeys([_seekable(timeline, left[0]), None]):
            try:
                yield from _by_time(video, timeline, left, start)
                return
            except (_TooFar, av.FFmpegError):
                if start is None:
                    raise
            except _OutOfOrder:
                break
    yield from _by_number(video, left)


def _seekable(timeline: Timeline, first: int) -> int | None:
    """Return the time stamp of the last key frame at or before a frame; None where that is the first."""
    before = bisect_right(timeline.keys, timeline.marks[first])
    return timeline.keys[before - 1] if before > 1 else None


def _by_number(video: Path | bytes, required: list[int]) -> Iterator[tuple[int, Any]]:
    keep = set(required)
    for index, frame in enumerate(_decoded(video, None)):
        if index in keep:
            yield index, frame
        if index >= required[-1]:
            return


def _by_time(video: Path | bytes, timeline: Timeline, required: list[int], start: int | None) -> Iterator[tuple[int, Any]]:
    """Yield for each required index the last frame whose time stamp is not after the index's own."""
    left, shown = list(required), None
    for frame in _decoded(video, start):
        if frame.pts is None or (shown is not None and frame.pts < shown.pts):
            raise _OutOfOrder
        if shown is None and frame.pts > timeline.marks[left[0]]:
            raise _TooFar
        while frame.pts > timeline.marks[left[0]]:
            yield left.pop(0), shown
            if not left:
                return
        shown = frame
        if timeline.alone_at(left[0], frame.pts):
            yield left.pop(0), frame
        if not left:
            return
    yield from ((index, shown) for index in left if shown is not None and timeline.marks[index] <= shown.pts)


def _decoded(video: Path | bytes, start: int | None) -> Iterator[Any]:
    """Yield the frames of a video, from a key frame on. What cannot be decoded is Rejected, but before the first frame it is not shown."""
    with opened(video) as (container, stream):
        stream.thread_type = "AUTO"
        if start is not None:
            if container.format.flags & TS_DISCONTINUITIES:
                raise _TooFar
            container.seek(start, stream=stream)
        problem, begun = None, False
        try:
            for packet in packets(container, stream):
                frames = frames_of(packet) if begun else _first_frames(packet)
                begun = begun or bool(frames)
                yield from frames
        except av.FFmpegError as error:
            problem = error
        if problem is not None:
            yield from _held(stream)
            raise Rejected("unreadable", f"it is damaged: {first_line(problem)}") from problem


def _first_frames(packet: Any) -> list[Any]:
    with contextlib.suppress(av.FFmpegError):
        return frames_of(packet)
    return []


def _held(stream: Any) -> list[Any]:
    """Return the frames that the decoder still holds."""
    with contextlib.suppress(av.FFmpegError):
        return stream.decode(None)
    return []
