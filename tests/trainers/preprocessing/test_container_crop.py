"""The crop that a container asks for is made as ffmpeg's program makes it: nothing of what it hides is trained on."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.trainers.ffmpeg_program import differs, ffmpeg, make, shown
from tests.support.trainers.mp4_boxes import ONE, with_clean_aperture, with_matrix
from trainers.preprocessing.clips import Settings, read_clip
from trainers.sources.entries import Rejected

H264 = "-c:v libx264 -preset ultrafast -pix_fmt yuv420p"
APERTURES = {
    "centred": (32, 1, 24, 1, 0, 1, 0, 1),
    "offset": (32, 1, 24, 1, 8, 1, -6, 1),
    "corner": (40, 1, 40, 1, -12, 1, -4, 1),
    "odd": (31, 1, 23, 1, 0, 1, 0, 1),
    "halves": (65, 2, 49, 2, 1, 2, -1, 2),
    "one-edge": (60, 1, 48, 1, -2, 1, 0, 1),
    "whole": (64, 1, 48, 1, 0, 1, 0, 1),
    "far-denominators": (32000, 1000, 24000, 1000, 3000, 500, 0, 7),
}


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("sources")
    made = {"square.mp4": H264, "wide.mp4": f"-vf setsar=3/2 {H264}", "high.mov": f"-vf setsar=2/3 {H264.replace('420p', '444p')}"}
    return {name: make(folder / name, words, duration_s=0.25) for name, words in made.items()}


def _matroska(source: Path, path: Path) -> Path:
    ffmpeg("-i", source, "-c", "copy", path)
    return path


def test_a_clean_aperture_is_what_is_shown(tmp_path: Path, sources: dict[str, Path]) -> None:
    square = sources["square.mp4"]
    made = [with_clean_aperture(square, tmp_path / f"{name}.mp4", *numbers) for name, numbers in APERTURES.items()]
    sizes = {path.stem: shown(path)[1].shape[1:3] for path in made}
    assert sizes["centred"] == (24, 32) and sizes["whole"] == (48, 64) and sizes["one-edge"] == (48, 60)  # the referee crops
    assert [problem for path in made if (problem := differs(path, 3))] == []


def test_it_is_made_before_turns_and_square_pixels(tmp_path: Path, sources: dict[str, Path]) -> None:
    made = []
    for name, source in sources.items():
        cropped = with_clean_aperture(source, tmp_path / f"cropped-{name}", *APERTURES["offset"])
        made += [cropped, with_matrix(cropped, tmp_path / f"turned-{name}", 0, ONE, -ONE, 0)]
        made.append(with_matrix(cropped, tmp_path / f"mirrored-{name}", -ONE, 0, 0, ONE))
    assert [problem for path in made if (problem := differs(path, 3))] == []


def test_matroska_crops_by_elements_of_its_own(tmp_path: Path, sources: dict[str, Path]) -> None:
    made = []
    for name, source in sources.items():
        for aperture in ("offset", "odd"):
            cropped = with_clean_aperture(source, tmp_path / f"{aperture}-{name}", *APERTURES[aperture])
            made.append(_matroska(cropped, tmp_path / f"{aperture}-{Path(name).stem}.mkv"))
    assert b"\x54\xcc" in made[0].read_bytes(), "it holds no PixelCropLeft"
    assert [problem for path in made if (problem := differs(path, 3, tick_s=0.002))] == []


def test_the_crop_is_that_of_the_video_that_is_read(tmp_path: Path, sources: dict[str, Path]) -> None:
    cropped = with_clean_aperture(sources["square.mp4"], tmp_path / "cropped.mp4", *APERTURES["offset"])
    both = tmp_path / "both.mkv"
    two = ["-i", cropped, "-i", sources["wide.mp4"], "-map", 0, "-map", 1, "-c", "copy"]
    ffmpeg(*two, "-disposition:0", 0, "-disposition:1", "default", both)
    clip = read_clip(both, Settings(3, 48, 96, 16))
    assert (clip.width, clip.height) == (96, 48), "the second video has no crop"
    ffmpeg(*two, "-disposition:0", "default", "-disposition:1", 0, tmp_path / "first.mkv")
    assert differs(tmp_path / "first.mkv", 3, tick_s=0.002) == ""


def test_a_file_in_memory_and_one_whose_header_comes_first_are_cropped_too(tmp_path: Path, sources: dict[str, Path]) -> None:
    cropped = with_clean_aperture(sources["square.mp4"], tmp_path / "cropped.mp4", *APERTURES["offset"])
    ffmpeg("-i", cropped, "-c", "copy", "-movflags", "faststart", tmp_path / "first.mp4")
    ffmpeg("-i", cropped, "-c", "copy", "-movflags", "frag_keyframe+empty_moov", tmp_path / "fragments.mp4")
    for path in (tmp_path / "first.mp4", tmp_path / "fragments.mp4"):
        assert differs(path, 3) == ""
    clip = read_clip(cropped.read_bytes(), Settings(3, 24, 32, 16))
    assert (clip.width, clip.height) == (32, 24)


def test_an_aperture_that_reaches_out_of_the_picture_is_none_as_in_ffmpeg(tmp_path: Path, sources: dict[str, Path]) -> None:
    wrong = [(65, 1, 48, 1, 0, 1, 0, 1), (32, 1, 24, 1, 40, 1, 0, 1), (32, 0, 24, 1, 0, 1, 0, 1), (0, 1, 0, 1, 0, 1, 0, 1)]
    for number, numbers in enumerate(wrong):
        path = with_clean_aperture(sources["square.mp4"], tmp_path / f"{number}.mp4", *numbers)
        assert shown(path)[1].shape[1:3] == (48, 64) and differs(path, 3) == ""


def test_a_crop_that_leaves_nothing_is_one_rejected_entry(tmp_path: Path, sources: dict[str, Path]) -> None:
    cropped = with_clean_aperture(sources["square.mp4"], tmp_path / "cropped.mp4", *APERTURES["offset"])
    content = _matroska(cropped, tmp_path / "cropped.mkv").read_bytes()
    left = content.index(b"\x54\xcc\x81") + 3
    (tmp_path / "nothing.mkv").write_bytes(content[:left] + bytes([60]) + content[left + 1 :])
    with pytest.raises(Rejected):
        read_clip(tmp_path / "nothing.mkv", Settings(3, 48, 64, 16))
