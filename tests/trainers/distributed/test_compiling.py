"""Promises about what is compiled: a disk that fills up while a run goes on ends no rank, and ranks of a node may share a cache."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor

from tests.support.small_disk import small_disk
from trainers import temporary_folders
from trainers.distributed import compiling


@pytest.fixture(autouse=True)
def anew() -> Iterator[None]:
    torch._dynamo.reset()
    compiling._look_before_each.cache_clear()
    yield
    torch._dynamo.reset()
    compiling._look_before_each.cache_clear()


def writing(graph: torch.fx.GraphModule, _examples: list[Tensor]) -> torch.fx.GraphModule:
    """A compiler that writes what it makes where Inductor would."""
    folder = Path(os.environ["TORCHINDUCTOR_CACHE_DIR"])
    folder.mkdir(exist_ok=True)
    (folder / f"{len(list(folder.iterdir()))}.py").write_bytes(b"x" * 100_000)
    return graph


@pytest.mark.filterwarnings("ignore")  # dynamo's own
def test_a_cache_whose_disk_fills_up_during_the_run_is_kept_in_memory_from_then_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.delenv("TRITON_CACHE_DIR", raising=False)
    with small_disk(tmp_path / "disk", kb=12_000) as disk:
        monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(disk.path / "inductor"))
        doubled = compiling.compiled(lambda part: part * 2, dynamic=False, backend=writing)
        assert doubled(torch.ones(2)).sum() == 4 and len(list((disk.path / "inductor").iterdir())) == 1
        disk.fill()
        assert doubled(torch.ones(3)).sum() == 6 and doubled(torch.ones(4)).sum() == 8
        instead = Path(os.environ["TORCHINDUCTOR_CACHE_DIR"])
        assert instead.parent == Path("/dev/shm") and len(list(instead.iterdir())) == 2
        [told] = [record for record in caplog.records if getattr(record, "reported", False)]
        assert told.getMessage().startswith(f"{disk.path / 'inductor'} takes no files")
        temporary_folders.remove()
