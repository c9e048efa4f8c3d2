"""Lists and folders of clips as people have them, preprocessed by the trainers' program; and training data in other places."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from tests.support.rows import row
from tests.support.trainers.clip_files import Job, finish, rows, write_clip
from tests.support.trainers.stored import config, part, run, write
from trainers.errors import UserError
from trainers.sources import prompt_files

RIGHT, DOWN = "a square moving right", "a cross moving down"
CONTAINERS = {"gif": "gif", "MTS": "libx264", "3gp": "mpeg4", "wmv": "wmv2", "FLV": "flv", "vob": "mpeg2video", "mxf": "mpeg2video"}


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A small clip that can be used."""
    return write_clip(tmp_path_factory.mktemp("clip") / "clip.mp4").read_bytes()


@pytest.fixture
def clips(tmp_path: Path, clip: bytes) -> Callable[..., Path]:
    """Writes the clip under names below a folder, and returns the folder."""

    def written(*names: str, below: str = "in") -> Path:
        for name in names:
            (tmp_path / below / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / below / name).write_bytes(clip)
        return tmp_path / below

    return written


def used(source: Path, **changes: Any) -> dict[str, str]:
    """Preprocess a source, of which all must be used, and return the caption of each clip by its id."""
    report = finish(source, source.parent / f"out-{source.name}", **changes)
    assert (report["problems"], report["written"]) == ([], report["entries"])
    return {str(row["id"]): str(row["caption"]) for row in rows(source.parent / f"out-{source.name}")}


def write_other(path: Path, codec: str) -> None:
    """Write a clip of 50 frames in another container."""
    kind = {".mts": "mpegts"}.get(path.suffix.lower())
    with av.open(str(path), "w", format=kind) as container:
        stream: Any = container.add_stream(codec, rate=25 if codec.startswith("mpeg") else 8)
        stream.width, stream.height, stream.pix_fmt = 176, 144, "rgb8" if codec == "gif" else "yuv420p"
        for number in range(50 if codec.startswith("mpeg") else 10):
            picture = np.full((144, 176, 3), 5 * number, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())


