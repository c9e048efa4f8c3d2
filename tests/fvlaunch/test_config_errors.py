"""How errors look, and that nothing in them reaches a terminal as a command."""

from __future__ import annotations

import copy
import pickle
import re

import pytest

from fvlaunch import errors
from fvlaunch.errors import ConfigError, FvlaunchError, Place, Problem, SchedulerUnreachable, render


def test_an_error_says_what_where_and_what_to_do() -> None:
    error = FvlaunchError("unknown key 'a'", where=Place("r.yaml", 7, 3), key="train.a", hint="did you mean b?")
    assert render(error) == "error: unknown key 'a'\n  --> r.yaml:7: train.a\nhint: did you mean b?"
    assert str(error) == render(error)


def test_many_problems_are_printed_at_once() -> None:
    error = ConfigError([Problem("one", Place("--set a=b")), Problem("two", hint="three")])
    assert render(error) == "error: one\n  --> --set a=b\n\nerror: two\nhint: three"


@pytest.mark.parametrize("kind", [FvlaunchError, *FvlaunchError.__subclasses__()])
def test_exit_codes_are_those_of_the_command_line(kind: type[FvlaunchError]) -> None:
    expected = {"SchedulerUnreachable": 3, "InternalError": 2, "Interrupted": 130}.get(kind.__name__, 1)
    assert kind.exit_code == expected


def test_the_tree_at_the_top_of_the_module_is_the_real_one() -> None:
    drawn = re.findall(r"^[├└─ ]*([A-Z]\w+) +(\d+)  ", errors.__doc__ or "", re.MULTILINE)
    kinds = (FvlaunchError, *FvlaunchError.__subclasses__())
    assert dict(drawn) == {kind.__name__: str(kind.exit_code) for kind in kinds}


def test_terminal_commands_in_a_value_are_shown_not_obeyed() -> None:
    text = render(FvlaunchError("bad \x1b[2J\u202e name\r", hint="a\nb"))
    assert text == "error: bad \\x1b[2J\\u202e name\\r\nhint: a\nb"


def test_errors_survive_copying_and_pickling() -> None:
    for error in (ConfigError([Problem("one", Place("f", 1))]), SchedulerUnreachable("x", hint="y")):
        for again in (pickle.loads(pickle.dumps(error)), copy.copy(error)):
            assert type(again) is type(error) and again.problems == error.problems and again.exit_code == error.exit_code
