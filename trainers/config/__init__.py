"""Owns every key of the trainers, typed and documented, without torch: the launcher validates with it at once.

May import: nothing.
Must not know: networks, data on disk, or what launches a rank.
"""

from .cross_checks import Batching, batching, check
from .section import Problem, Section
from .train import TrainConfig

__all__ = ["Batching", "Problem", "Section", "TrainConfig", "batching", "check"]
