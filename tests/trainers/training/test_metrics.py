"""Promises of how a step's numbers reach the device and the host: without a wait, in full, in order, one step late."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from trainers.training.metrics import DelayedMetrics, on_device


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


class Operations(TorchDispatchMode):
    """Notes what is called."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.append(func.overloadpacket.__name__)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("value", [1.0, True, 3, np.float64(0.25), torch.tensor(7), torch.tensor(0.5, requires_grad=True)], ids=repr)
def test_a_number_of_the_host_goes_to_the_device_without_a_copy(value: Any) -> None:
    """On the device `meta`, which is another than the host's."""
    with Operations() as done:
        found = on_device(value, torch.device("meta"))
    assert found.device.type == "meta" and found.dtype == torch.float64 and found.shape == () and not found.requires_grad
    assert "full" in done.names and not {"_to_copy", "copy_"} & set(done.names)
    assert on_device(value, torch.device("cpu")).item() == float(torch.as_tensor(value).detach())


def test_a_number_of_the_device_stays_there_and_gives_up_its_graph() -> None:
    found = on_device(torch.ones((), device="meta", requires_grad=True), torch.device("meta"))
    assert found.device.type == "meta" and found.dtype == torch.float64 and not found.requires_grad
