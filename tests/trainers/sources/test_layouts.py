"""Layouts that people have, several at once, none that is known: what is taken is told, and nothing changes for those known before."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.support.sources import captions, told, touch
from trainers.errors import UserError
from trainers.sources import __main__ as program
from trainers.sources.entries import Columns
from trainers.sources.listing import entries, read

WORDS = Columns(needs_video=False)
RARE = [
    "gif",
    "webp",
    "mts",
    "M2TS",
    "3gp",
    "wmv",
    "flv",
    "ogv",
    "vob",
    "asf",
    "mxf",
    "MOV",
    "qt",
    "y4m",
    "f4v",
    "divx",
    "mpe",
    "ivf",
    "dv",
]


@pytest.mark.parametrize("suffix", RARE)
def test_whatever_is_a_video_counts_with_a_caption_beside_it(tmp_path: Path, suffix: str) -> None:
    touch(tmp_path, f"a.{suffix}", f"b.{suffix}", "c.MP4")
    for name in "abc":
        (tmp_path / f"{name}.txt").write_text(name)
    assert captions(entries(tmp_path, Columns())) == {f"a.{suffix}": "a", f"b.{suffix}": "b", "c.MP4": "c"}


def test_a_preview_beside_a_clip_is_no_clip(tmp_path: Path) -> None:
    touch(tmp_path, "a.mp4", "a.gif", "a.webp", "other.gif")
    (tmp_path / "a.txt").write_text("a")
    found = read(tmp_path, Columns())
    assert [entry.name for entry in found.entries] == ["a.mp4"]
    assert found.remarks == ["1 file without a caption not taken for clips, such as other.gif"]


@pytest.mark.parametrize(
    ("suffix", "content"),
    [
        *[
            (suffix, " a lamp\r\n")
            for suffix in ("txt", "TXT", "Txt", "caption", "CAPTION", "cap", "mp4.txt", "MP4.txt", "Mp4.TXT", "mp4.caption")
        ],
        *[("json", json.dumps(value)) for value in ("a lamp", ["a lamp", "two"], {"caption": "a lamp"}, {"Prompt": ["a lamp"]})],
        *[("JSON", json.dumps(value)) for value in ({"fps": 8, "text": "a lamp"}, {"description": {"caption": "a lamp"}})],
    ],
)
def test_a_caption_may_lie_beside_a_clip_in_many_ways(tmp_path: Path, suffix: str, content: str) -> None:
    touch(tmp_path, "sub/a.mp4", "sub/b.mp4")
    for name in "ab":
        (tmp_path / f"sub/{name}.{suffix}").write_text(content, encoding="utf-8-sig", newline="")
    assert told(entries(tmp_path, Columns())) == [("sub/a.mp4", "a lamp", None), ("sub/b.mp4", "a lamp", None)]


def test_a_caption_beside_a_clip_that_cannot_be_used_is_that_clips_problem(tmp_path: Path) -> None:
    contents = {
        "a.txt": b"a lamp",
        "cp1252.txt": "the caf\u00e9".encode("cp1252"),
        "utf16.txt": "a lamp".encode("utf-16"),
        "utf16le.txt": "a lamp".encode("utf-16-le"),
        "nocaption.json": b'{"fps": 8}',
        "broken.json": b"{",
        "number.json": b"7",
    }
    for name, content in contents.items():
        (touch(tmp_path, f"{name.partition('.')[0]}.mp4") / name).write_bytes(content)
    assert told(entries(tmp_path, Columns())) == [
        ("a.mp4", "a lamp", None),
        ("broken.mp4", "", "bad_caption"),
        ("cp1252.mp4", "", "not_utf8"),
        ("nocaption.mp4", "", "no_caption"),
        ("number.mp4", "7", None),
        ("utf16.mp4", "", "not_utf8"),
        ("utf16le.mp4", "", "not_utf8"),
    ]


@pytest.mark.parametrize("names", [("prompts.txt", "videos.txt"), ("captions.txt", "video.txt"), ("Prompts.TXT", "VIDEOS.txt")])
@pytest.mark.parametrize(
    "listed", [["videos/a.mp4", "videos/b.mp4"], ["a.mp4", "b.mp4"], ["C:\\set\\videos\\a.mp4", "C:\\set\\videos\\b.mp4"]]
)
def test_prompts_and_videos_belong_together_line_by_line(tmp_path: Path, names: tuple[str, str], listed: list[str]) -> None:
    touch(tmp_path, "videos/a.mp4", "videos/b.mp4")
    (tmp_path / names[0]).write_text("\ufeffa lamp turns\r\n\r\na lamp\r\n\r\n", encoding="utf-8", newline="")
    (tmp_path / names[1]).write_text("\n".join(listed))
    for source in (tmp_path, tmp_path / names[0], tmp_path / names[1]):
        assert captions(entries(source, Columns())) == {"a.mp4": "a lamp turns", "b.mp4": "a lamp"}
    assert [entry.caption for entry in entries(tmp_path, WORDS)] == ["a lamp turns", "a lamp"]


def test_prompts_and_videos_of_different_number_are_refused(tmp_path: Path) -> None:
    touch(tmp_path, "a.mp4", "b.mp4")
    (tmp_path / "prompts.txt").write_text("one\n\nthree\n")
    (tmp_path / "videos.txt").write_text("a.mp4\nb.mp4\nc.mp4\n")
    found = entries(tmp_path, Columns())  # three lines each: the blank one is of b.mp4
    assert [reason for _, _, reason in told(found)] == [None, "no_caption", "missing"]
    (tmp_path / "prompts.txt").write_text("one\ntwo\n")
    with pytest.raises(UserError, match=r"prompts.txt has 2 lines and videos.txt 3: which prompt is whose cannot be known"):
        entries(tmp_path, Columns())


def test_a_merge_list_names_sets_of_clips(tmp_path: Path) -> None:
    for name, folder in (("one", "one/videos"), ("two sets, really", "two sets, really")):
        touch(tmp_path, f"{folder}/a.mp4", f"{folder}/b.mp4")
        (tmp_path / name / "videos2caption.json").write_text(json.dumps([{"path": "a.mp4", "cap": [name]}]))
    lines = ["one/videos,one/videos2caption.json", "", f"{tmp_path}/two sets, really , {tmp_path}/two sets, really/videos2caption.json"]
    (tmp_path / "merge.txt").write_text("\r\n".join(lines), newline="")
    found = read(tmp_path, Columns())
    assert (found.entries[0].id, found.entries[0].caption) == ("one/videos/a", "one")
    assert [entry.video for entry in found.entries] == [tmp_path / "one/videos/a.mp4", tmp_path / "two sets, really/a.mp4"]
    assert len({entry.id for entry in found.entries}) == 2 and len(found.remarks) == 1 and "names 2 of the 4 clips" in found.remarks[0]
    assert [entry.caption for entry in entries(tmp_path / "merge.txt", Columns())] == ["one", "two sets, really"]
    (tmp_path / "merge.txt").write_text("one/videos,nowhere.json\n")
    with pytest.raises(UserError, match=r"merge.txt:1: .*nowhere.json does not exist"):
        entries(tmp_path, Columns())
    (tmp_path / "merge.txt").write_text("one/videos,one/videos2caption.json\nhello\n")
    with pytest.raises(UserError, match=r"merge.txt:2: 'hello' names no set of clips"):
        entries(tmp_path, Columns())


@pytest.mark.parametrize(
    ("name", "content"),
    [("metadata.csv", "file_name,caption\na.mp4,a lamp\n"), ("metadata.jsonl", '{"file_name": "a.mp4", "text": "a lamp"}')],
)
def test_of_several_splits_the_one_to_train_on_is_read_and_told(tmp_path: Path, name: str, content: str) -> None:
    for split in ("train", "validation"):
        (touch(tmp_path, f"data/{split}/a.mp4") / f"data/{split}" / name).write_text(content)
    found = read(tmp_path, Columns())
    assert told(found.entries) == [("data/train/a.mp4", "a lamp", None)]
    assert found.remarks == ["data/train is read, data/validation is not: preprocess.split says which to take"]
    assert found.layout == f"data/train/{name}"
    assert told(read(tmp_path, Columns(split="validation")).entries) == [("data/validation/a.mp4", "a lamp", None)]
    with pytest.raises(UserError, match=r"has no split test\n.*data/train, data/validation"):
        read(tmp_path, Columns(split="test"))
    (tmp_path / "data/train" / name).rename(tmp_path / "data/train/metadata.bak")
    assert told(read(tmp_path, Columns()).entries) == [("data/validation/a.mp4", "a lamp", None)]
    (touch(tmp_path, "data/test/a.mp4") / "data/test" / name).write_text(content)
    with pytest.raises(UserError, match=r"several splits: data/test, data/validation\n.*preprocess.split"):
        read(tmp_path, Columns())


def test_a_list_is_a_list_and_what_it_leaves_out_is_told(tmp_path: Path) -> None:
    touch(tmp_path, *(f"videos/{number}.mp4" for number in range(6)))
    (tmp_path / "videos2caption.json").write_text('[{"path": "0.mp4", "cap": ["a lamp"]}, {"path": "1.mp4", "cap": ["a lamp"]}]')
    found = read(tmp_path, Columns())
    assert told(found.entries) == [("0.mp4", "a lamp", None), ("1.mp4", "a lamp", None)]
    assert found.remarks == ["videos2caption.json names 2 of the 6 clips there; the others, such as 2.mp4, are left out"]


def test_links_to_folders_of_clips_are_followed(tmp_path: Path) -> None:
    touch(tmp_path, "real/a.mp4", "real/deep/b.mp4")
    (tmp_path / "real/a.txt").write_text("a")
    (tmp_path / "real/deep/b.txt").write_text("b")
    source = tmp_path / "source"
    source.mkdir()
    (source / "linked").symlink_to(tmp_path / "real")
    (tmp_path / "real/deep/up").symlink_to("..")
    (source / "self").symlink_to(source)
    assert [entry.id for entry in entries(source, Columns())] == ["linked/a", "linked/deep/b"]
    (source / "videos").symlink_to(tmp_path / "real")
    (source / "videos2caption.json").write_text('[{"path": "deep/b.mp4", "cap": "b"}]')
    assert captions(entries(source, Columns())) == {"b.mp4": "b"}


@pytest.mark.parametrize("layout", ["beside", "json", "jsonl", "csv", "lines", "table"])
def test_hidden_files_are_no_clips_in_any_layout(tmp_path: Path, layout: str) -> None:
    names = ["a.mp4", "._a.mp4", "sub/b.mp4", "sub/._b.mp4"]
    touch(tmp_path, *names, ".DS_Store", "Thumbs.db", "@eaDir/a.mp4", ".ipynb_checkpoints/a.mp4", "._metadata.csv")
    rows = [{"path": name, "caption": name} for name in names]
    if layout == "beside":
        for name in names:
            (tmp_path / name).with_suffix(".txt").write_text(name)
    elif layout == "json":
        (tmp_path / "videos2caption.json").write_text(json.dumps(rows))
    elif layout == "jsonl":
        (tmp_path / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    elif layout == "csv":
        (tmp_path / "metadata.csv").write_text("\n".join(["path;caption", *(f"{name};{name}" for name in names)]))
    elif layout == "lines":
        (tmp_path / "prompts.txt").write_text("\n".join(names))
        (tmp_path / "videos.txt").write_text("\n".join(names))
    else:
        pq.write_table(pa.Table.from_pylist(rows), tmp_path / "data.parquet")
    assert [(entry.caption, entry.problem) for entry in entries(tmp_path, Columns())] == [("a.mp4", None), ("sub/b.mp4", None)]


def test_of_two_layouts_the_one_that_is_taken_is_told(tmp_path: Path) -> None:
    (touch(tmp_path, "a.mp4") / "a.txt").write_text("from the text")
    (tmp_path / "metadata.csv").write_text("file_name,caption\na.mp4,from the table\n")
    (tmp_path / "merge.txt").write_text("x,y.json\n")
    found = read(tmp_path, Columns())
    assert captions(found.entries) == {"a.mp4": "from the table"}
    assert found.remarks == [f"{tmp_path} is read by metadata.csv; a.mp4 with a.txt and merge.txt there is not read"]
    (tmp_path / "a.caption").write_text("from the caption")
    (tmp_path / "metadata.csv").rename(tmp_path / "metadata.bak")
    found = read(tmp_path, Columns())
    assert captions(found.entries) == {"a.mp4": "from the text"}
    assert found.remarks[0] == "a.txt is read, and a.caption beside it is not"


def test_a_folder_that_is_not_recognised_is_told_by_what_lies_there(tmp_path: Path) -> None:
    touch(tmp_path, "a.mp4", "b.mp4", "c.MOV", "notes.docx", ".hidden.mp4")
    with pytest.raises(UserError) as caught:
        entries(tmp_path, Columns())
    assert "lists no clips with captions that are recognised: it holds 2 .mp4, 1 .mov, 1 .docx (a.mp4, b.mp4, c.MOV, notes.docx)" in str(
        caught.value
    )
    assert all(
        known in caught.value.hint for known in ("videos2caption.json", "metadata.csv", "x.caption", "merge.txt", "prompts.txt with")
    )
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="it is empty"):
        entries(tmp_path / "empty", Columns())
    for name in ("one.csv", "two.csv"):
        (tmp_path / name).write_text("file_name,caption\na.mp4,a\n")
    with pytest.raises(UserError, match=r"holds several lists: one\.csv, two\.csv"):
        entries(tmp_path, Columns())


def test_the_launcher_is_told_what_a_source_holds(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (touch(tmp_path, "in/a.mp4") / "in/metadata.csv").write_text("file_name,caption\na.mp4,a\nb.mp4,b\n")
    block = {"kind": "videos", "model": "shapes", "source": str(tmp_path / "in"), "output": "out"}
    (tmp_path / "block.json").write_text(json.dumps(block))
    assert program.main([str(tmp_path / "block.json")]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["entries"], found["usable"], found["rejected"], found["layout"]) == (2, 1, {"missing": 1}, "metadata.csv")
    assert found["problems"][0]["name"] == "b.mp4"
    (tmp_path / "block.json").write_text(json.dumps({**block, "source": str(tmp_path / "nowhere")}))
    program.main([str(tmp_path / "block.json")])
    assert "does not exist" in json.loads(capsys.readouterr().out)["error"]


def test_clips_of_a_split_for_testing_are_told_where_they_are_read_with_others(tmp_path: Path) -> None:
    for name in ("train/a", "val/b", "train/test"):
        (touch(tmp_path, f"{name}.mp4") / f"{name}.txt").write_text(name)
    found = read(tmp_path, Columns())
    assert [entry.caption for entry in found.entries] == ["train/a", "train/test", "val/b"]
    assert found.remarks == ["what is of val is read, too: preprocess.split takes one split"]
    found = read(tmp_path, Columns(split="train"))
    assert ([entry.caption for entry in found.entries], found.remarks) == (["train/a", "train/test"], [])
    pq.write_table(pa.table({"path": ["train/a.mp4"], "text": ["a"]}), tmp_path / "train-00000-of-00001.parquet")
    pq.write_table(pa.table({"path": ["val/b.mp4"], "text": ["b"]}), tmp_path / "test-00000-of-00001.parquet")
    found = read(tmp_path, Columns())
    assert [entry.caption for entry in found.entries] == ["b", "a"]
    assert "what is of test is read, too: preprocess.split takes one split" in found.remarks


def test_a_set_one_folder_down_is_found(tmp_path: Path) -> None:
    touch(tmp_path, "set/videos/a.mp4")
    (tmp_path / "set/videos2caption.json").write_text('[{"path": "a.mp4", "captions": [{"caption": "a lamp"}]}]')
    found = read(tmp_path, Columns())
    assert (told(found.entries), found.layout) == ([("set/a.mp4", "a lamp", None)], "set/videos2caption.json")
