"""Owns when each frame of a video is shown, and which frames a clip is made of. Must not decode more than the first frame.

The times are the packets' own, read in one pass without decoding: headers are often wrong about rate, length and number of frames, edit
lists hide a part, rates vary. The frame shown at time t is the last one whose presentation time stamp is not after t; t counts from the
first frame shown.
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import av

from ..errors import first_line
from ..sources.entries import Rejected
from .video_streams import frames_of, packets

_ROUNDING_S = 0.0005
"""Most that a time stamp counts as rounded up by its container (half a tick, where that is less)."""


@dataclass(frozen=True)
class Timeline:
    """The shown frames of a video, at `marks` [ticks] in the order of showing, until `end`.

    `rate` is the frame rate, an average where it is not `constant`. `keys` are the marks of packets that decoding can begin at. Where
    `numbered`, frames have no time stamps that can be relied on, and are counted.
    """

    marks: Sequence[float]
    end: float
    tick_s: float
    rate: float
    constant: bool
    numbered: bool
    keys: list[int]

    @property
    def duration_s(self) -> float:
        return len(self.marks) / self.rate if self.constant else (self.end - self.marks[0]) * self.tick_s

    def frames_at(self, num_frames: int, train_fps: float, first: int) -> list[int]:
        """Return the indices of the frames shown at (first, first + 1, ...) / train_fps seconds; past the last where none is."""
        if self.constant:
            return frame_indices(num_frames, self.rate, train_fps, first)
        return [self._frame_at(k / train_fps) for k in range(first, first + num_frames)]

    def _frame_at(self, time_s: float) -> int:
        ticks = self.marks[0] + time_s / self.tick_s + min(0.5, _ROUNDING_S / self.tick_s)
        return bisect_right(self.marks, ticks) - 1 if time_s < self.duration_s - 1e-9 else len(self.marks)

    def alone_at(self, index: int, mark: float) -> bool:
        """Return whether the frame `index` stands at a mark, and no other does."""
        return self.marks[index] == mark and bisect_right(self.marks, mark) - bisect_left(self.marks, mark) == 1

    def num_at(self, train_fps: float) -> int:
        """Return how many frames the video has at the training rate."""
        available = len(self.marks) * train_fps / self.rate if self.constant else self.duration_s * train_fps
        return math.ceil(available - 1e-9)


def frame_indices(num_frames: int, fps: float, train_fps: float, first: int = 0) -> list[int]:
    """Return `num_frames` indices of arange(0, n, fps / train_fps) from the `first` on, rounded down: a slower file's frames repeat."""
    return [int(k * (fps / train_fps)) for k in range(first, first + num_frames)]


def read_times(container: Any, stream: Any, longest_s: float) -> Timeline:
    """Read a stream's packets and return when its frames are shown; Rejected where it cannot be decoded or is longer than `longest_s`."""
    rates = [float(rate) for rate in (stream.average_rate, stream.guessed_rate, stream.base_rate) if rate]
    numbered = container.format.name == "avi" and bool(stream.codec_context.has_b_frames)
    scan = _Scan(numbered, float(stream.time_base), rates)
    try:
        for packet in packets(container, stream):
            scan.add(packet, never_shown=stream.codec_context.name == "vp8" and _is_vp8_reference(packet))
            if scan.length_s > longest_s:
                raise too_long(_stated_s(container, stream), scan.length_s, longest_s)
    except av.FFmpegError as error:  # a file that breaks off ends there
        scan.problem = scan.problem or error
    timeline = scan.timeline()
    if timeline.duration_s > longest_s:
        raise too_long(timeline.duration_s, timeline.duration_s, longest_s)
    return timeline


def _stated_s(container: Any, stream: Any) -> float:
    return max(float((stream.duration or 0) * stream.time_base), (container.duration or 0) / av.time_base)


def too_long(stated_s: float, read_s: float, longest_s: float) -> Rejected:
    """Return what is said of a video that is too long, as its header states, or as far as it was read."""
    length = f"{stated_s:.2f} s" if stated_s >= read_s else f"more than {read_s:.2f} s"
    return Rejected("too_long", f"{length}, at most {longest_s:.2f} s are used")


