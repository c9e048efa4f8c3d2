"""Owns the checkpoints of a run in progress: asynchronous saves, published by rename, counted when they fail.

Must not know what the state means, touch folders but through store.py, or judge checkpoints that it finds (loader.py does).

The main thread, DCP's part of the saving thread and the rest of that have a gloo group each, so that no collective of one is ever taken
for another's, however far apart the ranks are and whatever failed in between.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import wait as wait_for
from pathlib import Path
from typing import Any

import torch.distributed.checkpoint as dcp

from ..config.checkpoint import CheckpointConfig
from ..control import Control
from ..distributed.collectives import RankGroup, taking_part
from ..files import FileEntry, digest_file, fsync_path
from . import manifest as manifests
from . import store
from .dcp_io import ErrorRevealingWriter, check_state, one_line
from .early_hashing import EarlyHashing
from .loader import Expected, Loader
from .manifest import Manifest
from .staging import StagedPlanner, Stager


class Checkpointer:
    """The checkpoints of one run. Every public method is collective: all ranks call it, in the same order. Made after
    init_process_group."""

    def __init__(
        self,
        directory: Path,
        keep: CheckpointConfig,
        *,
        control: Control,
        facts: dict[str, Any],
        config_digest: str,
        early: EarlyHashing | None = None,
    ) -> None:
        self._directory, self._keep, self._control = Path(directory), keep, control
        self._facts, self._config_digest = json.loads(json.dumps(facts)), config_digest
        self._peers, self._writing, self._publishing = RankGroup(control), RankGroup(control), RankGroup(control)
        self._loader = Loader(self._directory, self._peers, control, self._facts, config_digest, early)
        self._stager = Stager()
        self._threads = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._pending: tuple[int, Path, Future[str | None]] | None = None
        self._hashed_bytes = 0
        self._undeletable: set[str] = set()
        self._left_over: set[Path] = set()  # of failed saves: tried again before each
        self.before_publish: Callable[[int], Mapping[str, bytes]] = lambda _step: {}
        """Called on rank 0, in the saving thread, before the checkpoint of a step gets its name; raising fails the save. Returns files, by
        name, that the checkpoint carries besides the state; `carried` gives them back."""
        self.failed_in_a_row = 0
        self.last_published: int | None = None
        self.last_failure = ""
        """Why the newest save that failed did."""
        self.absent: set[str] = set()
        """Keys of callbacks that the loaded checkpoint does not hold; their values are still what the caller passed."""

    def save(self, step: int, state: dict[str, Any], *, wait: bool = False) -> None:
        """Begin to publish `state` as the checkpoint of `step` and return when it is staged; with `wait`, when it is published or has
        failed.

        A failure is counted, not raised.
        """
        self.wait()
        started = time.monotonic()
        check_state(state)
        temporary, failure = self._peers.from_rank_0(lambda: self._open(step))
        if temporary is None:  # published already, or nowhere to write
            self._settle(step, failure)
            return
        staged, planner = self._stager.stage(state)
        spans = started, time.monotonic() - started
        self._pending = step, temporary, self._threads.submit(self._finish, staged, planner, temporary, step, *spans)
        if wait:
            self.wait()

    def wait(self) -> None:
        """Wait until the save in flight is published or has failed. Bytes that reach the disk are reported as progress; a stuck disk is
        not."""
        if self._pending is None:
            return
        step, temporary, result = self._pending
        reported = -1
        while not wait_for([result], timeout=1.0).done:
            if (written := self._bytes_done(temporary)) > reported:
                reported = written
                self._control.progress("saving", written)
        self._pending = None
        error = result.exception()  # a collective failed: a peer died, and this rank will hear of it soon
        self._settle(step, one_line(error) if error else result.result())

    def poll(self) -> None:
        """Settle a save that has finished on all ranks; they agree on that here, so the counts change at the same step everywhere."""
        if self._pending is not None and self._peers.all_true(self._pending[2].done()):
            self.wait()

    def expected(self) -> Expected:
        """Return the step and the roles of the checkpoint that `load` will choose, or would if what is no part of
        its index were not damaged: then that is an older one."""
        self.wait()
        return self._loader.expected()

    def load(self, state: dict[str, Any]) -> int | None:
        """Fill `state` in place from the newest checkpoint that verifies; return its step, or None where there has never been one."""
        self.wait()
        step, self.absent = self._loader.load(state)
        self.last_published = step
        return step

    def carried(self, name: str) -> bytes:
        """Return, on rank 0, a file that the loaded checkpoint carries; nothing where it carries none. Not collective."""
        return self._loader.carried(name) if self._peers.rank == 0 else b""

    def close(self) -> None:
        """Wait, and free what staging holds; to be called before destroy_process_group."""
        self.wait()
        self._threads.shutdown()
        self._stager.close()

    def _open(self, step: int) -> tuple[Path | None, str | None]:
        """Return, on rank 0, (temporary folder, why there is none); both are None where this step is published already."""
        self._left_over = {folder for folder in self._left_over if store.delete(folder)}
        try:
            if manifests.is_complete(store.folder_of(self._directory, step)):
                return None, None
            return store.new_temporary(self._directory, step), None
        except OSError as error:
            return None, one_line(error)

    def _settle(self, step: int, failure: str | None) -> None:
        if failure is None:
            self.failed_in_a_row, self.last_published = 0, step
            return
        self.failed_in_a_row += 1
        self.last_failure = failure
        if self._peers.rank == 0:
            self._peers.warn(f"the checkpoint of step {step} failed ({self.failed_in_a_row} in a row): {failure}")

    def _bytes_done(self, temporary: Path) -> int:
        try:
            return self._hashed_bytes + sum(path.stat().st_size for path in self._own_files(temporary))
        except OSError:  # not there yet, or no more
            return self._hashed_bytes

    # From here on: in the saving thread.

    def _finish(
        self, staged: dict[str, Any], planner: StagedPlanner, temporary: Path, step: int, started: float, stall_s: float
    ) -> str | None:
        """Write, gather, publish and prune; return why there is no new checkpoint, the same on all ranks, or None."""
        parts = self._publishing.gather(self._write(staged, planner, temporary))
        failure = self._publishing.from_rank_0(lambda: self._publish(temporary, step, parts))
        if self._peers.rank == 0 and failure is None:
            save_s = time.monotonic() - started
            self._control.report("checkpoint", step=step, save_s=round(save_s, 3), stall_s=round(stall_s, 3))
            self._prune()
        return failure

    def _write(self, staged: dict[str, Any], planner: StagedPlanner, temporary: Path) -> tuple[dict[str, FileEntry], str | None]:
        """Write this rank's files, hash them and sync them to the disk. Whatever goes wrong is returned and not raised: the other ranks
        wait for it."""
        try:
            writer = ErrorRevealingWriter(temporary)
            dcp.save(staged, storage_writer=writer, planner=planner, **taking_part(self._writing.group))
            files = {}
            for path in self._own_files(temporary):
                files[path.name] = digest_file(path, self._count_bytes)
                fsync_path(path)
            if lost := writer.written - files.keys():
                raise FileNotFoundError(f"written and not there: {', '.join(sorted(lost))}")
            return files, None
        except BaseException as error:  # DCP's exception is no Exception
            return {}, one_line(error)

    def _publish(self, temporary: Path, step: int, parts: list[tuple[dict[str, FileEntry], str | None]]) -> str | None:
        """Publish the checkpoint, on rank 0; no other place makes one. Return what went wrong, or None."""
        self._peers.end_if_superseded()
        failures = list(dict.fromkeys(failure for _files, failure in parts if failure))
        try:
            if not failures:
                files = {name: entry for part, _failure in parts for name, entry in part.items()}
                files |= store.add(temporary, self.before_publish(step))
                self._peers.end_if_superseded()
                store.publish(temporary, Manifest(step, self._peers.world_size, self._config_digest, self._facts, files))
                return None
        except Exception as error:
            failures = [one_line(error)]
        if problems := store.delete(temporary):
            self._left_over.add(temporary)
            self._peers.warn(f"a leftover of the failed checkpoint stays until it can be removed: {'; '.join(problems)}")
        return "; ".join(failures)

    def _prune(self) -> None:
        """Delete old checkpoints; whatever goes wrong is a warning, for the new checkpoint is published."""
        keep = self._keep
        try:
            problems = store.prune(
                self._directory, keep_last=keep.keep_last, keep_every=keep.keep_every_steps, protected=self._loader.loaded
            )
        except OSError as error:
            problems = [one_line(error)]
        for problem in problems:
            if problem not in self._undeletable:  # tried again each time, warned of once
                self._undeletable.add(problem)
                self._peers.warn(f"an old checkpoint could not be deleted: {problem}")

    def _own_files(self, temporary: Path) -> list[Path]:
        """Return the files that this rank writes: DCP calls them __RANK_N.distcp, and its index is rank 0's."""
        own = sorted(temporary.glob(f"__{self._peers.rank}_*"))
        return [*own, temporary / manifests.METADATA] if self._peers.rank == 0 else own

    def _count_bytes(self, count: int) -> None:
        self._hashed_bytes += count
