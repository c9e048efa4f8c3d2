"""Owns what may have happened to a file since it was written: cut, flipped, zeroed, of wrong types, another thing under its name.

Every mutation follows from a kind and a seed, so that a failing one can be made again. Must not know what the file is for.
"""

from __future__ import annotations

import contextlib
import copy
import json
import os
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

Draw = random.Random
LARGE = 100 << 20
"""Bytes of a file that is much too large."""


# --- its bytes


def _truncated(content: bytes, draw: Draw) -> bytes:
    return content[: draw.randrange(max(1, len(content)))]


def _flipped(content: bytes, draw: Draw) -> bytes:
    if not content:
        return b"\x01"
    changed = bytearray(content)
    for _ in range(draw.choice([1, 1, 1, 1, 2, 8])):
        changed[draw.randrange(len(changed))] ^= 1 << draw.randrange(8)
    return bytes(changed)


def _flipped_early(content: bytes, draw: Draw) -> bytes:
    """Near the beginning, where formats keep what they are and how long."""
    return _flipped(content[:512], draw) + content[512:]


def _flipped_late(content: bytes, draw: Draw) -> bytes:
    """Near the end, where parquet and MP4 may keep their index."""
    return content[:-512] + _flipped(content[-512:], draw)


def _zeroed(content: bytes, draw: Draw) -> bytes:
    begin = draw.choice([0, draw.randrange(max(1, len(content)))])
    end = draw.choice([len(content), min(len(content), begin + draw.choice([1, 16, 4096]))])
    return content[:begin] + bytes(end - begin) + content[end:]


def _spliced(content: bytes, draw: Draw) -> bytes:
    place = draw.randrange(len(content) + 1)
    return content[:place] + draw.randbytes(draw.choice([1, 4, 64, 1000])) + content[draw.choice([place, min(len(content), place + 64)]) :]


def _doubled(content: bytes, draw: Draw) -> bytes:
    return content + content


def _without_a_part(content: bytes, draw: Draw) -> bytes:
    begin = draw.randrange(max(1, len(content)))
    return content[:begin] + content[begin + draw.choice([1, 7, 100, 4096]) :]


