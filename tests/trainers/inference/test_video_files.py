"""Promises of the files that a person looks at: they play, they show the right pixels, and none is half-written."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from PIL import Image

from trainers.inference.video_files import contact_sheet, pixels, write_mp4, write_mp4_parts, write_png


def decoded(path: Path) -> np.ndarray:
    with av.open(str(path)) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


def test_an_mp4_shows_the_frames_it_was_given(tmp_path: Path) -> None:
    levels = torch.tensor([-1.0, 0.0, 1.0]).reshape(1, 3, 1, 1).expand(3, 3, 66, 130)
    frames = decoded(write_mp4(tmp_path / "x.mp4", levels, 8))
    assert frames.shape == (3, 66, 130, 3)
    assert frames.mean((1, 2, 3)) == pytest.approx([0, 128, 255], abs=3)
    with av.open(str(tmp_path / "x.mp4")) as container:
        assert container.streams.video[0].average_rate == 8
    assert [p.name for p in tmp_path.iterdir()] == ["x.mp4"]


def test_tiny_videos_are_enlarged_pixel_by_pixel_and_odd_sizes_filled_up(tmp_path: Path) -> None:
    checks = (torch.arange(64).reshape(8, 8).fmod(2) * 2 - 1).expand(3, 5, 8, 8)
    assert decoded(write_mp4(tmp_path / "small.mp4", checks, 8)).shape == (5, 64, 64, 3)
    assert decoded(write_mp4(tmp_path / "odd.mp4", torch.zeros(3, 2, 65, 67), 8)).shape == (2, 66, 68, 3)


def test_a_video_that_comes_part_by_part_is_the_same_and_has_no_name_before_it_is_whole(tmp_path: Path) -> None:
    video = torch.linspace(-1, 1, 7).reshape(1, 7, 1, 1).expand(3, 7, 16, 16)
    there: list[list[str]] = []

    def parts(fails: bool = False) -> Iterator[torch.Tensor]:
        for part in video.split(3, 1):
            there.append([path.name for path in tmp_path.iterdir()])
            yield part
        if fails:
            raise ValueError("the network broke")

    whole, joined = write_mp4(tmp_path / "a.mp4", video, 8), write_mp4_parts(tmp_path / "b.mp4", parts(), 8)
    assert decoded(joined).shape == (7, 64, 64, 3) and np.abs(decoded(whole).astype(int) - decoded(joined)).max() < 16
    assert len(there) == 3 and not any("b.mp4" in names for names in there)
    with pytest.raises(ValueError, match="broke"):
        write_mp4_parts(tmp_path / "c.mp4", parts(fails=True), 8)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.mp4", "b.mp4"]


def test_values_out_of_range_or_not_finite_do_not_wrap_around() -> None:
    video = torch.tensor([2.0, -2.0, float("nan"), float("inf")]).reshape(1, 1, 1, 4).expand(3, 1, 1, 4)
    assert pixels(video)[0, 0, :, 0].tolist() == [255, 0, 0, 0]


def test_a_contact_sheet_has_a_row_a_video_with_its_first_and_last_frame(tmp_path: Path) -> None:
    ramp = torch.linspace(-1, 1, 21).reshape(1, 21, 1, 1).expand(3, 21, 8, 8)
    sheet = contact_sheet([("a ramp", ramp), ("one frame\nonly", torch.ones(3, 1, 8, 16))])
    assert sheet.shape == (2 * (14 + 128 + 2), 8 * (128 + 2), 3)
    row = sheet[14 + 64]
    assert [int(row[130 * n + 64, 0]) for n in (0, 7)] == [0, 255]
    assert sheet[:14].max() > 200  # the label
    written = np.asarray(Image.open(write_png(tmp_path / "sheet.png", sheet)))
    assert np.array_equal(written, sheet)


def test_a_failure_leaves_the_old_file_and_no_leftover(tmp_path: Path) -> None:
    path = write_mp4(tmp_path / "x.mp4", torch.zeros(3, 2, 64, 64), 8)
    before = path.read_bytes()
    with pytest.raises(ValueError, match=r"max\(\) .*empty"):
        contact_sheet([])
    with pytest.raises(Exception):  # noqa: B017
        write_png(path, np.zeros((2, 2, 7), np.uint8))
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["x.mp4"]
