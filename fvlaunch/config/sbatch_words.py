"""Owns reading sbatch's options as people type them: `--gres=gpu:2`, `--gres gpu:2`, `-G 2`, `-G2`, `--gpus-per-n 2`. Pure.

sbatch itself reads them by getopt, and so must this: an option that is not understood here would reach sbatch uncounted. What the values
may be is sbatch_options.py's.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from .sbatch_options import FLAGS, KNOWN, MAYBE_FLAGS, REFUSED, SHORT, WITH_VALUE, OptionError

_NAMES = sorted(KNOWN | REFUSED.keys())
_VALUELESS = FLAGS | {"no-requeue", "parsable", "quiet", "requeue", "test-only", "verbose", "wait"}
_HOW = "after `--` write them as --option=value"


def read(words: Sequence[str]) -> dict[str, str | bool]:
    """Return options by their long names, True for one without a value; OptionError where a word is none, or is ambiguous."""
    left, found = list(words), dict[str, str | bool]()
    while left:
        word = left.pop(0)
        if match := re.fullmatch(r"--([A-Za-z][A-Za-z0-9_-]*)(?:=(.*))?", word, re.DOTALL):
            name = _whole(match[1])
            found[name] = match[2] if match[2] is not None else _next(name, left)
        elif match := re.fullmatch(r"-([A-Za-z])(.*)", word, re.DOTALL):
            name = _long(match[1], word)
            if match[2] and name in _VALUELESS:  # several letters behind one dash
                left.insert(0, f"-{match[2]}")
            found[name] = match[2] if match[2] and name not in _VALUELESS else _next(name, left)
        else:
            raise OptionError(f"{word!r} is not an sbatch option", _HOW)
    return found


def _long(letter: str, word: str) -> str:
    if letter not in SHORT:
        raise OptionError(f"{word!r} is not an sbatch option", _HOW)
    return SHORT[letter]


def _whole(name: str) -> str:
    """Return the name that an abbreviation means; one that is no option's is a plugin's own."""
    meant = [name] if name in _NAMES else [known for known in _NAMES if known.startswith(name)]
    if len(meant) > 1:
        raise OptionError(f"--{name} may be {' or '.join(f'--{one}' for one in meant[:4])}", "write it in full")
    return meant[0] if meant else name


def _next(name: str, left: list[str]) -> str | bool:
    """Take the value that is a word of its own. A plugin's option may have one or none: a word that is no option then is its value."""
    if not left or name in _VALUELESS | MAYBE_FLAGS or (name not in WITH_VALUE and left[0].startswith("-")):
        return True
    return left.pop(0)
