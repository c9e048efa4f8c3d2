"""The strict loader: what it reads as what, what it refuses, and that it only ever refuses with a ConfigError."""

from __future__ import annotations

import contextlib
import math
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml as pyyaml
from hypothesis import given, settings
from hypothesis import strategies as st

from fvlaunch.config import strict_yaml
from fvlaunch.errors import ConfigError, Place, render
from tests.support.rows import fault

SCALARS = [
    ("12:30:00", "12:30:00"),
    ("24:00:00", "24:00:00"),
    ("1-12:00:00", "1-12:00:00"),
    ("1e-5", 1e-5),
    ("2.0e-6", 2e-6),
    ("1E3", 1000.0),
    (".5", 0.5),
    ("5.", 5.0),
    ("no", "no"),
    ("yes", "yes"),
    ("on", "on"),
    ("OFF", "OFF"),
    ("y", "y"),
    ("true", True),
    ("False", False),
    ("TRUE", True),
    ("null", None),
    ("~", None),
    ("", None),
    ("0o17", 15),
    ("017", 17),
    ("0x1F", 31),
    ("1_000", "1_000"),
    ("+3", 3),
    ("-0", 0),
    ("2026-01-02", "2026-01-02"),
    ("1.2.3", "1.2.3"),
    (".inf", math.inf),
    ("-.inf", -math.inf),
    ("1e999", math.inf),
    ("=", "="),
    ("'12'", "12"),
    ('"null"', "null"),
    ('! "x"', "x"),
]


@pytest.mark.parametrize(("text", "value"), SCALARS)
def test_scalars_follow_yaml_1_2(text: str, value: object) -> None:
    found = strict_yaml.parse(f"key: {text}\n", "f").plain["key"]
    assert found == value and type(found) is type(value)


def test_nan_is_a_number() -> None:
    assert math.isnan(strict_yaml.parse(".nan", "f").plain)


REFUSED = [
    ("a: 1\nb: 2\na: 3\n", 3, "stands twice, first in line 1"),
    ("a: {x: 1, x: 2}\n", 1, "stands twice"),
    ("a: !!python/object:os.system x\n", 1, "tags"),
    ("a: !!str 12\n", 1, "tags"),
    ("!!map {a: 1}\n", 1, "tags"),
    ("a: &x {b: 1}\nc:\n  <<: *x\n", 3, "merge keys"),
    ("a: *x\n", 1, "before its anchor"),
    ("a: &x [*x]\n", 1, "before its anchor"),
    ("a: 1\n---\nb: 2\n", 2, "second document"),
    ("? [a]\n: 1\n", 1, "plain word"),
    ("{[a]: 1}\n", 1, "plain word"),
    ("a: 1\n\tb: 2\n", 2, "not YAML"),
    ("a: [1, 2\n", 2, "not YAML"),
    ("a: b: c\n", 1, "not YAML"),
    ("a: '\n", 2, "not YAML"),
    ('a: "x\\0y"\n', 1, "control character U+0000"),
    ('a: "x\\e[31m"\n', 1, "control character U+001B"),
    ("a: x\x00y\n", 1, "control character U+0000"),
    ("a: x\x1b[2J\n", 1, "control character U+001B"),
    ("ok: 1\na: x\u2028y\n", 2, "control character U+2028"),
    ("a: x\u202ey\n", 1, "control character U+202E"),
    ("[1, 2]\n", 1, "mapping of keys"),
    ("just words\n", 1, "mapping of keys"),
    ("", 1, "mapping of keys"),
    ("# nothing\n", 1, "mapping of keys"),
    ("a: " + "[" * 40 + "]" * 40 + "\n", 1, "deeper than"),
    ("\n".join("  " * i + "a:" for i in range(40)), 31, "deeper than"),
]


@fault("H3", "doubled keys, times, tags, control characters, depth")
@pytest.mark.parametrize(("text", "line", "message"), REFUSED)
def test_what_is_not_plain_is_refused_with_its_line(tmp_path: Path, text: str, line: int, message: str) -> None:
    path = tmp_path / "f.yaml"
    path.write_bytes(text.encode())
    with pytest.raises(ConfigError) as caught:
        strict_yaml.load(path)
    assert message in render(caught.value)
    assert caught.value.where is not None and caught.value.where[:2] == (str(path), line)


def test_every_value_has_its_place(tmp_path: Path) -> None:
    path = tmp_path / "f.yaml"
    path.write_text("a:\n  b: 1\n  c: [x,\n    y]\n")
    data, places = strict_yaml.load(path)
    assert data == {"a": {"b": 1, "c": ["x", "y"]}}
    lines = {key: place.line for key, place in places.items()}
    assert lines == {(): 1, ("a",): 1, ("a", "b"): 2, ("a", "c"): 3, ("a", "c", 0): 3, ("a", "c", 1): 4}
    assert places[("a", "b")] == Place(str(path), 2, 3)


def test_a_few_aliases_are_fine_and_their_values_shared() -> None:
    assert strict_yaml.parse("a: &x {b: [1]}\nc: *x\n", "f").plain == {"a": {"b": [1]}, "c": {"b": [1]}}


@fault("H3", "an alias bomb")
def test_an_alias_bomb_is_refused_at_once() -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 10)]
    start = time.process_time()
    with pytest.raises(ConfigError, match="more than"):
        strict_yaml.parse("\n".join(lines), "f")
    assert time.process_time() - start < 1


def test_many_aliases_are_refused() -> None:
    with pytest.raises(ConfigError, match="aliases"):
        strict_yaml.parse("a: &a 1\nb: [" + "*a, " * 101 + "]\n", "f")


