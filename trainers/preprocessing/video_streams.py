"""Owns opening a video file: which of its streams is the video, and that stream's packets in one time. Must not choose frames.

A file may hold a cover picture, thumbnails or several videos; what is read is what FFmpeg's own program would show.
"""

from __future__ import annotations

import io
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import av

from ..sources.entries import Rejected

LARGEST_PICTURE = 8192 * 8192
"""Most pixels of a frame: a file that claims more is damaged or hostile."""

TS_DISCONTINUITIES = 0x0200
"""FFmpeg's flag of formats whose time stamps may jump (AVFMT_TS_DISCONT), as those of broadcasts do."""

_JUMP_S = 10.0
_BACK_S = 0.1
"""A time stamp that jumps further ahead, or this far back, begins a new recording in the same file: `dts_delta_threshold` of ffmpeg."""


_PICTURE_CODECS = ("mjpeg", "png", "bmp", "gif", "tiff", "webp", "jpegxl")
"""Codecs in which files without a mark for cover pictures keep them, as a track of one frame."""


@contextmanager
def opened(video: Path | bytes) -> Generator[tuple[Any, Any], None, None]:
    """Open a video and yield (container, stream) of PyAV; Rejected where it holds no video."""
    with _container(video) as container:
        yield container, _checked(_chosen(video, container))


def _container(video: Path | bytes) -> Any:
    return av.open(str(video) if isinstance(video, Path) else io.BytesIO(video))


def _chosen(video: Path | bytes, container: Any) -> Any:
    """Return the stream to show: the default one, of several the largest; never a cover picture or a thumbnail."""
    streams = [stream for stream in container.streams.video if not _is_attached(stream)]
    if not streams:
        covers = ", only a cover picture" if container.streams.video else ""
        raise Rejected("unreadable", f"it has no video stream{covers}")
    ranked = sorted(streams, key=_preference, reverse=True)  # of equals the first stays first
    if len(ranked) > 1 and ranked[0].codec_context is not None and ranked[0].codec_context.name in _PICTURE_CODECS:
        moving = _moving(video, ranked[0].index)
        return next((stream for stream in ranked if stream.index in moving), ranked[0])
    return ranked[0]


def _moving(video: Path | bytes, likely: int) -> set[int]:
    """Return the numbers of the streams that have two frames, as far as the file is read: until the `likely` one has, or to its end."""
    once, moving = set[int](), set[int]()
    with _container(video) as container:
        for packet in container.demux(video=tuple(range(len(container.streams.video)))):
            number = packet.stream.index
            if packet.size and number in once:
                moving.add(number)
                if number == likely:
                    break
            once |= {number} if packet.size else set()
    return moving


def _is_attached(stream: Any) -> bool:
    return bool(stream.disposition & (type(stream.disposition).attached_pic | type(stream.disposition).timed_thumbnails))


def _preference(stream: Any) -> tuple[bool, int]:
    size = stream.codec_context
    return bool(stream.disposition & type(stream.disposition).default), size.width * size.height if size is not None else 0


def _checked(stream: Any) -> Any:
    size = stream.codec_context
    if size is None:
        raise Rejected("unreadable", "its codec is unknown")
    if not 0 < size.width * size.height <= LARGEST_PICTURE:
        raise Rejected("unreadable", f"its frames are {size.width}x{size.height}")
    if not stream.time_base:
        raise Rejected("no_rate", "the unit of its time stamps is unknown")
    return stream


def packets(container: Any, stream: Any) -> Iterator[Any]:
    """Yield the packets of a stream in the order of decoding, in one time that goes on; without a broken one where the file ends."""
    broken: list[Any] = []
    for packet in _in_one_time(container, stream):
        if packet.is_corrupt:
            broken.append(packet)
            continue
        if packet.size or packet.pts is not None:
            yield from broken
        broken.clear()
        yield packet


def _in_one_time(container: Any, stream: Any) -> Iterator[Any]:
    """Yield packets; in formats whose clock may start anew their times are shifted, so that they go on."""
    shift, last, following = 0, None, 0
    jumps = container.format.flags & TS_DISCONTINUITIES
    for packet in container.demux(stream):
        if jumps and packet.dts is not None:
            dts, second = packet.dts + shift, 1 / float(stream.time_base)
            if last is not None and (abs(dts - following) > _JUMP_S * second or dts + _BACK_S * second < last):
                shift += following - dts
            _move(packet, shift)
            last, following = packet.dts, packet.dts + (packet.duration or 0)
        yield packet


def _move(packet: Any, shift: int) -> None:
    if shift:
        packet.dts += shift
        packet.pts = packet.pts if packet.pts is None else packet.pts + shift


def frames_of(packet: Any) -> list[Any]:
    """Decode a packet: the frames that come out, of earlier packets too. An empty one, which repeats a frame, gives none."""
    is_last = packet.pts is None and packet.dts is None  # an empty packet at the end has the decoder give what it holds
    return packet.decode() if packet.size or is_last else []
