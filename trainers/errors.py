"""Owns the errors that a person can cause, and how an error is shortened. Anything else that escapes a rank is a crash."""

from __future__ import annotations


class UserError(Exception):
    """Wrong input that no restart mends: printed in one line with a hint, and the rank exits with 76."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message, self.hint = message, hint

    def __str__(self) -> str:
        return f"{self.message}\nhint: {self.hint}" if self.hint else self.message


class NodeError(Exception):
    """What is wrong with this node and not with the run: another node may do. The rank exits with 77."""


def first_line(error: BaseException) -> str:
    """Return the first line of what an error says, or its type's name where it says nothing: for a message of one line."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]
