"""Lists as people write them: delimiters, header words, line ends, encodings, and what is in their cells."""

from __future__ import annotations

import codecs
import json
from pathlib import Path

import pytest

from tests.support.sources import captions, told, touch
from trainers.errors import UserError
from trainers.sources import prompt_files
from trainers.sources.entries import Columns
from trainers.sources.listing import entries, read

WORDS = Columns(needs_video=False)
BOTH = {"a.mp4": "a lamp, it turns", "b.mp4": "a lamp"}


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("metadata.csv", 'Video; Prompt\na.mp4; "a lamp, it turns"\nb.mp4; a lamp\n'),
        ("metadata.csv", "filename\tdescription\na.mp4\ta lamp, it turns\nb.mp4\ta lamp\n"),
        ("metadata.csv", 'CLIP PATH|Long-Caption|fps\r\na.mp4|"a lamp, it turns"|8\r\n\r\nb.mp4|a lamp|8\r\n'),
        ("metadata.csv", '\ufeff"path","text"\n"a.mp4","a lamp, it turns"\n"b.mp4","a lamp"\n'),
        ("metadata.csv", "sep=;\r\nfile;caption\r\na.mp4;a lamp, it turns\r\nb.mp4;a lamp  \r\n"),
        ("metadata.csv", ',video,caption\n0,a.mp4,"a lamp, it turns"\n1,b.mp4,a lamp\n'),
        ("metadata.csv", 'path,cap\ra.mp4,"a lamp, it turns"\rb.mp4,a lamp\r'),
        ("metadata.csv", 'file_name,caption\na.mp4,"a lamp, it turns"\nb.mp4,a lamp,\n\n , \n'),
        ("METADATA.TSV", "\tfile_name\tcaption\n0\ta.mp4\ta lamp, it turns\n1\tb.mp4\ta lamp\n"),
        ("captions.csv", 'video,prompt\na.mp4,"a lamp, it turns"\nb.mp4,a lamp\n'),
        (
            "metadata.jsonl",
            '\ufeff{"Video": "a.mp4", "Prompt": "a lamp, it turns"}\r\n\r\n{"Video": "b.mp4", "Prompt": ["a lamp", "other"]}',
        ),
        ("train.ndjson", '{"video_path": "a.mp4", "text": "a lamp, it turns"}\n{"video_path": "b.mp4", "text": {"prompt": "a lamp"}}\n'),
        ("metadata.json", '[{"video": {"path": "a.mp4"}, "cap": ["", "a lamp, it turns"]}, {"video": "b.mp4", "cap": "a lamp"}]'),
        ("metadata.json", '{"data": [{"path": "a.mp4", "cap": "a lamp, it turns"}, {"path": "b.mp4", "cap": "a lamp"}]}'),
        ("captions.json", '{"a.mp4": "a lamp, it turns", "b.mp4": {"caption": "a lamp", "fps": 8}}'),
        ("metadata.json", '{"path": "a.mp4", "cap": "a lamp, it turns"}\n{"path": "b.mp4", "cap": "a lamp"}\n'),
        ("metadata.jsonl", '[{"path": "a.mp4", "cap": "a lamp, it turns"},\n {"path": "b.mp4", "cap": "a lamp"}]'),
    ],
)
def test_lists_are_read_whatever_their_delimiter_header_and_line_ends(tmp_path: Path, name: str, content: str) -> None:
    (touch(tmp_path, "a.mp4", "b.mp4") / name).write_text(content, encoding="utf-8", newline="")
    found = read(tmp_path, Columns())
    assert (captions(found.entries), found.layout, found.remarks) == (BOTH, name, [])
    assert captions(entries(tmp_path / name, Columns())) == BOTH


