"""Owns the folder of a teacher's stored trajectories: whether it is the one that a run needs, what is missing in it, and adding to it.

Rank 0 opens and completes it; any rank adds to it. Must not make a trajectory. What the folder's metadata mean is in
trainers/config/trajectory_metadata.py.
"""

from __future__ import annotations

import hashlib
import secrets
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from ..config import TrainConfig, trajectory_metadata
from ..data.parquet_schema import PartFile, TrajectorySample
from ..data.prompt_embeddings import required
from ..errors import UserError
from ..files import fsync_path, publish, publish_json
from ..models.loading import model_folder

_LEFT_OVER_S = 3600.0
"""Age after which a hidden file is taken for that of a rank that died."""


class TrajectoryCache:
    """The folder method.cache of one training configuration."""

    def __init__(self, config: TrainConfig) -> None:
        method: Any = config.method
        self._config, self.method = config, method
        self.folder = Path(method.cache)
        self._samples = self.folder / trajectory_metadata.SAMPLES

    def is_complete(self) -> bool:
        """Return whether all trajectories are stored. UserError for a cache that was made with other settings."""
        stored = self.metadata()
        if stored is None:
            return False
        self._check_same(stored, self._required())
        return trajectory_metadata.is_complete(self.folder)

    def metadata(self) -> dict[str, Any] | None:
        """Return what the folder says about itself; None where it says nothing yet. UserError for a folder of something else."""
        try:
            return trajectory_metadata.read(self.folder)
        except trajectory_metadata.NoCache as error:
            raise UserError(f"method.cache: {error}", "give another folder") from None

    def open(self, num_prompts: int) -> dict[str, Any]:
        """Return the metadata, written before the first trajectory where there are none. UserError for a cache made with other settings."""
        settings = {
            **self._required(),
            "total": self.method.num_trajectories or num_prompts,
            "prompts": num_prompts,
            "negative": self._negative(),
        }
        if (stored := self.metadata()) is not None:
            self._check_same(stored, settings)
            self._remove_left_overs()
            return stored
        name, _ = self._teacher()
        metadata = {
            "format": trajectory_metadata.FORMAT,
            **settings,
            "teacher_name": Path(name).name,
            "source": sorted(self._config.data.folders),
        }
        try:
            self._samples.mkdir(parents=True, exist_ok=True)
            publish_json(self.folder / trajectory_metadata.METADATA, metadata)
        except OSError as error:
            raise UserError(f"method.cache {self.folder} cannot be made: {error.strerror}", "a folder on a disk with room") from None
        return metadata

    def missing(self, total: int) -> list[int]:
        """Return the numbers of the trajectories that are not stored. Those that are stored are whole."""
        return [index for index in range(total) if not self.path(index).is_file()]

    def path(self, index: int) -> Path:
        return self._samples / f"{index:08d}.parquet"

    def add(self, index: int, trajectory: TrajectorySample) -> None:
        """Store a trajectory whole or not at all, under a temporary name until then that no other run which fills the same cache uses."""
        temporary = self._samples / f".{index:08d}.{secrets.token_hex(4)}.parquet"
        file = PartFile(temporary, TrajectorySample.schema)
        try:
            file.write(trajectory.row())
            file.publish()
            temporary.rename(self.path(index))
        except BaseException:
            file.abandon()
            temporary.unlink(missing_ok=True)
            raise
        fsync_path(self._samples)

    def complete(self) -> None:
        """Say that no trajectory is missing."""
        publish(self.folder / trajectory_metadata.COMPLETE, Path.touch)

    def _required(self) -> dict[str, Any]:
        """Return the settings that the cache must have been made with; the teacher is compared only where the run has one, as a complete
        cache needs none."""
        settings: dict[str, Any] = self.method.settings(self._config)
        if "teacher" in self._config.models:
            section: Any = self._config.models["teacher"]
            settings["teacher"] = trajectory_metadata.teacher_digest(
                *(model_folder.resolve(*reference) for reference in section.references)
            )
        return settings

    def _negative(self) -> str | None:
        """Return a digest of the negative prompt's embedding; None without guidance, where nothing reads it."""
        if self.method.teacher_guidance_scale == 1:
            return None
        embedding = required(self._config.data, "method.teacher_guidance_scale").negative
        return hashlib.sha256(embedding.numpy().tobytes()).hexdigest()

    def _teacher(self) -> tuple[str, str | None]:
        section: Any = self._config.models["teacher"]
        return section.init_from, section.revision

    def _check_same(self, stored: dict[str, Any], settings: dict[str, Any]) -> None:
        if wrong := trajectory_metadata.differences(stored, settings):
            hint = "give another folder, or what they were made with"
            raise UserError(f"the trajectories in {self.folder} were made otherwise: {wrong}", hint)

    def _remove_left_overs(self) -> None:
        for path in self._samples.glob(".*"):
            with suppress(OSError):
                if time.time() - path.stat().st_mtime > _LEFT_OVER_S:
                    path.unlink()
