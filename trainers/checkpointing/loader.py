"""Owns which checkpoint is loaded, and what is done about those that are not what they were when published.

Must not write a checkpoint or delete a published one. Rank 0 lists, chooses and renames; every rank hashes its share.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.api import CheckpointException

from ..control import Control
from ..distributed.collectives import RankGroup, taking_part
from ..errors import UserError
from . import manifest as manifests
from . import store
from .dcp_io import KeyMismatch, SafeReader, StrictPlanner, UnreadableIndex, one_line, read_metadata
from .early_hashing import EarlyHashing, share
from .keys import CheckpointKeys
from .manifest import BadManifest, Manifest, NewerFormat

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Expected:
    """The step of a checkpoint and the roles that it holds; 0 and none where there is no checkpoint."""

    step: int = 0
    roles: frozenset[str] = frozenset()


class Loader:
    """Chooses and loads the checkpoint that an attempt starts from; `loaded` is its step, which pruning spares."""

    def __init__(
        self, directory: Path, peers: RankGroup, control: Control, facts: dict[str, Any], config_digest: str, early: EarlyHashing | None
    ) -> None:
        self._directory, self._peers, self._control, self._early = directory, peers, control, early
        self._facts, self._config_digest = facts, config_digest
        self._chosen: Manifest | None = None
        self._expected = Expected()
        self._hashed_bytes = 0
        self.loaded: int | None = None

    def expected(self) -> Expected:
        """Return what `load` will choose, told by an index that verifies; the other files may still be being hashed."""
        expected = self._peers.from_rank_0(self._indexed)
        if expected is None:
            self._chosen = self._choose()
            expected = self._peers.from_rank_0(lambda: self._held(self._chosen))
        self._expected = expected
        return expected

    def _indexed(self) -> Expected | None:
        """Return, on rank 0, what the newest checkpoint holds; None where its manifest or index is damaged."""
        newest = self._newest()
        if newest is None:
            return Expected()
        step, manifest, _problem = newest
        if manifest is None or manifests.wrong_files(store.folder_of(self._directory, step), manifest, [manifests.METADATA]):
            return None
        return self._held(manifest)

    def _held(self, manifest: Manifest | None) -> Expected:
        if manifest is None:
            return Expected()
        index = read_metadata(store.folder_of(self._directory, manifest.step))
        return Expected(manifest.step, frozenset(CheckpointKeys(index.state_dict_metadata).roles))

    def load(self, state: dict[str, Any]) -> tuple[int | None, set[str]]:
        """Fill `state` in place; return the step, and the keys of callbacks that the checkpoint does not hold."""
        manifest, self._chosen = self._chosen or self._choose(), None
        self._refuse_less_than_expected(manifest)
        if manifest is None:
            return None, set()
        absent = self._read(manifest.step, state)
        self.loaded = manifest.step
        if self._peers.rank == 0:
            self._warn_of_differences(manifest)
        return manifest.step, absent

    def carried(self, name: str) -> bytes:
        """Return a file that the loaded checkpoint carries besides the state; nothing where it does not."""
        if self.loaded is None:
            return b""
        path = store.folder_of(self._directory, self.loaded) / name
        return path.read_bytes() if path.exists() else b""

    def _refuse_less_than_expected(self, manifest: Manifest | None) -> None:
        """Raise RuntimeError where roles were built without weights, because a newer checkpoint holds them, and this one lacks them: the
        next start will know."""
        expected, self._expected = self._expected, Expected()
        if not expected.roles or (manifest is not None and manifest.step == expected.step):
            return
        if lacking := expected.roles - self._peers.from_rank_0(lambda: self._held(manifest)).roles:
            raise RuntimeError(
                f"the checkpoint of step {expected.step}, which was to be loaded, does not verify or is gone, and what is left lacks "
                f"{', '.join(sorted(lacking))}: start again"
            )

    def _choose(self) -> Manifest | None:
        """Return the manifest of the newest checkpoint whose every byte is as published; newer ones that are damaged are put aside."""
        self._peers.from_rank_0(self._clear)
        while (candidate := self._peers.from_rank_0(self._newest)) is not None:
            step, manifest, problem = candidate
            problems = [problem] if manifest is None else self._verify(manifest)
            if manifest is not None and not problems:
                return manifest
            self._peers.from_rank_0(lambda: self._quarantine(step, problems))  # noqa: B023  called at once
        return None

    def _clear(self) -> None:
        self._peers.end_if_superseded()
        for problem in store.remove_leftovers(self._directory):
            self._peers.warn(f"a leftover of a dead attempt stays: {problem}")

    def _newest(self) -> tuple[int, Manifest | None, str] | None:
        """Return, on rank 0, the newest checkpoint that is left: its step, and its manifest or what is wrong with that."""
        steps = store.steps(self._directory)
        if not steps:
            self._refuse_silent_start()
            return None
        try:
            return steps[-1], manifests.read(store.folder_of(self._directory, steps[-1])), ""
        except BadManifest as error:
            return steps[-1], None, str(error)
        except NewerFormat as error:
            raise UserError(f"step {steps[-1]} in {self._directory}: {error}", "resume with the version that wrote it") from None

    def _refuse_silent_start(self) -> None:
        """Raise UserError where checkpoints exist and all are damaged: only a run that never saved may start from step 0."""
        if bad := store.quarantined(self._directory):
            raise UserError(
                f"checkpoints exist in {self._directory} and none verifies: {', '.join(bad)}",
                "restore one from a copy, or move the *.bad folders away to start from step 0",
            )

    def _verify(self, manifest: Manifest) -> list[str]:
        """Return what any rank finds wrong. A file that cannot be read right now proves nothing: that is raised as OSError, on all
        ranks."""
        folder = store.folder_of(self._directory, manifest.step)
        mine = share(manifest.files, self._peers.rank, self._peers.world_size)
        if self._early is not None:
            self._early.join(lambda hashed: self._control.progress("loading", hashed))
            mine = [name for name in mine if not self._early.is_right(folder / name, manifest.files[name])]
        wrong: list[str] = []
        unreadable = ""
        try:
            wrong = manifests.wrong_files(folder, manifest, mine, self._tick)
        except OSError as error:
            unreadable = f"rank {self._peers.rank}: {one_line(error)}"
        outcomes = self._peers.gather((wrong, unreadable))
        if failures := [text for _wrong, text in outcomes if text]:
            raise OSError(f"the checkpoint of step {manifest.step} cannot be read: {'; '.join(failures)}")
        return [line for lines, _text in outcomes for line in lines]

    def _tick(self, count: int) -> None:
        self._hashed_bytes += count
        self._control.progress("loading", self._hashed_bytes)

    def _quarantine(self, step: int, problems: list[str]) -> None:
        self._peers.end_if_superseded()
        target = store.quarantine(store.folder_of(self._directory, step))
        more = f" and {len(problems) - 5} more" if len(problems) > 5 else ""
        self._peers.warn(f"the checkpoint of step {step} is damaged and now called {target.name}: {'; '.join(problems[:5])}{more}")

    def _read(self, step: int, state: dict[str, Any]) -> set[str]:
        """Load the state; its digests have passed, so a failure says nothing against the checkpoint, and nothing is renamed."""
        planner, folder = StrictPlanner(), store.folder_of(self._directory, step)
        try:
            dcp.load(state, storage_reader=SafeReader(folder), planner=planner, **taking_part(self._peers.group))
        except CheckpointException as error:  # a BaseException
            raise _load_error(step, [_cause(pair[0]) for pair in error.failures.values()]) from None
        return planner.absent

    def _warn_of_differences(self, manifest: Manifest) -> None:
        saved_with = _flat({**manifest.facts, "world size": manifest.world_size})
        now = _flat({**self._facts, "world size": self._peers.world_size})
        changed = [
            f"{key} {saved_with.get(key)} -> {now.get(key)}" for key in sorted(saved_with | now) if saved_with.get(key) != now.get(key)
        ]
        if changed:
            self._peers.warn(f"resume is not bitwise: {', '.join(changed)}")
        if manifest.config_digest != self._config_digest:
            log.info("the configuration has changed since step %d", manifest.step)


def _cause(error: BaseException) -> BaseException:
    return error.args[0] if isinstance(error, UnreadableIndex) else error


def _load_error(step: int, causes: list[BaseException]) -> Exception:
    """Return the error to raise: a misfit is the user's to mend, a disk that fails between two readings is not."""
    for cause in causes:
        if isinstance(cause, KeyMismatch):
            return UserError(
                f"the checkpoint of step {step} does not fit this configuration: {cause}",
                "resume with the configuration that it was made with, or fork the run",
            )
    text = f"the checkpoint of step {step} verifies but cannot be loaded: {one_line(causes[0])}"
    return OSError(text) if isinstance(causes[0], OSError) else UserError(text)


def _flat(facts: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in facts.items():
        flat.update(_flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value})
    return flat
