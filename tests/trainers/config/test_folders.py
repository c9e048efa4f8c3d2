"""Which files of a folder count: links, loops, hidden files."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from trainers.config import folders


def touch(*paths: Path) -> None:
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def below(folder: Path) -> list[str]:
    return [path.relative_to(folder).as_posix() for path in folders.files(folder)]


def test_hidden_files_and_what_systems_leave_behind_do_not_count(tmp_path: Path) -> None:
    touch(tmp_path / "a.mp4", tmp_path / "sub dir/100%.mp4")
    touch(*(tmp_path / name for name in ("._a.mp4", ".DS_Store", "Thumbs.db", "desktop.ini", "~$a.mp4", ".ipynb_checkpoints/a.mp4")))
    touch(*(tmp_path / name for name in ("@eaDir/a.mp4", "__MACOSX/a.mp4", "sub dir/.a.mp4", "$RECYCLE.BIN/a.mp4")))
    assert below(tmp_path) == ["a.mp4", "sub dir/100%.mp4"]


def test_links_to_folders_are_followed_wherever_they_lead(tmp_path: Path) -> None:
    touch(tmp_path / "elsewhere/a.mp4", tmp_path / "elsewhere/deep/b.mp4", tmp_path / "more/c.mp4")
    (tmp_path / "elsewhere/deep/more").symlink_to(tmp_path / "more")
    root = tmp_path / "root"
    root.mkdir()
    (root / "linked").symlink_to("../elsewhere", target_is_directory=True)
    assert below(root) == ["linked/a.mp4", "linked/deep/b.mp4", "linked/deep/more/c.mp4"]
    (tmp_path / "itself").symlink_to(root)
    assert below(tmp_path / "itself") == below(root)


def test_loops_end_and_no_file_is_listed_twice(tmp_path: Path) -> None:
    touch(tmp_path / "beside.mp4", tmp_path / "root/a.mp4", tmp_path / "root/sub/b.mp4", tmp_path / "far/c.mp4")
    root = tmp_path / "root"
    for name, target in {"again": ".", "up": "..", "sub/top": "..", "a_sub": "sub", "one": "../far", "two": "../far"}.items():
        (root / name).symlink_to(target, target_is_directory=True)
    (tmp_path / "far/back").symlink_to(root)
    (tmp_path / "far/up").symlink_to("..")
    assert below(root) == ["a.mp4", "one/c.mp4", "sub/b.mp4"]


def test_a_link_to_nowhere_is_listed_so_that_it_can_be_told(tmp_path: Path) -> None:
    (tmp_path / "gone.mp4").symlink_to("nowhere")
    (tmp_path / "self").symlink_to("self")
    assert below(tmp_path) == ["gone.mp4", "self"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_a_folder_that_cannot_be_read_is_an_error_and_not_empty(tmp_path: Path) -> None:
    (tmp_path / "closed").mkdir(mode=0)
    with pytest.raises(PermissionError):
        folders.files(tmp_path)
