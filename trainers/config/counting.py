"""Owns how a number of things is written in a message: "1 sample", "2 samples". Must not know what they are."""

from __future__ import annotations


def counted(number: int, noun: str, nouns: str = "") -> str:
    """Return a number with its noun; `nouns` is the plural where that is not the noun and an s."""
    return f"{number} {noun if number == 1 else nouns or f'{noun}s'}"
