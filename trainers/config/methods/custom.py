"""Owns the configuration of a method from the user's own file. Its keys are checked by that file, in the rank."""

from __future__ import annotations

from pydantic import ConfigDict

from .base import MethodConfig


class Config(MethodConfig):
    model_config = ConfigDict(extra="allow", frozen=True)
