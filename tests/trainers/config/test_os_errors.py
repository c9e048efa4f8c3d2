"""What the operating system refuses is told in a line: what is in the way, whose it is, what helps."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest

from trainers.config.os_errors import explain


def _refused(act: Any, *arguments: Any) -> str:
    with pytest.raises(OSError) as caught:
        act(*arguments)
    refusal = explain(caught.value)
    assert refusal is not None and "\n" not in refusal.message
    return f"{refusal.message} | {refusal.hint}"


def test_what_is_in_the_way_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "dangling").symlink_to("gone")
    (tmp_path / "loop").symlink_to("loop")
    here = str(tmp_path)
    assert _refused(Path.read_text, tmp_path / "none") == f"{here}/none does not exist | "
    assert _refused(Path.write_text, tmp_path / "no/such", "") == f"{here}/no does not exist | it is needed for {here}/no/such"
    assert f"{here}/dangling is a link to gone, which does not exist" in _refused(Path.read_text, tmp_path / "dangling")
    assert f"{here}/file is a file, where {here}/file/x needs a folder" in _refused(Path.mkdir, tmp_path / "file/x")
    assert f"{here} is a folder" in _refused(Path.read_text, tmp_path)
    assert f"{here}/file is a file that exists already" in _refused(Path.mkdir, tmp_path / "file")
    assert "link that leads back to itself" in _refused(Path.read_text, tmp_path / "loop")
    assert "name is too long for this file system: aaaa" in _refused(Path.read_text, tmp_path / ("a" * 300))


def test_a_full_disk_and_a_read_only_one_are_told() -> None:
    for code, words in ((errno.ENOSPC, "no space left"), (errno.EDQUOT, "quota"), (errno.EROFS, "only be read"), (errno.EIO, "error")):
        refusal = explain(OSError(code, os.strerror(code), "/data/x"))
        assert refusal is not None and refusal.message.startswith("/data/x") and words in refusal.message
    full = os.open("/dev/full", os.O_WRONLY)
    with pytest.raises(OSError) as caught:
        os.write(full, b"x")
    os.close(full)
    refusal = explain(caught.value)
    assert refusal is not None and "no space left on the device" in refusal.message


def test_a_mistake_of_the_program_is_none_of_the_persons() -> None:
    assert explain(OSError(errno.EBADF, "Bad file descriptor")) is None and explain(OSError("words alone")) is None


@pytest.mark.skipif(os.geteuid() == 0, reason="root may do everything")
def test_a_folder_of_ones_own_that_is_closed_is_told_with_chmod(tmp_path: Path) -> None:
    (tmp_path / "shut").mkdir(mode=0o500)
    assert "may not be written in: its mode is dr-x------" in _refused(Path.mkdir, tmp_path / "shut/x")
    (tmp_path / "shut").chmod(0o000)
    assert f"chmod u+rwX {tmp_path}/shut" in _refused(Path.read_text, tmp_path / "shut/x")
    (tmp_path / "shut").chmod(0o700)
