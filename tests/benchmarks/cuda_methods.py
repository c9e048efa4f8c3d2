"""Training methods that draw their noise on the CPU, so that a run on a GPU meets the noise of a run on the CPU.

For a configuration's `method: {kind: .../cuda_methods.py:DrawnFineTune}`.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from trainers.diffusion.flow_schedule import FlowSchedule
from trainers.methods.base import Batch
from trainers.methods.dfsft import DiffusionForcingSFTMethod
from trainers.methods.finetune import FineTuneMethod


class _Drawn:
    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.cuda_generator = torch.Generator()

    def prepare_batch(self: Any, batch: Batch, high: bool | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """As the method itself, on the CPU, then moved."""
        kept = self.device, self.schedule
        self.device, self.schedule = torch.device("cpu"), FlowSchedule(self.cfg.flow_shift)
        try:
            _clean, noise, timesteps = super().prepare_batch({"latents": batch["latents"].cpu()}, high)  # type: ignore[misc]
        finally:
            self.device, self.schedule = kept
        return batch["latents"], noise.to(self.device), timesteps.to(self.device)


class DrawnFineTune(_Drawn, FineTuneMethod):
    pass


class DrawnForcing(_Drawn, DiffusionForcingSFTMethod):
    pass
