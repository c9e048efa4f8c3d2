"""Owns keeping run.json whole while an agent's job owns the run: one that was damaged is written again as it was last read.

Must not change what the record says, nor write where a later submission may own the run.
"""

from __future__ import annotations

from contextlib import suppress

from ..errors import FvlaunchError
from ..runs.directory import Record, Run
from . import own_output


class OwnedRecord:
    def __init__(self, run: Run) -> None:
        self._run = run
        self._last: Record | None = None

    def keep(self) -> None:
        """Read the record, or put back the one that was read last. It may be that neither can be done now."""
        with suppress(OSError, FvlaunchError):
            try:
                self._last = self._run.record()
            except FvlaunchError as error:
                if self._last is not None and self._run.intent().generation <= self._last.generation:
                    self._put_back(self._last, error)

    def _put_back(self, record: Record, error: FvlaunchError) -> None:
        with self._run.locked():
            with suppress(FvlaunchError):
                self._run.record()
                return  # somebody has mended it meanwhile
            self._run.write_record(record)
        own_output.say(f"{error.message}; it is written again as this agent knows it")
