"""Owns the task of encoding prompts: entries -> text_only samples, for the methods that need no clips. Must not know ranks."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence

from ..data.parquet_schema import TextSample
from ..models.codecs.base import Codec
from ..sources.entries import Entry, Rejected
from .task_loop import Outcome
from .video_task import encode_text


class Prompts:
    """Encodes prompts; a sample's id is the prompt's place in its source."""

    def __init__(self, listed: Sequence[Entry], codec: Codec) -> None:
        self.names = [entry.name for entry in listed]
        self._entries, self._codec = listed, codec

    def outcomes(self, indices: Sequence[int], waiting: Callable[[], None]) -> Generator[Outcome, None, None]:
        for index in indices:
            yield self._outcome(self._entries[index])

    def _outcome(self, entry: Entry) -> Outcome:
        if entry.problem is not None:
            return Outcome(entry.problem)
        try:
            return Outcome(TextSample(entry.id, encode_text(self._codec, entry.caption), entry.caption))
        except Rejected as problem:
            return Outcome(problem)
