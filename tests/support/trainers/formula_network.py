"""Owns a role whose network is a formula of a few parameters, so that a method's loss and gradients can be derived by hand."""

from __future__ import annotations

import torch
from torch import nn

from trainers.models.base import ModelBase


class FormulaModel(ModelBase):
    """A role on the CPU that is never built, sharded or loaded. A subclass says what it predicts."""

    def __init__(self, formula: nn.Module, role: str = "student") -> None:
        self.transformer, self.device, self.role, self.trainable = formula, torch.device("cpu"), role, role != "teacher"
        self.transformer.requires_grad_(self.trainable)