@row("11", "gif, mts, 3gp, wmv, flv, vob, mxf beside x.txt, suffixes in any case")
def test_whatever_ffmpeg_reads_is_a_clip(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for suffix, codec in CONTAINERS.items():
        write_other(tmp_path / f"in/{suffix}.{suffix}", codec)
        (tmp_path / f"in/{suffix}.txt").write_text(RIGHT)
    assert used(tmp_path / "in", duration_tolerance=100) == dict.fromkeys(CONTAINERS, RIGHT)


@row("14", "._x.mp4 of macOS, Thumbs.db, @eaDir beside the clips")
def test_hidden_files_are_no_clips(tmp_path: Path, clips: Callable[..., Path]) -> None:
    source = clips("a.mp4")
    for name in ("._a.mp4", "._a.txt", ".DS_Store", "Thumbs.db", "@eaDir/a.mp4", ".ipynb_checkpoints/b.mp4"):
        (source / name).parent.mkdir(exist_ok=True)
        (source / name).write_bytes(b"\0\5\x16\7")
    (source / "a.txt").write_text(RIGHT)
    assert used(source) == {"a": RIGHT}


@row("15", "one caption in cp1252, one in UTF-16")
def test_a_caption_that_is_not_utf8_is_one_rejected_entry(tmp_path: Path, clips: Callable[..., Path]) -> None:
    source = clips(*(f"{name}.mp4" for name in "abcde"))
    for name, words in {
        "a": RIGHT.encode(),
        "b": b"the lamp\x92s shade",
        "c": RIGHT.encode("utf-16"),
        "d": DOWN.encode("utf-8-sig"),
    }.items():
        (source / f"{name}.txt").write_bytes(words)
    (source / "e.txt").write_bytes(DOWN.encode("utf-16-be"))
    report = finish(source, tmp_path / "out", max_rejected=0.7)
    assert (report["written"], report["rejected"]) == (2, {"not_utf8": 3})
    assert [problem["name"] for problem in report["problems"]] == ["b.mp4", "c.mp4", "e.mp4"]


@row("16", "U+2028 and U+0085 inside captions of jsonl")
def test_a_line_separator_in_a_caption_ends_no_line(clips: Callable[..., Path]) -> None:
    words = {name: f"a square{character}moving right" for name, character in {"a": "\u2028", "b": "\x85", "c": "\u2029", "d": " "}.items()}
    source = clips(*(f"{name}.mp4" for name in words))
    lines = [json.dumps({"file_name": f"{name}.mp4", "caption": text}, ensure_ascii=False) for name, text in words.items()]
    (source / "metadata.jsonl").write_text("\r\n".join([*lines, ""]), encoding="utf-8", newline="")
    assert used(source) == words


@row("17", "a byte-order mark, blank lines and CRLF between prompts")
def test_all_readers_of_prompts_read_alike(tmp_path: Path) -> None:
    (tmp_path / "prompts.txt").write_bytes(f"\ufeff\r\n{RIGHT}  \r\n\r\n\r\na cross\u2028moving down\r\n\r\n".encode())
    prompts = list(used(tmp_path / "prompts.txt", kind="text").values())
    assert prompts == [RIGHT, "a cross\u2028moving down"] == prompt_files.read(tmp_path / "prompts.txt")


@row("18", "a CSV with ; or tabs, and other header words")
@pytest.mark.parametrize("table", ["Video; Prompt\na.mp4; {}\nb.mp4; {}\n", "Clip Path\tfps\tDescription\na.mp4\t8\t{}\nb.mp4\t8\t{}\n"])
def test_a_table_is_read_by_what_its_columns_are(clips: Callable[..., Path], table: str) -> None:
    source = clips("a.mp4", "b.mp4")
    (source / "metadata.csv").write_text(table.format(RIGHT, DOWN))
    assert used(source) == {"a": RIGHT, "b": DOWN}


@row("18", "a CSV whose columns nobody knows")
def test_columns_that_are_not_known_are_named(tmp_path: Path, clips: Callable[..., Path]) -> None:
    (clips("a.mp4") / "metadata.csv").write_text(f"nummer;inhalt\na.mp4;{RIGHT}\n")
    job = Job(tmp_path / "in", tmp_path / "out")
    assert job.join() == [76]
    assert "among its columns: 'nummer', 'inhalt'" in job.log() and "preprocess.video_column" in job.log()
    assert not (tmp_path / "out").exists()
    assert used(tmp_path / "in", video_column="nummer", caption_column="inhalt") == {"a": RIGHT}


@row("19", "x.caption, x.TXT, x.json beside x.mp4")
def test_captions_lie_beside_clips_in_many_ways(clips: Callable[..., Path]) -> None:
    source = clips(*(f"{name}.mp4" for name in "abcd"))
    contents = {"a.caption": RIGHT, "b.TXT": DOWN, "c.json": json.dumps({"fps": 8, "caption": [RIGHT]}), "d.JSON": json.dumps(DOWN)}
    for name, content in contents.items():
        (source / name).write_text(content)
    assert used(source) == {"a": RIGHT, "b": DOWN, "c": RIGHT, "d": DOWN}


@row("20", "absolute paths, backslashes and drive letters in a list")
def test_paths_are_read_where_they_lie_inside_or_exist(tmp_path: Path, clips: Callable[..., Path]) -> None:
    source = clips("videos/a.mp4", "videos/b.mp4", "c.mp4")
    clips("far.mp4", below="elsewhere")
    names = ["C:\\set\\videos\\a.mp4", "videos\\b.mp4", str(source / "c.mp4"), str(tmp_path / "elsewhere/far.mp4"), "D:\\gone.mp4"]
    (source / "metadata.jsonl").write_text("\n".join(json.dumps({"video": name, "caption": RIGHT}) for name in names))
    report = finish(source, tmp_path / "out")
    assert (report["written"], report["rejected"]) == (4, {"missing": 1})
    assert report["problems"][0]["name"] == "D:\\gone.mp4"


@row("21", "prompts.txt with videos.txt")
def test_two_files_of_lines_are_a_list(clips: Callable[..., Path]) -> None:
    source = clips("videos/a.mp4", "videos/b.mp4")
    (source / "prompts.txt").write_text(f"{RIGHT}\n{DOWN}\n")
    (source / "videos.txt").write_text("videos/a.mp4\nvideos/b.mp4\n")
    assert used(source) == {"videos/a": RIGHT, "videos/b": DOWN}


@row("22", "merge.txt of FastVideo")
def test_a_merge_list_is_a_list(clips: Callable[..., Path]) -> None:
    source = clips("set/videos/a.mp4", "other/b.mp4")
    (source / "set/videos2caption.json").write_text(json.dumps([{"path": "a.mp4", "cap": [RIGHT], "fps": 8.0}]))
    (source / "other/list.json").write_text(json.dumps([{"path": "b.mp4", "cap": DOWN}]))
    (source / "merge.txt").write_text(f"set/videos,set/videos2caption.json\n{source}/other,{source}/other/list.json\n")
    assert sorted(used(source).values()) == [DOWN, RIGHT]


@row("23", "train/metadata.csv, and a split for testing")
def test_a_folder_of_splits_is_read_without_those_for_testing(tmp_path: Path, clips: Callable[..., Path]) -> None:
    source = clips("train/a.mp4", "test/b.mp4")
    for split, name in (("train", "a"), ("test", "b")):
        (source / split / "metadata.csv").write_text(f"file_name,caption\n{name}.mp4,{RIGHT}\n")
    job = Job(source, tmp_path / "out")
    assert job.join() == [0]
    assert [row["id"] for row in rows(tmp_path / "out")] == ["train/a"]
    assert "train is read, test is not: preprocess.split says which to take" in job.log()


@row("25", "videos2caption.json names 2 of 6 clips")
def test_a_list_of_some_of_the_clips_is_a_list(tmp_path: Path, clips: Callable[..., Path]) -> None:
    source = clips(*(f"videos/{number}.mp4" for number in range(6)))
    (source / "videos2caption.json").write_text(json.dumps([{"path": f"{number}.mp4", "cap": [RIGHT]} for number in range(2)]))
    job = Job(source, tmp_path / "out")
    assert job.join() == [0]
    assert len(rows(tmp_path / "out")) == 2
    assert "videos2caption.json names 2 of the 6 clips there" in job.log()


@row("28", "a link to a folder of clips, and a loop")
def test_links_to_folders_of_clips_are_followed(tmp_path: Path, clips: Callable[..., Path]) -> None:
    real = clips("a.mp4", "deep/b.mp4", below="real")
    for name in ("a", "deep/b"):
        (real / f"{name}.txt").write_text(RIGHT)
    (tmp_path / "in").mkdir()
    (tmp_path / "in/linked").symlink_to(real)
    (real / "deep/up").symlink_to("..")
    assert used(tmp_path / "in") == {"linked/a": RIGHT, "linked/deep/b": RIGHT}


@row("28", "a link to a folder of training data, and a loop")
def test_links_to_training_data_are_followed(tmp_path: Path) -> None:
    whole = run(config(write(tmp_path / "there")))
    (tmp_path / "here").mkdir()
    (tmp_path / "here/linked").symlink_to(tmp_path / "there/combined_parquet_dataset")
    (tmp_path / "here/loop").symlink_to(".")
    assert len(run(config(tmp_path / "here"))) == len(whole)


@row("31", "a parquet file as data.path")
def test_a_parquet_file_is_a_path(tmp_path: Path) -> None:
    assert run(config(part(write(tmp_path))))


@row("31", "data.path one folder too high, with a holdout")
def test_a_path_too_high_never_trains_on_a_holdout(tmp_path: Path) -> None:
    write(tmp_path / "above/out")
    write(tmp_path / "above/out/holdout")
    with pytest.raises(UserError, match=r"held out from training, in out/holdout\nhint: name the data in it: .*/above/out"):
        run(config(tmp_path / "above"))


@row("21-23", "a folder of a layout that nobody knows")
def test_what_is_not_recognised_is_told_with_what_is_known(tmp_path: Path, clips: Callable[..., Path]) -> None:
    job = Job(clips("a.mp4", "b.mp4"), tmp_path / "out")
    assert job.join() == [76]
    assert "it holds 2 .mp4 (a.mp4, b.mp4)" in job.log() and "merge.txt of FastVideo" in job.log()
    assert not (tmp_path / "out").exists()