def _swapped(content: bytes, draw: Draw) -> bytes:
    """Two blocks in each other's place, as a broken disk returns them."""
    size = max(1, min(512, len(content) // 4))
    a, b = sorted((draw.randrange(max(1, len(content) - size)), draw.randrange(max(1, len(content) - size))))
    if b < a + size:
        return content
    return content[:a] + content[b : b + size] + content[a + size : b] + content[a : a + size] + content[b + size :]


def _number_run_wild(content: bytes, draw: Draw) -> bytes:
    """Four or eight bytes as a counter gone wrong: a size, an offset, a length."""
    value = draw.choice(
        [b"\xff" * 4, b"\x7f\xff\xff\xff", b"\xff\xff\xff\x7f", b"\x00" * 4, b"\xff" * 8, b"\x80\x00\x00\x00", b"\x00\x00\x10\x00"]
    )
    place = draw.randrange(max(1, len(content) - 8))
    return content[:place] + value + content[place + len(value) :]


def _emptied(_content: bytes, _draw: Draw) -> bytes:
    return b""


def _random(content: bytes, draw: Draw) -> bytes:
    return draw.randbytes(min(len(content), 10_000) or 100)


BYTES: dict[str, Callable[[bytes, Draw], bytes]] = {
    "truncated": _truncated, "flipped": _flipped, "flipped-early": _flipped_early, "flipped-late": _flipped_late, "zeroed": _zeroed,
    "spliced": _spliced, "doubled": _doubled, "without-a-part": _without_a_part, "swapped": _swapped, "number-run-wild": _number_run_wild,
    "emptied": _emptied, "random": _random,
}  # fmt: skip


# --- its values

LONG_NUMBER = 10**30
WORDS: list[Any] = [
    None, True, False, 0, -1, 1, 7, 2**31, 2**63, LONG_NUMBER, -LONG_NUMBER, 1e308, -1e308, float("nan"), float("inf"), -float("inf"), 0.5,
    "", "x", "7", "-1", "nan", "\x00", "a\x00b", "\ud800", "\udcff", "../../x", "/", "/etc/passwd", "-rf", "a\nb", "\x1b[2J", "%s",
    "x" * 70_000,
    [], [[]], {}, {"a": 1}, [None], ["x"], [1, 2], {"": None}, [{}], "finished", "cancelled", "local", "slurm", "run", "stop",
]  # fmt: skip
"""What stands where another value belongs."""


def _deep(draw: Draw) -> Any:
    value: Any = 1
    for _ in range(draw.choice([50, 400, 800])):
        value = [value] if draw.random() < 0.5 else {"a": value}
    return value


def _places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Return the way to every value below one."""
    keys = value.keys() if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    return [way for key in keys for way in [(*path, key), *_places(value[key], (*path, key))]]


def with_wrong_value(value: Any, draw: Draw) -> Any:
    """Return a copy of a JSON value in which something has another type, is missing, has another name, or is too much."""
    value = copy.deepcopy(value)
    places = _places(value)
    if not places or draw.random() < 0.05:
        return draw.choice(WORDS)
    for _ in range(draw.choice([1, 1, 1, 2, 3])):
        *way, last = draw.choice(places)
        try:
            holder = value
            for key in way:
                holder = holder[key]
            match draw.choice(["word", "word", "word", "gone", "renamed", "wrapped", "deep", "sibling"]):
                case "word":
                    holder[last] = draw.choice(WORDS)
                case "gone":
                    del holder[last]
                case "renamed" if isinstance(holder, dict):
                    holder[draw.choice([str(last) + "x", str(last)[:-1], str(last).upper(), ""])] = holder.pop(last)
                case "wrapped":
                    holder[last] = draw.choice([[holder[last]], {"value": holder[last]}, str(holder[last])])
                case "deep":
                    holder[last] = _deep(draw)
                case _:
                    other = value
                    for key in draw.choice(places):
                        other = other[key]
                    holder[last] = copy.deepcopy(other)
        except (KeyError, IndexError, TypeError, RecursionError):  # an earlier change took the place away, or made it too deep to copy
            continue
    return value


def _json_value(content: bytes, draw: Draw) -> bytes:
    try:
        value = json.loads(content)
    except ValueError:
        return _flipped(content, draw)
    return (json.dumps(with_wrong_value(value, draw), indent=draw.choice([None, 1])) + draw.choice(["", "\n"])).encode()


def _json_line(content: bytes, draw: Draw) -> bytes:
    lines = content.split(b"\n")
    place = draw.randrange(len(lines))
    lines[place] = _json_value(lines[place], draw).replace(b"\n", b" ") if lines[place] else json.dumps(draw.choice(WORDS)).encode()
    return b"\n".join(lines)


def _lines_in_disorder(content: bytes, draw: Draw) -> bytes:
    lines = content.splitlines(keepends=True)
    match draw.choice(["shuffled", "one-gone", "one-twice"]):
        case "shuffled":
            draw.shuffle(lines)
        case "one-gone" if lines:
            del lines[draw.randrange(len(lines))]
        case _ if lines:
            lines.insert(draw.randrange(len(lines)), draw.choice(lines))
    return b"".join(lines)


def _deep_json(_content: bytes, draw: Draw) -> bytes:
    return draw.choice([b"[", b'{"a":', b'{"event": [']) * draw.choice([500, 100_000])


ODD_WORDS = [
    b"&a", b"*a", b"!!python/object:os.system", b"~", b"[", b"{", b"]", b"}", b"|", b">", b"-", b"?", b":", b"#", b"'", b'"', b"%", b"@",
    b"`", b"\t", b"<<:",
    b"---", b"...", b"1e999", b"0x7fffffffffffffff", b"12:30:00", b"no", b"\xef\xbb\xbf", b"\xff", b"\x00", b"\xe2\x80\xa8",
    b"9" * 5000,
]  # fmt: skip


def _token(content: bytes, draw: Draw) -> bytes:
    """A word of a text in the place of another, or something that YAML or JSON reads otherwise than one would think."""
    words = content.split(b" ")
    for _ in range(draw.choice([1, 1, 2, 5])):
        words[draw.randrange(len(words))] = draw.choice([*ODD_WORDS, draw.choice(words)])
    return b" ".join(words)


TEXTS = {
    "json-value": _json_value,
    "json-line": _json_line,
    "lines-in-disorder": _lines_in_disorder,
    "deep-json": _deep_json,
    "token": _token,
}


# --- another thing under its name


def _as_folder(path: Path, _draw: Draw) -> None:
    path.mkdir()


def _as_full_folder(path: Path, _draw: Draw) -> None:
    path.mkdir()
    (path / "x").write_text("x")


def _as_dangling_link(path: Path, _draw: Draw) -> None:
    path.symlink_to("nowhere/at/all")


def _as_loop(path: Path, _draw: Draw) -> None:
    path.symlink_to(path.name)


def _as_fifo(path: Path, _draw: Draw) -> None:
    os.mkfifo(path)


def _as_device(path: Path, draw: Draw) -> None:
    path.symlink_to(draw.choice(["/dev/zero", "/dev/null", "/proc/self/mem", "/dev/full", "/proc/self/cmdline"]))


def _as_large(path: Path, draw: Draw) -> None:
    """100 MB: zeros, which take no space, or brackets."""
    if draw.random() < 0.9:
        with path.open("wb") as file:
            file.truncate(LARGE)
    else:
        path.write_bytes(b"[" * LARGE)


def _as_unreadable(path: Path, _draw: Draw) -> None:
    path.write_bytes(b"{}")
    path.chmod(0)


def _as_nothing(_path: Path, _draw: Draw) -> None:
    """It is gone."""


THINGS = {
    "a-folder": _as_folder, "a-full-folder": _as_full_folder, "a-dangling-link": _as_dangling_link, "a-loop": _as_loop, "a-fifo": _as_fifo,
    "a-device": _as_device, "large": _as_large, "unreadable": _as_unreadable, "missing": _as_nothing,
}  # fmt: skip

BINARY = (*BYTES, *THINGS)
"""Kinds for files that are no text."""
KINDS = (*BYTES, *TEXTS, *THINGS)


def mutated(content: bytes, kind: str, draw: Draw) -> bytes:
    """Return a file's bytes as something of that kind leaves them."""
    return (BYTES | TEXTS)[kind](content, draw)


def mutate(path: Path, kind: str, draw: Draw) -> None:
    """Change a file in place, or put something else under its name."""
    if kind in THINGS:
        path.unlink(missing_ok=True)
        THINGS[kind](path, draw)
    else:
        path.write_bytes(mutated(path.read_bytes(), kind, draw))


@contextlib.contextmanager
def damaged(path: Path, kind: str, draw: Draw) -> Iterator[None]:
    """Mutate a file, and put it back as it was."""
    before = path.read_bytes()
    times = path.stat()
    try:
        mutate(path, kind, draw)
        yield
    finally:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(before)
        os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
