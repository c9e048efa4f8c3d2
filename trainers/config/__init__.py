"""Every trainer knob, typed and documented. Must not import torch: the launcher validates recipes with it."""

from .checks import Batching, batching, check
from .section import Problem, Section
from .train import TrainConfig

__all__ = ["Batching", "Problem", "Section", "TrainConfig", "batching", "check"]
