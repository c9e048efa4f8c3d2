"""Finding clips and prompts: every known layout, and entries that lack something stay in the list with what is wrong."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.ipc
import pyarrow.parquet as pq
import pytest

from trainers.errors import UserError
from trainers.sources.entries import Columns, Entry, Rejected
from trainers.sources.listing import entries, locate

WORDS = Columns(needs_video=False)


def touch(*paths: Path) -> None:
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def told(found: list[Entry]) -> list[tuple[str, str, str | None]]:
    return [(entry.name, entry.caption, entry.problem.reason if entry.problem else None) for entry in found]


def read(entry: Entry) -> Any:
    """What of a video the decoder gets."""
    return entry.video() if callable(entry.video) else entry.video


def test_videos2caption_lists_clips_below_videos(tmp_path: Path) -> None:
    touch(tmp_path / "videos/a.mp4", tmp_path / "videos/sub/b.mp4", tmp_path / "videos/c.mp4")
    listed = [{"path": "a.mp4", "cap": ["one", "two"]}, {"path": "sub/b.mp4", "cap": "b"}, {"path": "a.mp4", "cap": "again"}]
    (tmp_path / "videos2caption.json").write_text(json.dumps(listed))
    found = entries(tmp_path, Columns())
    assert [entry.id for entry in found] == ["a", "sub/b", "a-2"]
    assert told(found) == [("a.mp4", "one", None), ("sub/b.mp4", "b", None), ("a.mp4", "again", None)]
    assert found[1].video == tmp_path / "videos/sub/b.mp4"


def test_a_clip_and_a_text_of_one_name_are_a_pair(tmp_path: Path) -> None:
    touch(tmp_path / "a.mp4", tmp_path / "b.MKV", tmp_path / ".hidden.mp4", tmp_path / "sub/c.webm")
    (tmp_path / "a.txt").write_text("\ufeffa caption\n", encoding="utf-8")
    (tmp_path / "sub/c.txt").write_text(" \n")
    (tmp_path / "lonely.txt").write_text("no clip")
    assert told(entries(tmp_path, Columns())) == [
        ("a.mp4", "a caption", None),
        ("b.MKV", "", "no_caption"),
        ("sub/c.webm", "", "no_caption"),
        ("lonely.txt", "", "missing"),
    ]


@pytest.mark.parametrize("name", ["metadata.jsonl", "metadata.csv"])
def test_metadata_names_files_and_captions(tmp_path: Path, name: str) -> None:
    lines = ["file_name,other,caption", 'clips/a.mp4,1,"one, two"', "b.mp4,2,"]
    if name == "metadata.jsonl":
        lines = ['{"file_name": "clips/a.mp4", "other": 1, "caption": "one, two"}', "", '{"file_name": "b.mp4"}', "{"]
    (tmp_path / name).write_text("\n".join(lines))
    touch(tmp_path / "clips/a.mp4", tmp_path / "b.mp4")
    found = entries(tmp_path, Columns())
    broken = [(f"{name}: entry 2", "", "bad_entry")] if name == "metadata.jsonl" else []
    assert told(found) == [("clips/a.mp4", "one, two", None), ("b.mp4", "", "no_caption"), *broken]
    assert found[0].video == tmp_path / "clips/a.mp4"


def test_columns_can_be_named(tmp_path: Path) -> None:
    touch(tmp_path / "a.mp4")
    (tmp_path / "metadata.jsonl").write_text('{"clip": "a.mp4", "path": "no", "long": "yes", "caption": "no"}')
    assert told(entries(tmp_path, Columns(video="clip", caption="long"))) == [("a.mp4", "yes", None)]


def table(first: int) -> pa.Table:
    cells = [{"bytes": f"clip {i}".encode(), "path": f"{i}.mp4"} for i in range(first, first + 3)]
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    return pa.table({"video": pa.array(cells, kind), "caption": [f"caption {i}" for i in range(first, first + 3)]})


@pytest.mark.parametrize("suffix", ["parquet", "arrow", "arrow file"])
def test_a_hugging_face_dataset_is_read_without_its_library(tmp_path: Path, suffix: str) -> None:
    for number, split in enumerate(("train", "test")):
        path = tmp_path / "data" / f"{split}-00000-of-00001.{suffix.split()[0]}"
        path.parent.mkdir(exist_ok=True)
        if suffix == "parquet":
            pq.write_table(table(3 * number), path, row_group_size=2)
        else:
            new = pa.ipc.new_stream if suffix == "arrow" else pa.ipc.new_file
            with new(str(path), table(0).schema) as writer:
                writer.write_table(table(3 * number), max_chunksize=2)
    found = entries(tmp_path, Columns(split="train"))
    assert told(found) == [(f"{i}.mp4", f"caption {i}", None) for i in range(3)]
    assert [read(entry) for entry in found] == [b"clip 0", b"clip 1", b"clip 2"]
    assert len(entries(tmp_path, Columns())) == 6
    assert [entry.caption for entry in entries(tmp_path, Columns(split="test", needs_video=False))] == [f"caption {i}" for i in (3, 4, 5)]


def test_cells_may_be_bytes_or_names_or_nothing(tmp_path: Path) -> None:
    pq.write_table(pa.table({"video": [b"clip", None], "text": ["a", "b"]}), tmp_path / "a.parquet")
    pq.write_table(pa.table({"video": ["x.mp4", "../x.mp4"], "text": ["a", None]}), tmp_path / "b.parquet")
    touch(tmp_path / "x.mp4")
    found = entries(tmp_path, Columns())
    assert told(found) == [
        ("a.parquet: row 0", "a", None),
        ("a.parquet: row 1", "b", None),
        ("x.mp4", "a", None),
        ("../x.mp4", "", "bad_entry"),
    ]
    assert read(found[0]) == b"clip"
    assert read(found[2]) == tmp_path / "x.mp4"
    with pytest.raises(Rejected, match="it has no video"):
        read(found[1])


def test_a_half_written_table_is_one_entry_with_a_problem(tmp_path: Path) -> None:
    pq.write_table(table(0), tmp_path / "a.parquet")
    (tmp_path / "b.parquet").write_bytes((tmp_path / "a.parquet").read_bytes()[:-10])
    assert [(e.name, e.problem and e.problem.reason) for e in entries(tmp_path, Columns())][-1] == ("b.parquet", "unreadable")


def test_prompts_are_lines_or_entries_or_a_column(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("one\n\n two \n\n", encoding="utf-8")
    assert told(entries(tmp_path / "a.txt", WORDS)) == [
        ("a.txt: entry 0", "one", None),
        ("a.txt: entry 2", "two", None),
    ]
    (tmp_path / "b.jsonl").write_text('{"prompt": "one"}\n"two"\n{"other": 1}')
    assert [entry[1:] for entry in told(entries(tmp_path / "b.jsonl", WORDS))] == [("one", None), ("two", None), ("", "no_caption")]
    (tmp_path / "c.json").write_text('["one", {"text": "two"}]')
    assert [entry.caption for entry in entries(tmp_path / "c.json", WORDS)] == ["one", "two"]
    (tmp_path / "d.csv").write_text("id,prompt\n1,one\n")
    assert [entry.caption for entry in entries(tmp_path / "d.csv", WORDS)] == ["one"]


def test_names_that_are_not_unicode_are_told_not_fatal(tmp_path: Path) -> None:
    (tmp_path / "videos2caption.json").write_text('[{"path": "a\\ud800.mp4", "cap": "a"}]')
    assert told(entries(tmp_path, Columns())) == [("a?.mp4", "", "bad_entry")]


def test_what_was_written_into_the_source_is_not_taken_for_it(tmp_path: Path) -> None:
    touch(tmp_path / "a.mp4", tmp_path / "out/.preprocess/settings.json", tmp_path / "out/combined_parquet_dataset/part.parquet")
    (tmp_path / "a.txt").write_text("a")
    assert told(entries(tmp_path, Columns())) == [("a.mp4", "a", None)]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("videos2caption.json", "{}", "is not a list"),
        ("videos2caption.json", '{"info": 1, "videos": []}', "is not a list: it is a mapping of info, videos"),
        ("videos2caption.json", "[", "is not JSON"),
        ("videos2caption.json", "[]", "lists no clips\n.*known: videos/"),
        ("videos2caption.json", b"\xff\xfe\xff", "is not UTF-8"),
        ("metadata.csv", "file_name,caption\n" + "x" * 200_000, "is not a CSV table"),
        ("notes.md", "", "lists no clips"),
        ("table.parquet", pa.table({"a": [1]}), "has no column caption or cap or text .*\n.*its columns: a"),
    ],
)
def test_a_list_that_cannot_be_read_is_one_clear_error(tmp_path: Path, name: str, content: Any, message: str) -> None:
    if isinstance(content, pa.Table):
        pq.write_table(content, tmp_path / name)
    else:
        (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UserError, match=message):
        entries(tmp_path, Columns())


def test_a_file_of_another_kind_is_refused(tmp_path: Path) -> None:
    touch(tmp_path / "prompts.docx")
    with pytest.raises(UserError, match="is not a list of clips or prompts"):
        entries(tmp_path / "prompts.docx", WORDS)


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
@pytest.mark.parametrize("closed", ["in", "in/sub", "in/metadata.csv"])
def test_what_may_not_be_read_is_one_clear_error(tmp_path: Path, closed: str) -> None:
    touch(tmp_path / "in/sub/a.mp4", tmp_path / "in/metadata.csv")
    (tmp_path / closed).chmod(0)
    try:
        with pytest.raises(UserError, match=r"cannot read .*[Pp]ermission denied"):
            entries(locate(str(tmp_path / "in")), Columns())
        if closed == "in":
            with pytest.raises(UserError, match=r"cannot read .*[Pp]ermission denied"):
                entries(locate(str(tmp_path / "in/metadata.csv")), Columns())
    finally:
        (tmp_path / closed).chmod(0o700)
