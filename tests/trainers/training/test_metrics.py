"""Promises of how a step's numbers reach the host: in full, in order, one step late."""

from __future__ import annotations

import torch

from trainers.training.metrics import DelayedMetrics


def test_a_record_comes_one_step_late_in_the_order_written() -> None:
    delayed = DelayedMetrics()
    assert delayed.push(1, ["loss", "grad_norm"], torch.tensor([0.5, 2.0], dtype=torch.float64), {"lr": 0.1}) is None
    record = delayed.push(2, ["loss"], torch.tensor([0.25], dtype=torch.float64), {})
    assert record is not None
    assert list(record.values.items()) == [("step", 1), ("loss", 0.5), ("grad_norm", 2.0), ("lr", 0.1)]
    last = delayed.pop()
    assert last is not None
    assert last.step == 2
    assert delayed.pop() is None
