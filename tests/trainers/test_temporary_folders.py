"""Promises of where temporary files go: a node whose disks are full starts a rank all the same."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pytest

from tests.support.small_disk import small_disk
from trainers import temporary_folders


def test_temporary_files_are_in_memory_where_no_disk_takes_any(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", None)
    monkeypatch.setattr(tempfile, "_candidate_tempdir_list", lambda: [str(tmp_path / "none")])
    monkeypatch.setenv("TMPDIR", str(tmp_path / "none"))
    [told] = temporary_folders.ensure()
    assert "temporary files are kept in memory" in told
    assert tempfile.gettempdir() == os.environ["TMPDIR"] == "/dev/shm"  # the latter is for processes that it starts
    monkeypatch.setattr(tempfile, "tempdir", None)


def test_what_is_compiled_is_kept_in_memory_where_its_disk_is_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    roomy = tmp_path / "roomy" / "triton"
    monkeypatch.setenv("TRITON_CACHE_DIR", str(roomy))
    with small_disk(tmp_path / "disk", kb=256) as disk:
        disk.fill()
        monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(disk.path / "rank-0000"))
        [told] = temporary_folders.ensure()
        assert told.startswith(f"{disk.path / 'rank-0000'} takes no files")
        instead = Path(os.environ["TORCHINDUCTOR_CACHE_DIR"])
        (instead / "code.py").write_text("compiled = True")
        assert instead.stat().st_mode & 0o777 == 0o700
        temporary_folders.remove()
        assert not instead.exists()
    assert os.environ["TRITON_CACHE_DIR"] == str(roomy) and list(roomy.iterdir()) == []
