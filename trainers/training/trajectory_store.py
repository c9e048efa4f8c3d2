"""Owns the folder of a teacher's cached trajectories: is it the one a run asks for, what is missing in it, publishing into it.

Rank 0 opens and completes it; any rank adds to it. Must not make a trajectory. What the folder says of itself: config/cache.py.
"""

from __future__ import annotations

import hashlib
import json
import secrets
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from ..config import TrainConfig, trajectory_metadata
from ..data.parquet_schema import PartFile, TrajectorySample
from ..data.prompt_embeddings import required
from ..errors import UserError
from ..files import sync
from ..models.loading import model_folder

_LEFT_OVER_S = 3600.0
"""A hidden file that nobody has written to for so long is of a rank that died."""


class TrajectoryCache:
    def __init__(self, config: TrainConfig) -> None:
        method: Any = config.method
        self._config, self.method = config, method
        self.folder = Path(method.cache)
        self._samples = self.folder / trajectory_metadata.SAMPLES

    def is_complete(self) -> bool:
        """UserError for a cache of something else."""
        found = self.metadata()
        if found is None:
            return False
        self._same(found, self._wanted())
        return trajectory_metadata.is_complete(self.folder)

    def metadata(self) -> dict[str, Any] | None:
        try:
            return trajectory_metadata.read(self.folder)
        except trajectory_metadata.NoCache as error:
            raise UserError(f"method.cache: {error}", "give another folder") from None

    def open(self, num_prompts: int) -> dict[str, Any]:
        """The metadata, written where there is none: before the first trajectory."""
        wanted = {
            **self._wanted(),
            "total": self.method.num_trajectories or num_prompts,
            "prompts": num_prompts,
            "negative": self._negative(),
        }
        if (found := self.metadata()) is not None:
            self._same(found, wanted)
            self._clear()
            return found
        name, _ = self._teacher()
        told = {
            "format": trajectory_metadata.FORMAT,
            **wanted,
            "teacher_name": Path(name).name,
            "source": sorted(self._config.data.folders),
        }
        try:
            self._samples.mkdir(parents=True, exist_ok=True)
            _publish(self.folder / trajectory_metadata.METADATA, json.dumps(told, indent=1) + "\n")
        except OSError as error:
            raise UserError(f"method.cache {self.folder} cannot be made: {error.strerror}", "a folder on a disk with room") from None
        return told

    def missing(self, total: int) -> list[int]:
        """Numbers of trajectories that are not there. What is there is whole."""
        return [index for index in range(total) if not self.path(index).is_file()]

    def path(self, index: int) -> Path:
        return self._samples / f"{index:08d}.parquet"

    def add(self, index: int, trajectory: TrajectorySample) -> None:
        """Whole or not at all, and under a name until then that no other run which fills the same cache uses."""
        temporary = self._samples / f".{index:08d}.{secrets.token_hex(4)}.parquet"
        file = PartFile(temporary, TrajectorySample.schema)
        file.write(trajectory.row())
        file.publish()
        temporary.rename(self.path(index))
        sync(self._samples)

    def complete(self) -> None:
        _publish(self.folder / trajectory_metadata.COMPLETE, "")

    def _wanted(self) -> dict[str, Any]:
        """As a teacher there is; a cache that is complete does without."""
        found: dict[str, Any] = self.method.settings(self._config)
        if "teacher" in self._config.models:
            section: Any = self._config.models["teacher"]
            found["teacher"] = trajectory_metadata.teacher_digest(*(model_folder.resolve(*reference) for reference in section.references))
        return found

    def _negative(self) -> str | None:
        """A digest of the embedding; without guidance nothing reads it."""
        if self.method.teacher_guidance_scale == 1:
            return None
        embedding = required(self._config.data, "method.teacher_guidance_scale").negative
        return hashlib.sha256(embedding.numpy().tobytes()).hexdigest()

    def _teacher(self) -> tuple[str, str | None]:
        section: Any = self._config.models["teacher"]
        return section.init_from, section.revision

    def _same(self, found: dict[str, Any], wanted: dict[str, Any]) -> None:
        if wrong := trajectory_metadata.differences(found, wanted):
            hint = "give another folder, or what they were made with"
            raise UserError(f"the trajectories in {self.folder} were made otherwise: {wrong}", hint)

    def _clear(self) -> None:
        for path in self._samples.glob(".*"):
            with suppress(OSError):
                if time.time() - path.stat().st_mtime > _LEFT_OVER_S:
                    path.unlink()


def _publish(path: Path, text: str) -> None:
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    temporary.write_text(text)
    sync(temporary)
    temporary.rename(path)
    sync(path.parent)