@dataclass(frozen=True)
class _Stamp:
    pts: int | None
    dts: int | None
    duration: int


def _is_vp8_reference(packet: Any) -> bool:
    """Return whether a VP8 packet holds no picture to show, only one to predict from (RFC 6386, 9.1: show_frame)."""
    return bool(packet.size) and not memoryview(packet)[0] & 0x10


class _Scan:
    """What a pass over the packets sees. `numbered`: the container knows when packets are decoded, not when they are shown."""

    def __init__(self, numbered: bool, tick_s: float, rates: list[float]) -> None:
        self._numbered, self._tick_s, self._rates = numbered, tick_s, rates
        self._shown: list[_Stamp] = []
        self._keys: list[int] = []
        self._low, self._high, self._repeated_until = math.inf, -math.inf, -math.inf
        self._first: Any = None
        self.problem: Exception | None = None

    @property
    def length_s(self) -> float:
        """How long the packets seen so far take, without the last one."""
        return max(0.0, self._high - self._low) * self._tick_s

    def add(self, packet: Any, never_shown: bool) -> None:
        if self._first is None:
            self._decode(packet)
        if packet.size and packet.is_keyframe and packet.pts is not None:
            self._keys.append(packet.pts)
        if packet.is_discard or never_shown or (packet.pts is None and not packet.size):
            return
        stamp = _Stamp(packet.pts, packet.dts, packet.duration or 0)
        self._low, self._high = min(self._low, self._mark(stamp)), max(self._high, self._mark(stamp))
        if packet.size:
            self._shown.append(stamp)
        else:  # the frame before it is shown again
            self._repeated_until = max(self._repeated_until, packet.pts + stamp.duration)

    def _decode(self, packet: Any) -> None:
        """Decode until there is a frame: what precedes it, in a recording cut out of a broadcast, is not shown."""
        try:
            self._first = next(iter(frames_of(packet)), None)
        except av.FFmpegError as error:
            self.problem = self.problem or error

    def _mark(self, stamp: _Stamp) -> float:
        known = (stamp.dts, stamp.pts) if self._numbered else (stamp.pts, stamp.dts)
        return next((mark for mark in known if mark is not None), len(self._shown) * self._step(stamp.duration))

    def _step(self, duration: int) -> float:
        """Return a frame's length [ticks]."""
        if duration:
            return duration
        if not self._rates:
            raise Rejected("no_rate", "its frame rate is unknown")
        return 1 / (self._rates[0] * self._tick_s)

    def timeline(self) -> Timeline:
        if self._first is None:
            raise Rejected("unreadable", f"no frame of it can be decoded: {first_line(self.problem or EOFError())}")
        numbered = self._numbered or any(stamp.pts is None for stamp in self._shown)
        marks = self._numbered_marks() if numbered else self._pts()
        rate = next((rate for rate in self._rates if _is_constant(marks, 1 / (rate * self._tick_s))), 0.0)
        end = max(marks[-1] + self._last_step(marks), self._repeated_until)
        average = rate or len(marks) / (max(end - marks[0], 1) * self._tick_s)
        return Timeline(marks, end, self._tick_s, average, bool(rate), numbered, sorted(self._keys))

    def _pts(self) -> list[float]:
        """Return the time stamps from the first frame that can be decoded on."""
        first = self._first.pts
        return sorted(stamp.pts for stamp in self._shown if stamp.pts is not None and (first is None or stamp.pts >= first)) or [first]

    def _numbered_marks(self) -> list[float]:
        decoded_at = sorted(stamp.dts for stamp in self._shown if stamp.dts is not None)
        if len(decoded_at) == len(self._shown):
            return [*decoded_at]
        step = self._step(self._shown[0].duration)
        return [index * step for index in range(len(self._shown))]

    def _last_step(self, marks: Sequence[float]) -> float:
        last = max(self._shown, key=self._mark)
        if last.duration or self._rates or len(marks) < 2:
            return self._step(last.duration)
        return marks[-1] - marks[-2]


def _is_constant(marks: Sequence[float], step: float) -> bool:
    """Return whether frames stand a step apart, but for a container's rounding to its tick."""
    return all(abs(mark - marks[0] - index * step) < 1 for index, mark in enumerate(marks))