SEPARATORS = "a lamp\u2028it \u2029turns\x85on\x0band\x0coff"


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("metadata.jsonl", '{{"file_name": "a.mp4", "caption": "{}"}}\n{{"file_name": "b.mp4", "caption": "b"}}'),
        ("metadata.csv", 'file_name,caption\na.mp4,"{}"\nb.mp4,b'),
        ("metadata.tsv", "file_name\tcaption\na.mp4\t{}\nb.mp4\tb\n"),
    ],
)
def test_only_a_line_feed_ends_a_line(tmp_path: Path, name: str, content: str) -> None:
    words = SEPARATORS if name != "metadata.jsonl" else SEPARATORS.replace("\x0b", "").replace("\x0c", "")  # not allowed in JSON
    (touch(tmp_path, "a.mp4", "b.mp4") / name).write_text(content.format(words), encoding="utf-8")
    assert captions(entries(tmp_path, Columns())) == {"a.mp4": words, "b.mp4": "b"}


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_prompts_are_read_alike_whatever_ends_their_lines(tmp_path: Path, end: str, mark: str) -> None:
    lines = ["", " one ", "", "", "two\u2028still two\x0c.\x85", "\ufeffthree\t", "", "   "]
    (tmp_path / "prompts.TXT").write_text(mark + end.join(lines) + end, encoding="utf-8", newline="")
    found = entries(tmp_path / "prompts.TXT", WORDS)
    assert told(found) == [
        (f"prompts.TXT: entry {n}", text, None) for n, text in ((1, "one"), (4, "two\u2028still two\x0c."), (5, "three"))
    ]
    assert prompt_files.read(tmp_path / "prompts.TXT") == [entry.caption for entry in found]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("p.jsonl", '"one, or"\n{"prompt": "two"}\n3\n{"text": 4.5}'),
        ("p.csv", "prompt\none, or\ntwo\n3\n4.5\n"),
        ("p.csv", 'id;Text\n1;"one, or"\n2;two\n3;3\n4;4.5\n'),
        ("p.json", '["one, or", {"caption": ["two", "zwei"]}, 3, {"cap": 4.5}]'),
    ],
)
def test_prompts_may_be_in_any_list(tmp_path: Path, name: str, content: str) -> None:
    (tmp_path / name).write_text(content)
    found = [entry for entry in entries(tmp_path / name, WORDS) if entry.problem is None]
    assert [entry.caption for entry in found] == ["one, or", "two", *(["3"] if name == "p.csv" else []), "4.5"]


def test_what_cannot_be_used_is_one_rejected_entry_with_its_name(tmp_path: Path) -> None:
    lines = ["file_name,caption", "a.mp4,a lamp", "b.mp4,the caf\u00e9", "c.mp4,a lamp, it turns", "d.mp4", ",a lamp", "e.mp4,a lamp"]
    (touch(tmp_path, *(f"{name}.mp4" for name in "abcde")) / "metadata.csv").write_bytes("\n".join(lines).encode("cp1252"))
    found = entries(tmp_path, Columns())
    bad = [("b.mp4", "", "not_utf8"), ("c.mp4", "a lamp", "bad_entry"), ("d.mp4", "", "no_caption")]
    unnamed = ("metadata.csv: entry 4", "a lamp", "bad_entry")
    assert told(found) == [("a.mp4", "a lamp", None), *bad, unnamed, ("e.mp4", "a lamp", None)]
    assert str(found[1].problem) == "its caption is not UTF-8 text: byte 0xe9 after 'the caf'"
    assert str(found[2].problem) == "it has 3 fields and the table 2 columns: quote a caption with a ',' in it"


@pytest.mark.parametrize("name", ["prompts.txt", "prompts.jsonl", "prompts.json", "prompts.csv"])
def test_a_prompt_that_is_not_utf8_spoils_no_other(tmp_path: Path, name: str) -> None:
    prompts = ["a lamp", "the lamp\u2019s shade", "a lamp turns"]
    text = {
        "prompts.txt": "\n".join(prompts),
        "prompts.jsonl": "\n".join(json.dumps({"prompt": p}, ensure_ascii=False) for p in prompts),
        "prompts.json": json.dumps(prompts, ensure_ascii=False),
        "prompts.csv": "\n".join(["prompt", *prompts]),
    }[name]
    (tmp_path / name).write_bytes(text.encode("cp1252"))
    found = entries(tmp_path / name, WORDS)
    assert [(entry.caption, entry.problem and entry.problem.reason) for entry in found] == [
        ("a lamp", None),
        ("", "not_utf8"),
        ("a lamp turns", None),
    ]
    with pytest.raises(UserError, match="entry 1: its caption is not UTF-8 text: byte 0x92 after 'the lamp'"):
        prompt_files.read(tmp_path / name)


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-32"])
def test_a_list_in_utf16_is_refused_with_what_converts_it(tmp_path: Path, encoding: str) -> None:
    (touch(tmp_path, "a.mp4") / "metadata.csv").write_bytes("file_name,caption\na.mp4,a lamp\n".encode(encoding))
    with pytest.raises(UserError, match=r"is not UTF-8 text(.|\n)*iconv -f UTF-16 -t UTF-8 metadata.csv"):
        entries(tmp_path, Columns())


def test_a_byte_order_mark_is_no_part_of_the_first_name(tmp_path: Path) -> None:
    (touch(tmp_path, "a.mp4") / "metadata.csv").write_bytes(codecs.BOM_UTF8 + b'file_name,caption\na.mp4,"two\nlines ""quoted"""\n')
    assert captions(entries(tmp_path, Columns())) == {"a.mp4": 'two\nlines "quoted"'}


