"""Owns the configuration of a model family from the user's own file. The keys of its own are checked by that file, in the rank."""

from __future__ import annotations

from pydantic import ConfigDict

from .base import ModelConfig


class Config(ModelConfig):
    model_config = ConfigDict(extra="allow", frozen=True)
