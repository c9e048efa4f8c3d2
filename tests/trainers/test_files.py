"""What is made to be given away has the umask's modes in all its parts, whichever library wrote them."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import safetensors.numpy
import torch

from trainers import files
from trainers.inference import video_files


@pytest.fixture(params=[0o022, 0o027, 0o002, 0o077], ids=lambda value: f"{value:03o}")
def umask(request: pytest.FixtureRequest) -> Iterator[int]:
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def _modes(folder: Path) -> set[tuple[str, int]]:
    return {("d" if path.is_dir() else "f", stat.S_IMODE(path.stat().st_mode)) for path in [folder, *folder.rglob("*")]}


def test_a_published_folder_has_the_umasks_modes_in_all_its_parts(tmp_path: Path, umask: int) -> None:
    target = tmp_path / "made"
    with files.new_folder(target) as temporary:
        (temporary / "private").mkdir(mode=0o700)
        safetensors.numpy.save_file({}, temporary / "private/a.safetensors")  # it leaves 0600 whatever the umask
        (temporary / "run.sh").write_text("")
        (temporary / "run.sh").chmod(0o755)
        (temporary / "link").symlink_to("run.sh")
        files.publish_folder(temporary, target)
    assert _modes(target) == {("d", 0o777 & ~umask), ("f", 0o666 & ~umask)}


def test_a_published_file_has_the_umasks_mode(tmp_path: Path, umask: int) -> None:
    files.publish(tmp_path / "a/x.safetensors", lambda path: (path.parent.mkdir(), safetensors.numpy.save_file({}, path)))
    files.publish(tmp_path / "a/x.parquet", lambda path: pq.write_table(pa.table({"n": [1]}), path))
    files.publish_json(tmp_path / "a/b/x.json", {})
    video_files.write_mp4(tmp_path / "a/x.mp4", torch.zeros(3, 2, 16, 16), 8)
    video_files.write_png(tmp_path / "a/x.png", video_files.contact_sheet([("a", torch.zeros(3, 2, 16, 16))]))
    assert _modes(tmp_path / "a") == {("d", 0o777 & ~umask), ("f", 0o666 & ~umask)}


def test_a_rank_takes_the_persons_umask_whatever_its_jobs_is() -> None:
    code = "import os; from trainers.control import Control; Control().start(); print(f'{os.umask(0):04o}')"
    for told, found in (("0027", "0027"), ("22", "0022"), ("", "0077")):
        environment = {**os.environ, "TRAINER_UMASK": told}
        done = subprocess.run([sys.executable, "-c", code], env=environment, umask=0o077, capture_output=True, text=True, check=True)
        assert done.stdout == f"{found}\n"