@pytest.mark.parametrize(
    ("name", "content", "columns", "message"),
    [
        (
            "metadata.csv",
            "clip_id;english\n1;a lamp",
            {},
            r"no column for the video and the caption .*: 'clip_id', 'english'\n.*video_column",
        ),
        (
            "metadata.csv",
            "a.mp4,a lamp\nb.mp4,a lamp",
            {},
            r"among its columns: 'a.mp4', 'a lamp'\n.*a first line such as file_name,caption",
        ),
        ("metadata.tsv", "cats/A.MOV\ta lamp\nb.mp4\ta lamp", {}, r"\n.*a first line such as file_name,caption"),
        ("metadata.csv", "Datei;Text\na.mp4;a lamp", {}, r"'Datei', 'Text'\n.*preprocess.video_column says which it is"),
        ("metadata.csv", "Datei;Beschreibung\na.mp4;a lamp", {}, r"video_column and preprocess.caption_column say which it is"),
        ("metadata.csv", "file_name\tenglish\na.mp4\ta lamp", {}, r"for the caption is known .*: 'file_name', 'english'\n.*caption_column"),
        ("metadata.jsonl", '{"id": 1, "caption": "a"}', {}, r"for the video is known .*: 'id', 'caption'"),
        (
            "metadata.csv",
            "file_name,caption\na.mp4,a lamp",
            {"caption": "text"},
            r"the caption \(text\) is known .*: 'file_name', 'caption'",
        ),
        ("metadata.csv", 'file_name,caption\na.mp4,"a lamp\nb.mp4,b\n', {}, "is not a CSV table: a quoted field has no closing quote"),
        ("metadata.json", '["a.mp4", "b.mp4"]', {}, None),
    ],
)
def test_columns_that_are_not_known_are_named(
    tmp_path: Path, name: str, content: str, columns: dict[str, str], message: str | None
) -> None:
    (touch(tmp_path, "a.mp4", "b.mp4") / name).write_text(content)
    if message is None:
        assert {entry.problem.reason for entry in entries(tmp_path, Columns()) if entry.problem} == {"bad_entry"}
        return
    with pytest.raises(UserError, match=message):
        entries(tmp_path, Columns(**columns))  # type: ignore[arg-type]


def test_of_two_columns_of_captions_the_one_that_is_taken_is_told(tmp_path: Path) -> None:
    (touch(tmp_path, "a.mp4") / "metadata.csv").write_text("text,caption,file_name\nlong,short,a.mp4\n")
    found = read(tmp_path, Columns())
    assert captions(found.entries) == {"a.mp4": "short"}
    assert found.remarks == ["metadata.csv: the caption is taken from 'caption', not from 'text'"]
    assert read(tmp_path, Columns(caption="Text")).remarks == []


def test_quotes_that_a_backslash_escapes_are_quotes(tmp_path: Path) -> None:
    (touch(tmp_path, "a.mp4", "b.mp4") / "metadata.csv").write_text('path,caption\na.mp4,"a \\"red\\" car, fast"\nb.mp4,"a 5\\""\n')
    assert captions(entries(tmp_path, Columns())) == {"a.mp4": 'a "red" car, fast', "b.mp4": 'a 5"'}
    (tmp_path / "metadata.csv").write_text('path,caption\n"C:\\set\\a.mp4","ends in \\"\nb.mp4,"a ""red"" car"\n')
    assert captions(entries(tmp_path, Columns())) == {"a.mp4": "ends in \\", "b.mp4": 'a "red" car'}


def test_control_characters_may_stand_in_json(tmp_path: Path) -> None:
    (touch(tmp_path, "a.mp4") / "metadata.jsonl").write_text('{"path": "a.mp4", "cap": "a\tlamp\x0bit\x0cturns"}\n')
    assert captions(entries(tmp_path, Columns())) == {"a.mp4": "a\tlamp\x0bit\x0cturns"}


def test_a_folder_with_one_list_of_prompts_is_that_list(tmp_path: Path) -> None:
    (tmp_path / "train.txt").write_text("one\ntwo\n")
    assert [entry.caption for entry in entries(tmp_path, WORDS)] == ["one", "two"]
    (tmp_path / "more.jsonl").write_text('{"prompt": "three"}')
    with pytest.raises(UserError, match=r"several lists: more\.jsonl, train\.txt\nhint: source: .*more\.jsonl"):
        entries(tmp_path, WORDS)
