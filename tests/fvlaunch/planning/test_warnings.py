"""What a submission is warned of before anything is queued: GPUs too small, disks too full, clips of another size."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.profiles import Call, caller_beside_a_profile


@pytest.fixture
def call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Call:
    return caller_beside_a_profile(tmp_path, monkeypatch, capsys)


def test_a_gpu_that_is_too_small_is_told(call: Call, tmp_path: Path) -> None:
    code, _, err = call("submit", "shapes-finetune", "--cluster", "lab", "--dry-run", "--set", "cluster.gpu_memory_gb=80")
    assert code == 0 and "warning" not in err
    code, _, err = call("submit", "shapes-finetune", "--cluster", "lab", "--dry-run", "--set", "cluster.gpu_memory_gb=1")
    assert code == 0 and "warning: about 2." in err and "of lab has 1 GB" in err and "hint:" in err


def test_checkpoints_that_will_not_fit_on_the_disk_are_told(call: Call) -> None:
    plenty = ("--set", "train.max_steps=1000000000", "--set", "train.checkpoint.keep_every_steps=1")
    code, _, err = call("submit", "shapes-finetune", "--cluster", "lab", "--dry-run", *plenty)
    assert code == 0 and "warning: checkpoints take up to" in err and "GB free" in err
    assert "checkpoints take up to" not in call("submit", "shapes-finetune", "--cluster", "lab", "--dry-run")[2]


def test_clips_of_another_size_are_refused_by_the_dry_run(call: Call, tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    (tmp_path / "data/shapes").mkdir(parents=True)
    pq.write_table(pa.table({"vae_latent_shape": [[4, 5, 4, 8]]}), tmp_path / "data/shapes/a.parquet")  # type: ignore[no-untyped-call]
    code, _, err = call("submit", "shapes-finetune", "--dry-run", "--cluster", "local")
    assert code == 1 and "latents of 5x4x8" in err and "wants 5x4x4" in err and "base/shapes.yaml" in err
