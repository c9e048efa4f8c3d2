"""Compiled code is only ever taken from a folder that no other user could have written in."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from fvlaunch.agent.compile_caches import CompileCaches


@pytest.fixture
def usual(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The name that anyone can guess; not made yet."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    return tmp_path / f"fvlaunch-{os.getuid()}"


def folder_of(caches: CompileCaches) -> Path:
    """The folder under which all of a run's caches lie, two above the run's own."""
    return Path(caches.of_node()["TRITON_CACHE_DIR"]).parents[2]


def test_caches_lie_in_a_folder_of_mode_0700_that_the_next_attempt_finds_again(usual: Path) -> None:
    umask = os.umask(0)
    try:
        first = CompileCaches("run")
    finally:
        os.umask(umask)
    assert folder_of(first) == usual and stat.S_IMODE(usual.stat().st_mode) == 0o700
    kept = Path(first.of_node()["TORCHINDUCTOR_CACHE_DIR"])
    kept.mkdir(parents=True)
    first.close()
    assert kept.is_dir() and CompileCaches("run").of_node() == first.of_node() != CompileCaches("another").of_node()


def test_a_folder_that_others_could_only_read_is_closed_and_used(usual: Path) -> None:
    usual.mkdir()
    usual.chmod(0o755)
    assert folder_of(CompileCaches("run")) == usual and stat.S_IMODE(usual.stat().st_mode) == 0o700


def writable_by_others(usual: Path) -> None:
    usual.mkdir()
    usual.chmod(0o1777)


def writable_by_the_group(usual: Path) -> None:
    usual.mkdir()
    usual.chmod(0o770)


def a_link(usual: Path) -> None:
    (usual.parent / "elsewhere").mkdir(mode=0o700)
    usual.symlink_to(usual.parent / "elsewhere")


def a_file(usual: Path) -> None:
    usual.write_text("")


def somebody_elses(usual: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root may give a folder away")
    usual.mkdir(mode=0o700)
    os.chown(usual, 12345, 12345)


@pytest.mark.parametrize("plant", [writable_by_others, writable_by_the_group, a_link, a_file, somebody_elses])
def test_what_another_user_may_have_planted_is_never_used(
    usual: Path, plant: Callable[[Path], None], capfd: pytest.CaptureFixture[str]
) -> None:
    plant(usual)
    before = usual.lstat()
    caches = CompileCaches("run")
    folder = folder_of(caches)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700 and folder.stat().st_uid == os.geteuid()
    assert usual.resolve() not in [folder.resolve(), *folder.resolve().parents]
    assert str(usual) in capfd.readouterr().err and usual.lstat().st_mode == before.st_mode
    caches.close()
    assert not folder.exists()


def test_a_temporary_folder_that_is_not_there_costs_only_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path / "nowhere"))
    caches = CompileCaches("run")
    assert folder_of(caches).is_dir()
    caches.close()
