"""Owns what a single value may look like: names, times, text without control characters, and `${...}` in it. Pure."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from pydantic import TypeAdapter, ValidationError

from ..errors import Problem
from .strict_yaml import KeyPath, Node

CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ufeff\ud800-\udfff]")
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,79}")
WORD = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+@-]*(,[A-Za-z0-9_][A-Za-z0-9_.+@-]*)*")
ENV_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
SECRET_NAME = re.compile(r"(^|_)(TOKEN|SECRET|PASSWORD|PASSWD|API_KEY|SECRET_KEY|ACCESS_KEY)$")
_VARIABLE = re.compile(r"\$\{([^}]*)(\}?)")
_PATH_NAME = re.compile(r"paths\.([A-Za-z0-9_-]+)")
_CLOCK = re.compile(r"(\d+):(\d{1,2})(?::(\d{1,2}))?")
_DAYS = re.compile(r"(\d+)-(\d{1,2})(?::(\d{1,2}))?(?::(\d{1,2}))?")

BOOLEAN_HINT = "true or false; yes and no, on and off, 1 and 0 mean the same"
TIME_HINT = 'write "24:00:00", "1-12:00:00" (days first) or a number of minutes'


def seconds(time: str | int) -> int | None:
    """Return a time limit's seconds, as sbatch reads it: minutes, M:S, H:M:S, D-H, D-H:M, D-H:M:S; None: UNLIMITED. Else ValueError."""
    text = str(time).strip()
    if text.upper() in ("UNLIMITED", "INFINITE"):
        return None
    if isinstance(time, bool) or len(text) > 20 or not text.isascii():
        raise ValueError(f"{text[:40]!r} is not a time")
    if text.isdigit():
        total = int(text) * 60
    elif match := _DAYS.fullmatch(text):
        days, hours, minutes, secs = (int(part or 0) for part in match.groups())
        total = _clock(text, hours, minutes, secs) + 86400 * days
    elif match := _CLOCK.fullmatch(text):
        first, second, third = match.groups()
        total = _clock(text, int(first), int(second), int(third)) if third else _clock(text, 0, 0, int(second)) + 60 * int(first)
    else:
        raise ValueError(f"{text[:40]!r} is not a time")
    if total <= 0:
        raise ValueError("a time limit must be above zero")
    return total


def time_text(time: str | int) -> str:
    """Return seconds as sbatch takes a time, in one form for all: D-HH:MM:SS or HH:MM:SS."""
    total = seconds(time)
    if total is None:
        return "UNLIMITED"
    days, rest = divmod(total, 86400)
    clock = f"{rest // 3600:02d}:{rest // 60 % 60:02d}:{rest % 60:02d}"
    return f"{days}-{clock}" if days else clock


def _clock(text: str, hours: int, minutes: int, secs: int) -> int:
    if minutes > 59 or secs > 59:
        raise ValueError(f"{text!r}: minutes and seconds end at 59")
    return hours * 3600 + minutes * 60 + secs


def boolean(value: Any) -> bool | None:
    """Return what a value means as yes or no, None where it is neither. It is pydantic's reading, so that no switch has another one."""
    try:
        return _BOOLEAN.validate_python(value)
    except ValidationError:
        return None


_BOOLEAN = TypeAdapter(bool)


def check_run_name(name: str) -> None:
    """Raise ValueError unless the text can name a run: a folder, a job, and a word that is not a job id nor `last`."""
    if not NAME.fullmatch(name):
        raise ValueError(f"{name[:100]!r} cannot name a run: letters, digits, `.`, `_` and `-`, at most 80, the first a letter or digit")
    if name == "last" or name.isdigit():
        raise ValueError(f"{name!r} cannot name a run: `last` and numbers mean the newest run and a job id")


def control_problems(node: Node, root: str, multiline: Callable[[KeyPath], bool] = lambda path: False) -> list[Problem]:
    """Return a control character in any value or key; line ends are allowed where `multiline` says so."""
    found = []
    for path, part in node.walk():
        texts = [text for text in (part.value, path[-1] if path else None) if isinstance(text, str)]
        for text in texts:
            bad = CONTROL.search(text.replace("\n", "").replace("\t", "") if multiline(path) else text)
            if bad:
                what = {"\n": "a line break", "\t": "a tab"}.get(bad[0], f"the control character U+{ord(bad[0]):04X}")
                found.append(Problem(f"{what} is not allowed in this value", part.place, dotted(path, root), "write it in one line"))
    return found


def dotted(path: KeyPath, root: str = "") -> str:
    """Return a path as --set takes it: "train.data.path"; list items as "[0]"."""
    text = root
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text


class Substitution:
    """One pass of `${paths.x}`, and of `${USER}` where an environment is given. What it puts in is never read again."""

    def __init__(self, paths: Mapping[str, str], environment: Mapping[str, str] | None, root: str) -> None:
        self.paths, self.environment, self.root = paths, environment, root
        self.problems: list[Problem] = []

    def apply(self, node: Node, path: KeyPath = ()) -> Node:
        """Return the tree with every string substituted, keys too: folders are keys of `data.path`."""
        if isinstance(node.value, dict):
            return replace(node, value={self._text(key, item, path): self.apply(item, (*path, key)) for key, item in node.value.items()})
        if isinstance(node.value, list):
            return replace(node, value=[self.apply(item, (*path, i)) for i, item in enumerate(node.value)])
        return replace(node, value=self._text(node.value, node, path)) if isinstance(node.value, str) else node

    def _text(self, text: str, node: Node, path: KeyPath) -> str:
        if "${" not in text:
            return text
        shell = self.environment is not None and path == ("setup",)
        return _VARIABLE.sub(lambda match: self._one(match, node, path, shell), text)

    def _one(self, match: re.Match[str], node: Node, path: KeyPath, shell: bool) -> str:
        """Return what one `${...}` stands for. In `setup`, a shell script, only paths are ours; the shell has the rest."""
        name, closed = match.groups()
        is_path = _PATH_NAME.fullmatch(name)
        if shell and not (closed and name.startswith("paths.")):
            return match[0]
        if not closed:
            return self._wrong("`${` without a `}`", "write ${paths.NAME}", match, node, path)
        if is_path and is_path[1] in self.paths:
            value = self.paths[is_path[1]]
            if shell and shlex.quote(value) != value:
                return self._wrong(f"${{{name}}} holds characters that a shell reads: {value!r}", "use a plain path", match, node, path)
            return value
        if self.environment is not None and ENV_NAME.fullmatch(name) and name in self.environment:
            return self.environment[name]
        return self._unknown(name, match, node, path)

    def _unknown(self, name: str, match: re.Match[str], node: Node, path: KeyPath) -> str:
        known = ", ".join(f"${{paths.{key}}}" for key in self.paths) or "no paths"
        if self.environment is None and ENV_NAME.fullmatch(name):
            hint = f"environment variables are read in cluster files only; known here: {known}"
        elif ENV_NAME.fullmatch(name):
            hint = f"the environment variable {name} is not set; known: {known}"
        elif path[:1] == ("paths",):
            hint = "paths may hold environment variables, not each other"
        else:
            hint = f"known: {known}"
        return self._wrong(f"unknown name ${{{name}}}", hint, match, node, path)

    def _wrong(self, message: str, hint: str, match: re.Match[str], node: Node, path: KeyPath) -> str:
        self.problems.append(Problem(message, node.place, dotted(path, self.root), hint))
        return match[0]
