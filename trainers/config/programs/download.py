"""Owns the `download` block: which models and data sets to fetch from the Hugging Face hub. Must not import torch."""

from __future__ import annotations

from typing import Any

from pydantic import field_validator, model_validator

from ..hub_cache import is_id
from ..section import Section


class RepositoryConfig(Section):
    """One repository of the Hugging Face hub."""

    id: str
    """Its name on the Hugging Face hub: org/name."""
    revision: str | None = None
    """Commit, branch or tag; a commit pins it for good. null: the default branch of today."""
    allow_patterns: list[str] | None = None
    """Only files that match one of these patterns, such as "data/*.parquet"; null: all."""
    ignore_patterns: list[str] | None = None
    """No files that match one of these patterns; null: none is left out."""

    @field_validator("id")
    @classmethod
    def _is_id(cls, value: str) -> str:
        if not is_id(value):
            raise ValueError(f"{value!r} is not the id of a Hugging Face repository, which reads org/name")
        return value


class Config(Section):
    """Everything goes into the Hugging Face cache (HF_HOME moves it), where training and preprocessing look for it."""

    models: list[RepositoryConfig] = []
    """Models to fetch."""
    datasets: list[RepositoryConfig] = []
    """Data sets to fetch."""

    @model_validator(mode="after")
    def _not_empty(self) -> Config:
        if not self.models and not self.datasets:
            raise ValueError("nothing to download: name models or datasets")
        return self

    def resolved(self) -> dict[str, Any]:
        """Return plain data that parses back to an equal config."""
        return self.model_dump(mode="json")