def test_a_large_file_is_refused_unread(tmp_path: Path) -> None:
    path = tmp_path / "f.yaml"
    path.write_bytes(b"a: 1\n" + b"#" * 10_000_000)
    with pytest.raises(ConfigError, match="larger than"):
        strict_yaml.load(path)


NONSENSE = ["[" * 999_999, "a: " + "{" * 900_000, "- " * 450_000, "? " * 450_000, "a: [" + "1, " * 330_000, "&a " * 300_000]


@fault("H3", "a megabyte of brackets")
@pytest.mark.parametrize("text", NONSENSE)
def test_a_megabyte_of_nonsense_is_refused_within_a_second(text: str) -> None:
    start = time.process_time()
    with pytest.raises(ConfigError):
        strict_yaml.parse(text, "f")
    assert time.process_time() - start < 1


@fault("H3", "memory of such files")
def test_nonsense_takes_less_than_200_mb(tmp_path: Path) -> None:
    program = """
import sys
from pathlib import Path
from fvlaunch.config import strict_yaml
from fvlaunch.errors import ConfigError
for path in sys.argv[1:]:
    try:
        strict_yaml.load(Path(path))
        print("accepted", path)
    except ConfigError:
        pass
print(next(line.split()[1] for line in open('/proc/self/status') if line.startswith('VmHWM')))
"""
    for number, text in enumerate(NONSENSE):
        (tmp_path / f"{number}.yaml").write_text(text)
    paths = map(str, sorted(tmp_path.iterdir()))
    done = subprocess.run([sys.executable, "-c", program, *paths], capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 200_000  # kilobytes


@pytest.mark.parametrize("raw", [b"a: \xff\n", "a: ä".encode("latin-1"), "a: 1".encode("utf-16")])
def test_what_is_not_utf8_is_refused(tmp_path: Path, raw: bytes) -> None:
    path = tmp_path / "f.yaml"
    path.write_bytes(raw)
    with pytest.raises(ConfigError, match="not UTF-8"):
        strict_yaml.load(path)


def test_a_byte_order_mark_and_windows_line_ends_are_fine(tmp_path: Path) -> None:
    path = tmp_path / "f.yaml"
    path.write_bytes(b"\xef\xbb\xbfa: 1\r\nb: x\r\n")
    assert strict_yaml.load(path)[0] == {"a": 1, "b": "x"}


@pytest.mark.parametrize("name", ["missing.yaml", ".", "/dev/zero", "a\0b.yaml"])
def test_what_cannot_be_read_is_a_config_error(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError):
        strict_yaml.load(tmp_path / name)


def test_both_parsers_of_pyyaml_give_the_same_tree(monkeypatch: pytest.MonkeyPatch) -> None:
    text = "\n".join(f"k{i}: {text}" for i, (text, _) in enumerate(SCALARS)) + "\nl: &a [1, {b: c}]\nm: *a\nn: |\n  two\n  lines\n"
    fast = strict_yaml.parse(text, "f")
    monkeypatch.setattr(strict_yaml, "_Loader", pyyaml.SafeLoader)
    slow = strict_yaml.parse(text, "f")
    assert repr(fast.plain) == repr(slow.plain) and fast.places == slow.places


_TRICKY = ["<<", "- a", "a: b", "#x", "a\nb\n", "\n", " a\n  b", "a \nb", "a\n\n", "---", "&a", "*a", "!x", *(text for text, _ in SCALARS)]
_TEXT = st.text(st.characters(exclude_categories=["Cc", "Cs", "Zl", "Zp", "Cf"]), max_size=20) | st.sampled_from(_TRICKY)
_PLAIN = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | _TEXT
_DATA = st.recursive(_PLAIN, lambda value: st.lists(value, max_size=4) | st.dictionaries(_TEXT, value, max_size=4), max_leaves=8)


@settings(max_examples=300, deadline=None)
@given(st.dictionaries(_TEXT, _DATA, max_size=4))
def test_what_is_written_reads_back_as_the_same(data: dict[str, object]) -> None:
    text = strict_yaml.dump(data)
    assert strict_yaml.parse(text, "f").plain == data


_FRAGMENTS = st.sampled_from(
    ["a: ", "b:", "- ", "\n", "  ", "[", "]", "{", "}", ",", "&x ", "*x", "<<: ", "!!str ", "? ", ": ", "|\n", ">", "'", '"', "\\x00", "#",
     "---", "...", "%YAML 1.1\n", "\t", "1e5", "no", "~", "\u00e9", "\x85", "0x", "@", "`", "1" * 5000]
)  # fmt: skip


@settings(max_examples=600, deadline=None)
@given(st.one_of(st.lists(_FRAGMENTS, max_size=40).map("".join), st.text(max_size=200)))
def test_any_text_parses_or_is_a_config_error(text: str) -> None:
    try:
        node = strict_yaml.parse(text, "f")
    except ConfigError as error:
        assert render(error).isprintable() or "\n" in render(error)
    else:
        assert len(node.places) <= strict_yaml.MAX_VALUES + 1


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=300))
def test_any_bytes_in_a_file_load_or_are_a_config_error(tmp_path_factory: pytest.TempPathFactory, raw: bytes) -> None:
    path = tmp_path_factory.mktemp("fuzz") / "f.yaml"
    path.write_bytes(raw)
    with contextlib.suppress(ConfigError):
        assert isinstance(strict_yaml.load(path)[0], dict)
