"""What this machine says of its GPUs."""

from __future__ import annotations

from pathlib import Path

import pytest

from fvlaunch.schedulers import local_process


@pytest.mark.parametrize(("visible", "count"), [("0,1", 2), (" 3 , GPU-7f ", 2), ("", 0), ("-1", 0), ("0,-1,2", 1), ("0,,2", 1)])
def test_what_is_no_device_ends_the_list_of_visible_ones(visible: str, count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    monkeypatch.setattr(Path, "exists", lambda _: True)  # a driver, which tests have to do without
    assert local_process.num_local_gpus() == count
